// SPDX-License-Identifier: Apache-2.0
//! Options that the kernel was built with.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use gunyah::Dialect;

use super::{pages, Findings};
use crate::check::Report;
use crate::diagnostic::kinds;
use crate::image::gzip;
use crate::text::failure;

/// There where the kernel has CONFIG_IKCONFIG_PROC, as every GKI has.
const PROC_CONFIG: &str = "/proc/config.gz";

/// A kernel's has a quarter of that.
const LONGEST: u64 = 4 << 20;

kinds! {
    OPTION: Error "kernel-option" in Device {
        "the kernel was built without an option that is needed here",
        cure: "turn it on in the kernel's build; what a GKI lacks no vendor can add: docs/porting.md, step 1, says what to do without",
    }
}

/// When an option is needed.
enum Needed {
    /// Always.
    Always,
    /// Where no driver answers, it says why.
    WithoutDriver,
    /// Where a VM takes pages of a pool, and no others.
    Pool,
    /// Where the driver takes transparent huge pages alone.
    Transparent,
    /// Where a VM has network devices.
    Nets,
    /// Where a VM has a socket device.
    Vsock,
}

/// Options, and what for.
const OPTIONS: &[(&str, Needed, &str)] = &[
    ("GUNYAH", Needed::WithoutDriver, "the driver"),
    ("HUGETLBFS", Needed::Pool, "\"backing\": \"hugetlb\""),
    ("TRANSPARENT_HUGEPAGE", Needed::Transparent, "\"backing\": \"thp\""),
    ("SHMEM", Needed::Transparent, "guest memory"),
    ("SECCOMP_FILTER", Needed::Always, "the confinement of workers"),
    ("TUN", Needed::Nets, "network devices"),
    ("VHOST_VSOCK", Needed::Vsock, "vsock devices"),
];

/// Looks for what this driver and these VMs need.
pub(super) fn options(
    file: Option<&Path>,
    dialect: Option<Dialect>,
    report: &Report,
    all: &mut Findings,
) {
    let path = file.unwrap_or(Path::new(PROC_CONFIG));
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => {
            return all
                .note("kernel", format!("its options cannot be read: {}: {why}", path.display()));
        }
    };
    let is_on = |option: &str| {
        let start = format!("CONFIG_{option}=");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.is_some_and(|value| value == "y" || value == "m")
    };
    let (mut on, mut spared) = (Vec::new(), Vec::new());
    for (option, needed, what) in OPTIONS {
        let needed = match needed {
            Needed::Always => true,
            Needed::WithoutDriver => dialect.is_none(),
            Needed::Pool => !pages::can_do_without_pools(report),
            Needed::Transparent => dialect.is_some_and(Dialect::pages_on_demand),
            Needed::Nets => report.vms.iter().any(|vm| !vm.config.nets.is_empty()),
            Needed::Vsock => report.vms.iter().any(|vm| vm.config.vsock.is_some()),
        };
        match (is_on(option), needed) {
            (true, _) => on.push(*option),
            (false, true) => {
                all.bad(OPTION.case(format!("CONFIG_{option} is off, which {what} needs")));
            }
            (false, false) => spared.push(format!("{option} ({what})")),
        }
    }
    all.good("kernel", format!("it has {}", on.join(", ")));
    if !spared.is_empty() {
        all.note("kernel", format!("it has not, and these VMs do not need: {}", spared.join(", ")));
    }
}

/// A kernel's options as text.
fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut bytes))
        .map_err(|error| failure(&error))?;
    let text = match gzip::is_gzip(&bytes) {
        true => gzip::unpacked(&bytes, LONGEST).map_err(|fault| fault.what.clone())?,
        false => bytes,
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}
