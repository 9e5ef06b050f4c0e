// SPDX-License-Identifier: Apache-2.0
//! Bytes of files into guest memory.

use std::fs::File;
use std::io::Read;

use nix::errno::Errno;

use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::dtb::Seeds;
use crate::image::{Images, OpenFile};
use crate::memory::GuestMemory;
use crate::plan::{LaunchPlan, Range};

const RANDOM: &str = "/dev/urandom";

kinds! {
    NO_SEEDS: Error "load-no-seeds" in Dtb {
        "there is no randomness for the guest's seeds",
        cause: "/dev/urandom is missing, or SELinux denies it",
        cure: "check `ls -lZ /dev/urandom`; look for avc: denied in dmesg",
    }
    DTB_TOO_LONG: Error "load-dtb-too-long" in Dtb {
        "the devicetree is longer than was planned",
        cause: "this is a bug of gunyahd",
        cure: "report it, with the VM's file and devicetree",
    }
}

/// The kernel, and the branch to its entry where the plan has one.
pub(super) fn kernel(
    images: &Images,
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    for segment in &plan.kernel.segments {
        let (base, size, from) = (segment.address, segment.file_size, segment.file_offset);
        match images.info.kernel.gzip {
            true => images.kernel.read(from, memory.bytes_mut(base, size)?)?,
            false => memory.fill(base, size, |offset, room| {
                images.kernel.read(from.saturating_add(offset), room)
            })?,
        }
    }
    if let Some(branch) = plan.kernel.branch {
        let bytes = branch.to_le_bytes();
        memory.bytes_mut(plan.main().base, bytes.len() as u64)?.copy_from_slice(&bytes);
    }
    Ok(())
}

/// All of a file, for `step`.
pub(super) fn file(
    open: &OpenFile,
    step: Step,
    range: Range,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    memory.fill(range.base, range.size, |offset, room| open.read_at(step, offset, room))
}

/// The files that regions begin with. Main memory is the plan's first region and has none.
pub(super) fn regions(
    images: &Images,
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    for (planned, open) in plan.regions.iter().skip(1).zip(&images.regions) {
        if let (Some((_, size)), Some(open)) = (&planned.file, open) {
            file(open, Step::Memory, Range { base: planned.base, size: *size }, memory)?;
        }
    }
    Ok(())
}

pub(super) fn dtb(
    blob: &[u8],
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    let room = memory.bytes_mut(plan.dtb.base, plan.dtb.size)?;
    let Some(start) = room.get_mut(..blob.len()) else {
        let (size, planned) = (blob.len(), plan.dtb.size);
        let what = format!("the devicetree has {size} bytes, {planned} were planned");
        return Err(DTB_TOO_LONG.case(what));
    };
    start.copy_from_slice(blob);
    Ok(())
}

pub(super) fn seeds() -> Result<Seeds, Diagnostic> {
    seeds_from(RANDOM)
}

fn seeds_from(source: &str) -> Result<Seeds, Diagnostic> {
    let (mut rng, mut kaslr) = ([0; 32], [0; 8]);
    File::open(source)
        .and_then(|mut file| {
            file.read_exact(&mut rng)?;
            file.read_exact(&mut kaslr)
        })
        .map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            NO_SEEDS.case(format!("reading {source} for the guest's seeds")).errno(errno)
        })?;
    Ok(Seeds { rng, kaslr: u64::from_ne_bytes(kaslr) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;
    use crate::image::{arm64, ImageInfo, KernelInfo, KernelLayout};
    use crate::memory::{choose, Pool};
    use crate::plan::{plan, Host};

    #[test]
    fn a_devicetree_stays_in_its_range() {
        let text = r#"{"name": "vm", "kernel": {"path": "/Image"}, "memory": {"size": "4M", "backing": "base"}}"#;
        let images = ImageInfo {
            kernel: KernelInfo {
                gzip: false,
                size: 4096,
                signed: false,
                layout: KernelLayout::Image(arm64::Header { text_offset: 0, image_size: 4096 }),
            },
            initrd: None,
            regions: Vec::new(),
        };
        let host = Host::PAGES_4K;
        let config = parse(Path::new("vm.json"), text).unwrap();
        let plan = plan(&config, &images, 4096, &host).unwrap();
        let choice = choose(&plan, &host, Pool::read_for, None).unwrap();
        let (mut memory, _) = GuestMemory::allocate(&plan, &choice, &host, None, 1).unwrap();
        let size = usize::try_from(plan.dtb.size).unwrap();
        dtb(&vec![1; size], &plan, &mut memory).unwrap();
        assert_eq!(memory.bytes_mut(plan.dtb.base, 1).unwrap(), [1]);
        let long = dtb(&vec![1; size + 1], &plan, &mut memory).unwrap_err();
        assert_eq!(long.name, "load-dtb-too-long");
    }

    #[test]
    fn seeds_are_random_or_an_error() {
        let (one, other) = (seeds().unwrap(), seeds().unwrap());
        assert_ne!(one.rng, other.rng);
        let none = seeds_from("/no/such/device").map(|_| ()).unwrap_err();
        assert_eq!(none.name, "load-no-seeds");
    }
}
