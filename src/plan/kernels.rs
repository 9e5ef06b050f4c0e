// SPDX-License-Identifier: Apache-2.0
//! What the kernel found, by its driver's dialect, can do of what a file asks; and what `auto` is there.

use gunyah::Dialect;

use super::{Host, SLOTTED_FROM};
use crate::config::{Access, Backing, Scheduling, VmConfig};
use crate::diagnostic::{kinds, Diagnostic, Kind};
use crate::list::Listed;

const BY_FAULT: &str =
    "since android15-6.6 a guest gets its memory page by page in VCPU_RUN, which only proxy-scheduled vCPUs call: others abort at their first access";
const PROXY: &str = "leave vcpus.scheduling out, or set it to \"proxy\"";

kinds! {
    UNWANTED: Error "plan-kernel-unwanted" in Plan {
        "the file does not name this kernel among its `kernels`",
        cause: "the VM was made for other kernels",
        cure: "use a file for this kernel, or add it to `kernels` once `gunyahd check --kernel` finds nothing wrong",
    }
    BY_HYPERVISOR: Error "plan-hypervisor-scheduling" in Plan {
        "the hypervisor cannot schedule a VM on this kernel",
        cause: BY_FAULT,
        cure: PROXY,
    }
    NO_VCPUS: Error "plan-no-vcpus" in Plan {
        "the file asks for what takes vCPUs, and the driver has none",
        cause: "the kernel has only the first part of the driver: VM_ADD_FUNCTION is ENOTTY, and the hypervisor schedules",
        cure: "use a kernel with CONFIG_GUNYAH_VCPU, or leave the key out",
    }
    // Seen (facts of the open-source resource manager, debug and production).
    DEADLY_STOP: Warning "plan-hypervisor-stop" in Plan {
        "the hypervisor schedules this VM: stopping it can take the resource manager down",
        cause: "the open-source resource manager crashes when such a VM is stopped, closed or reset before its guest has ended; then every later START hangs until the host reboots",
        cure: PROXY,
    }
    HUGETLB: Error "plan-hugetlb" in Plan {
        "this kernel does not take hugetlb pages for a guest's memory",
        cause: "since android15-6.6 the driver takes only swap-backed pages: the guest's first access to another page would fail with EIO",
        cure: "leave `backing` out, or use \"thp\"",
    }
    RESERVE: Error "plan-reserve" in Plan {
        "this kernel does not get a guest's memory from the reserve",
        cause: "up to android14-6.1 a VM's last close returns before its pages are back, and nothing tells when a folio may be given again",
        cure: "leave `backing` out: pages of the hugetlb pool are as good there",
    }
    ALL_SHARED: Error "plan-main-shared" in Plan {
        "main memory is shared, but this kernel takes only lent memory",
        cause: "since android15-6.6 shared pages are never executable, and with a shared devicetree the resource manager provides no memory at all (ENODEV at every fault)",
        cure: "leave memory.access out, or use \"lend\"",
    }
    CANNOT_LEND: Error "plan-cannot-lend" in Plan {
        "this kernel cannot lend memory",
        cause: "only Android's drivers have VM_ANDROID_LEND_USER_MEM",
        cure: "use \"access\": \"auto\", which lends where the driver can, or \"share\"",
    }
    NO_FIRMWARE: Error "plan-no-firmware" in Plan {
        "this kernel cannot start a VM in firmware",
        cause: "only Android's drivers have VM_ANDROID_SET_FW_CONFIG",
        cure: "leave `firmware` out, or use a kernel with Android's driver",
    }
    FIRMWARE_SHARED: Error "plan-firmware-shared" in Plan {
        "a VM with firmware has shared main memory",
        cause: "the firmware protects a VM whose memory the host cannot see",
        cure: "leave memory.access out, or use \"lend\"",
    }
    SHARED: Warning "plan-shared-memory" in Plan {
        "main memory is shared",
        cause: "a production resource manager takes only lent memory, and START answers ENODEV",
        cure: "use \"access\": \"auto\", which lends wherever the driver can",
    }
}

/// Everything that `dialect` cannot do of what `config` asks. It takes no images, so that a launch finds
/// it before it opens any.
///
/// # Errors
/// All of it, each at its key. What is good is good with the warnings returned.
pub fn fits(config: &VmConfig, dialect: Dialect) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut add = |kind: &Kind, what: String, key: &str| {
        found.push(kind.case(what).at(config.place(key)));
    };
    if !config.kernels.contains(&dialect) {
        let names = config.kernels.iter().map(|kernel| kernel.name()).listed();
        let what = format!("this kernel is {dialect}; the file is for {}", names.join(", "));
        add(&UNWANTED, what, "kernels");
    }
    match config.vcpus.scheduling {
        Some(Scheduling::Hypervisor) if dialect.pages_on_demand() => {
            let what = "the hypervisor cannot schedule a VM on this kernel";
            add(&BY_HYPERVISOR, what.to_owned(), "vcpus.scheduling");
        }
        Some(Scheduling::Hypervisor) if dialect.has_functions() => {
            let what =
                "the hypervisor schedules this VM: stopping it can take the resource manager down";
            add(&DEADLY_STOP, what.to_owned(), "vcpus.scheduling");
        }
        Some(Scheduling::Proxy) if !dialect.has_functions() => {
            let what = "the driver has no vCPUs that a proxy could schedule";
            add(&NO_VCPUS, what.to_owned(), "vcpus.scheduling");
        }
        _ => {}
    }
    if config.firmware.is_some() && !dialect.lends() {
        add(&NO_FIRMWARE, "this kernel cannot start a VM in firmware".to_owned(), "firmware");
    }
    match config.memory.access {
        Access::Share if config.firmware.is_some() => {
            let what = "main memory is shared, and the VM has firmware";
            add(&FIRMWARE_SHARED, what.to_owned(), "memory.access");
        }
        Access::Share if dialect.pages_on_demand() => {
            let what = "main memory is shared, but this kernel takes only lent memory";
            add(&ALL_SHARED, what.to_owned(), "memory.access");
        }
        Access::Share if dialect.lends() => {
            add(&SHARED, "main memory is shared".to_owned(), "memory.access");
        }
        _ => {}
    }
    let main = ("memory".to_owned(), config.memory.access, &config.memory.backing);
    let further = config.regions.iter().enumerate();
    let further = further
        .map(|(index, region)| (format!("regions[{index}]"), region.access, &region.backing));
    for (key, access, backing) in std::iter::once(main).chain(further) {
        if access == Access::Lend && !dialect.lends() {
            let what = "this kernel cannot lend memory";
            add(&CANNOT_LEND, what.to_owned(), &format!("{key}.access"));
        }
        if backings(backing, dialect, false).is_empty() {
            let kind = if dialect.pages_on_demand() { &HUGETLB } else { &RESERVE };
            add(kind, kind.summary(), &format!("{key}.backing"));
        }
    }
    if config.vcpus.scheduling.is_none() && !dialect.has_functions() {
        let wrong = config.scheduled_by(Scheduling::Hypervisor).into_iter();
        found.extend(wrong.map(|wrong| {
            let mut fault = NO_VCPUS.case(format!("the driver has no vCPUs: {}", wrong.what));
            fault.place.clone_from(&wrong.place);
            fault
        }));
    }
    match found.iter().any(Diagnostic::is_error) {
        true => {
            found.retain(Diagnostic::is_error);
            Err(found)
        }
        false => Ok(found),
    }
}

/// Who schedules the vCPUs: proxies wherever there are vCPUs, if the file says nothing else.
pub(super) fn scheduling(config: &VmConfig, dialect: Dialect) -> Scheduling {
    config.vcpus.scheduling.unwrap_or(match dialect.has_functions() {
        true => Scheduling::Proxy,
        false => Scheduling::Hypervisor,
    })
}

/// The kinds of backing that the driver takes, best first, with `auto` spelt out: on a host with a
/// `reserve` that first, where the driver takes it.
pub(super) fn backings(
    wanted: &[Option<Backing>],
    dialect: Dialect,
    reserve: bool,
) -> Vec<Backing> {
    let by_fault = dialect.pages_on_demand();
    let best: &[Backing] = match (by_fault, reserve) {
        (false, _) => &[Backing::Hugetlb],
        (true, true) => &[Backing::Reserve, Backing::Thp],
        (true, false) => &[Backing::Thp],
    };
    let spelt = wanted.iter().flat_map(|backing| match backing {
        Some(backing) => std::slice::from_ref(backing),
        None => best,
    });
    let mut all = Vec::new();
    for backing in spelt.copied() {
        let refused = if by_fault { Backing::Hugetlb } else { Backing::Reserve };
        if backing != refused && !all.contains(&backing) {
            all.push(backing);
        }
    }
    all
}

/// Whether the devicetree gets a slot of its own, of a whole huge page. In less memory it has a few base
/// pages.
pub(super) fn slotted(memory_size: u64, host: &Host) -> bool {
    memory_size >= SLOTTED_FROM.max(host.folio().saturating_mul(2))
}
