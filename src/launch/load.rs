// SPDX-License-Identifier: Apache-2.0
//! Bytes of files into guest memory.

use std::fs::File;
use std::io::Read;

use nix::errno::Errno;

use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::dtb::Seeds;
use crate::image::Images;
use crate::memory::GuestMemory;
use crate::plan::LaunchPlan;

const RANDOM: &str = "/dev/urandom";

kinds! {
    NO_SEEDS: Error "load-no-seeds" in Dtb {
        "there is no randomness for the guest's seeds",
        cause: "/dev/urandom is missing, or SELinux denies it",
        cure: "`ls -lZ /dev/urandom`; look for avc: denied in dmesg",
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
        let room = memory.bytes_mut(segment.base, segment.file_size)?;
        images.kernel.read(segment.file_offset, room)?;
    }
    if let Some(branch) = plan.kernel.branch {
        let bytes = branch.to_le_bytes();
        memory
            .bytes_mut(plan.main().base, bytes.len() as u64)?
            .copy_from_slice(&bytes);
    }
    Ok(())
}

pub(super) fn initrd(
    images: &Images,
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    let (Some(planned), Some(open)) = (&plan.initrd, &images.initrd) else {
        return Ok(());
    };
    let room = memory.bytes_mut(planned.base, planned.size)?;
    open.read_at(Step::Initrd, 0, room)
}

/// The files that regions begin with. Main memory is the plan's first region and has none.
pub(super) fn regions(
    images: &Images,
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<(), Diagnostic> {
    for (planned, open) in plan.regions.iter().skip(1).zip(&images.regions) {
        if let (Some((_, size)), Some(open)) = (&planned.file, open) {
            let room = memory.bytes_mut(planned.base, *size)?;
            open.read_at(Step::Memory, 0, room)?;
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
    let (mut rng, mut kaslr) = ([0; 32], [0; 8]);
    File::open(RANDOM)
        .and_then(|mut file| {
            file.read_exact(&mut rng)?;
            file.read_exact(&mut kaslr)
        })
        .map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            NO_SEEDS
                .case(format!("reading {RANDOM} for the guest's seeds"))
                .errno(errno)
        })?;
    Ok(Seeds {
        rng,
        kaslr: u64::from_ne_bytes(kaslr),
    })
}
