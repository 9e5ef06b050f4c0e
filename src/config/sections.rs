// SPDX-License-Identifier: Apache-2.0
//! Every section of a config and every key: the tables from which parser, writer, JSON Schema and
//! reference are made.
//!
//! A row is `key: Rust type = presence and type in the file, what the key says`. Limits are those of
//! the type; what several keys must keep together is a rule of [`super::rules`].

use std::path::PathBuf;
use std::time::Duration;

use gunyah::Dialect;

use super::compound::{list, one_or_distinct, one_or_list, section};
use super::keys::Keys;
use super::measures::{self, address, duration, size, HugePage, DEVICE_SPACE, GUEST_MEMORY};
use super::names::{
    Dependency, Ethernet, Flags, Interface, Mac, Name, Permissions, PropertyName, VmName, Waited,
};
use super::pages::HugePages;
use super::report::{Places, Report};
use super::rules;
use super::table::{bare, blank, object_of, section, Absent, Maybe, Row, Section};
use super::types::{line, whole, word, Boolean, FilePath, Type};
use super::words::{
    kernels, Access, Backend, Backing, ConsoleDevice, KernelFormat, RestartPolicy, Scheduling,
    Transport,
};
use crate::diagnostic::{Diagnostic, Place};
use crate::json::Value;
use crate::layout::{
    ADDRESS_END, FIRMWARE_BASE, FIRMWARE_SIZE, MEMORY_ALIGN, MEMORY_BASE, PAGE, SERIAL_BASE, SPIS,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// More vCPUs than any device has.
const MAX_VCPUS: u32 = 64;

/// Longest kernel command line in bytes: arm64's COMMAND_LINE_SIZE is 2048 with the final NUL.
const CMDLINE: usize = 2047;

/// Largest host CPU number: a `cpu_set_t` has 1024 bits.
const HOST_CPU: u32 = 1023;

/// More disks than any guest has.
const DISKS: usize = 16;

/// More network devices than any guest has.
const NETS: usize = 8;

/// More devices of other programs than any guest has, and the longest tag of a shared directory in bytes
/// (virtio 1.2, 5.11.4).
const BACKENDS: usize = 8;
const TAG: usize = 36;

/// The first address of a guest: those below are the host's own and the hypervisor's (linux/vm_sockets.h).
const GUEST_CID: u32 = 3;

/// What a packet has at least where IP works (RFC 791), and at most.
const LEAST_MTU: u32 = 68;
const MOST_MTU: u32 = 65535;

/// Longest id of a disk in bytes (virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID).
const DISK_ID: usize = 20;

/// The pool where the file gives no size: a part of main memory, within limits. What is common for
/// Linux, and the least in which two rings and their longest requests have room.
const POOL_PART: u64 = 8;
const POOL_MOST: u64 = 64 << 20;
const POOL_LEAST: u64 = 4 << 20;

/// Longest text that is looked for or typed on a console, in bytes.
const CONSOLE_LINE: usize = 255;

/// Longest property value in bytes: PROP_VALUE_MAX is 92 with the final NUL.
const PROPERTY_VALUE: usize = 91;

section! {
    /// One VM, as its file describes it. Made only by the parser, so what types and rules demand holds.
    VmConfig {
        name: VmName = required(Name),
            "Names the VM in status, messages, properties (`vendor.gunyah.media.state`), and to the guest. No two files have the same.";
        autostart: bool = or(true, Boolean),
            "`gunyahd boot` starts it without being asked. Otherwise `gunyahctl start` does; a VM that waits for it stays waiting.";
        kernels: Vec<Dialect> = or(kernels(), one_or_distinct(8, word())),
            "The host's kernels, by their drivers' dialects, that it may run on; on others its start fails before anything is taken. For a VM that was made for some of them: `gunyahd check` checks it for these alone.";
        memory: MemoryConfig = required(section()),
            "The guest's main memory.";
        regions: Vec<RegionConfig> = or(Vec::new(), list(32, section())),
            "Further ranges of guest memory.";
        kernel: KernelConfig = required(section()),
            "What the guest runs.";
        firmware: Option<FirmwareConfig> = optional(section()),
            "Absent: the guest begins in its kernel. `{}`: it begins in the firmware for protected VMs (pvmfw) that the boot loader gave the resource manager, which verifies the kernel; only Android's drivers can.";
        initrd: Option<InitrdConfig> = optional(section()),
            "Absent: no initrd.";
        dtb: DtbConfig = or_empty(section()),
            "The devicetree.";
        vcpus: VcpuConfig = or_empty(section()),
            "The virtual CPUs.";
        console: Option<ConsoleConfig> = optional(section()),
            "Not with `\"scheduling\": \"hypervisor\"`, nor on a driver without vCPUs. Absent: no console. `{}`: one with every default.";
        disks: Vec<DiskConfig> = or(Vec::new(), list(DISKS, section())),
            "Disks, as virtio block devices: the guest's `/dev/vda`, `vdb`, … in this order. Not with `\"scheduling\": \"hypervisor\"`, nor on a driver without vCPUs.";
        nets: Vec<NetConfig> = or(Vec::new(), list(NETS, section())),
            "Network devices, each a tap of the host. As `disks`.";
        vsock: Option<VsockConfig> = optional(section()),
            "A virtio socket device, by the host kernel's vhost (`/dev/vhost-vsock`). `{}`: one with every default. As `disks`.";
        vhost_user: Vec<VhostUserConfig> = or(Vec::new(), list(BACKENDS, section())),
            "Devices that other programs serve, by vhost-user: they run before the VM starts. As `disks`.";
        entropy: bool = or(false, Boolean),
            "A virtio entropy device, from the host's `/dev/urandom`.";
        transport: Transport = or(Transport::Mmio, word()),
            "How the guest's kernel finds its virtio devices: it must be built for that; see below.";
        ready: Option<ReadyConfig> = optional(section()),
            "Absent: the VM is running and never called ready. `{}`: ready as soon as it runs.";
        start: StartConfig = or_empty(section()),
            "When it is started.";
        restart: RestartConfig = or_empty(section()),
            "When it is started again.";
        stop: Option<StopConfig> = optional(section()),
            "How the guest is asked to end. Absent: the VM is closed without asking it.";
        stop_timeout: Duration = or(10 * SECOND, duration(Duration::ZERO)),
            "How long a guest that is asked to end, by `stop`, may take. Then its VM is closed.";
    }
    rules {
        ranges(memory, regions, firmware);
        kernel_offset(memory, kernel);
        initrd_offset(memory, initrd);
        dtb_offset(memory, dtb);
        console_scheduling(console, vcpus);
        devices_scheduling(disks, nets, vsock, vhost_user, entropy, vcpus);
        pool_size(memory, disks, nets, vsock, vhost_user, entropy, console);
        devices_twice(disks, nets);
        console_base(console, vcpus, dtb);
        ready_console(ready, console);
        ready_vsock(ready, vsock);
        stop_console(stop, console);
        power_key_scheduling(stop, vcpus);
        waits(name, start);
    }
    beside {
        file: PathBuf = Report::file, "The file that this came from.";
        places: Places = Report::places, "Where each key is in the file.";
    }
}

section! {
    /// `memory`
    MemoryConfig {
        base: u64 = or(MEMORY_BASE, address(&GUEST_MEMORY, MEMORY_ALIGN)),
            "Guest address of the first byte. The resource manager would silently round other addresses up.";
        size: u64 = required(size(PAGE, ADDRESS_END, PAGE)),
            "Bytes; on a host with larger pages a multiple of these.";
        label: u32 = or(0, whole(0, u32::MAX)),
            "Names the region to the driver. Unlike the labels of `regions`.";
        backing: Vec<Option<Backing>> = or(vec![None], one_or_distinct(8, word())),
            "What host pages it is made of, best first; see below.";
        page_size: Option<u64> = optional(HugePage),
            "Size of a huge page; only with `hugetlb` and `auto`. Absent: the host's default.";
        access: Access = or(Access::Auto, word()),
            "Whether the host keeps access. `auto` lends where the driver can lend, and shares elsewhere.";
        prefault: bool = or(true, Boolean),
            "Populate all pages before the start, so that no fault can fail later.";
        pool: Option<u64> = optional(measures::size(MEMORY_ALIGN, ADDRESS_END, MEMORY_ALIGN)),
            "Bytes that host and guest share behind main memory, for what virtio devices read and write where main memory is lent. Absent: an eighth of `size`, from 4M to 64M. Only with devices.";
    }
    rules { page_size(backing, page_size); }
}

section! {
    /// One of `regions`.
    RegionConfig {
        label: u32 = required(whole(0, u32::MAX)),
            "Names the region to the driver and the resource manager. Unique in the VM.";
        base: u64 = required(address(&GUEST_MEMORY, PAGE)),
            "Guest address of the first byte. Regions and main memory do not overlap.";
        size: u64 = required(size(PAGE, ADDRESS_END, PAGE)),
            "Bytes; on a host with larger pages a multiple of these.";
        access: Access = or(Access::Auto, word()),
            "Whether the host keeps access. `auto` shares.";
        flags: Permissions = or(Permissions::READ_WRITE, Flags),
            "What the guest may do.";
        backing: Vec<Option<Backing>> = or(vec![Some(Backing::Base)], one_or_distinct(8, word())),
            "As `memory.backing`.";
        page_size: Option<u64> = optional(HugePage),
            "As `memory.page_size`.";
        file: Option<PathBuf> = optional(FilePath),
            "A file whose bytes the region begins with, not larger than the region. Absent: zeros.";
    }
    rules { page_size(backing, page_size); }
}

section! {
    /// `kernel`
    KernelConfig {
        path: PathBuf = required(FilePath),
            "An arm64 `Image`, the same gzip'ed, or an ELF64 executable; it may lie in an Android boot image or an EFI zboot image (gzip), or before an AVB footer.";
        format: KernelFormat = or(KernelFormat::Auto, word()),
            "How to read it. `auto` looks at its first bytes; with any other word, another format is a mistake.";
        offset: Option<u64> = optional(size(0, ADDRESS_END, PAGE)),
            "Bytes from the base of main memory to where the kernel's own text offset counts from; inside main memory. Absent: 0.";
        cmdline: String = or(String::new(), line(0, CMDLINE)),
            "The kernel command line, `/chosen/bootargs`.";
    }
}

section! {
    /// `firmware`
    FirmwareConfig {
        base: u64 = or(FIRMWARE_BASE, address(&GUEST_MEMORY, MEMORY_ALIGN)),
            "Guest address of its region, which is lent, and where the guest begins. pvmfw is linked for the default.";
        size: u64 = or(FIRMWARE_SIZE, size(MEMORY_ALIGN, 1 << 30, MEMORY_ALIGN)),
            "Bytes of its region: at least what the boot loader's firmware has.";
        label: u32 = or(1, whole(0, u32::MAX)),
            "Names the region to the driver. Unique in the VM.";
    }
}

section! {
    /// `initrd`
    InitrdConfig {
        path: PathBuf = required(FilePath),
            "The file, in a format that the kernel reads.";
        offset: Option<u64> = optional(size(0, ADDRESS_END, PAGE)),
            "Bytes from the base of main memory; inside main memory. Absent: the highest free place.";
    }
}

section! {
    /// `dtb`
    DtbConfig {
        path: Option<PathBuf> = optional(FilePath),
            "A devicetree blob, which is checked and completed. Absent: one is generated.";
        room: u64 = or(64 << 10, size(PAGE, 1 << 20, PAGE)),
            "Bytes left after it for the resource manager's overlay.";
        offset: Option<u64> = optional(size(0, ADDRESS_END, PAGE)),
            "Bytes from the base of main memory; inside main memory. Absent: the highest boundary of a transparent huge page (2 MiB; 32 MiB on a host with 16 KiB pages) with enough room, else the highest page.";
    }
}

section! {
    /// `vcpus`
    VcpuConfig {
        count: u32 = or(1, whole(1, MAX_VCPUS)),
            "How many vCPUs. A given devicetree must have as many.";
        scheduling: Option<Scheduling> = or(None, word()),
            "Who gives them their time: the hypervisor, or a host thread for each; see below.";
        affinity: Vec<Vec<u32>> = or(Vec::new(), list(64, one_or_list(64, whole(0, HOST_CPU)))),
            "Host CPUs of each vCPU; see below.";
        nice: i8 = or(0, whole(-20, 19)),
            "Niceness of the vCPU threads; not with `hypervisor`.";
    }
    rules {
        affinity(count, scheduling, affinity);
        nice(scheduling, nice);
    }
}

section! {
    /// `console`
    ConsoleConfig {
        device: ConsoleDevice = or(ConsoleDevice::Pl011, word()),
            "The serial port's model.";
        base: u64 = or(SERIAL_BASE, address(&DEVICE_SPACE, PAGE)),
            "Guest address of its registers. Outside the interrupt controller, which a generated devicetree has at 0x3fff0000 and 128 KiB below it for each vCPU.";
        label: u32 = or(5, whole(0, u32::MAX)),
            "Label of the doorbell that raises its interrupt.";
        interrupt: u32 = or(5, whole(0, SPIS - 1)),
            "SPI number of its level interrupt (interrupt id less 32).";
        virtio: bool = or(false, Boolean),
            "Beside the serial port there is a virtio console, the guest's `hvc0`, which takes an exit a line in place of one a byte. Both print and type the same: give the kernel one of them as `console=`.";
    }
}

section! {
    /// One of `disks`.
    DiskConfig {
        path: PathBuf = required(FilePath),
            "A raw image or a block device. What is beyond its last whole sector of 512 bytes is left out.";
        readonly: bool = or(false, Boolean),
            "The guest cannot write. Otherwise it is the VM's alone while that runs: the worker locks it (`flock`).";
        id: Option<String> = optional(line(1, DISK_ID)),
            "What the guest finds as its serial number, in `/sys/block/vda/serial`. Absent: none.";
        direct: bool = or(false, Boolean),
            "Past the host's page cache (`O_DIRECT`), where the guest's requests are aligned.";
    }
}

section! {
    /// One of `nets`.
    NetConfig {
        tap: String = required(Interface),
            "The tap's name: one that is there for gunyahd's user; without it one is made, where gunyahd may do so.";
        mac: Option<Mac> = optional(Ethernet),
            "The guest's address. Absent: one that follows from the VM's name and the device's number.";
        mtu: Option<u32> = optional(whole(LEAST_MTU, MOST_MTU)),
            "Bytes that the guest puts into a packet at most; the tap's own is set by who makes it. Absent: the guest's choice, which is 1500.";
    }
}

section! {
    /// `vsock`
    VsockConfig {
        cid: Option<u32> = optional(whole(GUEST_CID, u32::MAX - 1)),
            "The guest's address, that of no other VM on the host. Absent: the first that is free, from 3 on.";
    }
}

section! {
    /// One of `vhost_user`.
    VhostUserConfig {
        r#type: Backend = required(word()),
            "What the guest finds. `fs`: a shared directory; `net`: a network device; the others are what they say.";
        socket: PathBuf = required(FilePath),
            "The Unix socket on which its program, the backend, listens.";
        tag: Option<String> = optional(line(1, TAG)),
            "What the guest mounts a shared directory by: `mount -t virtiofs TAG /mnt`. Needed for `fs`, and only there.";
        queues: Option<u32> = optional(whole(1, 16)),
            "How many queues it has in all. Absent: the least of its type, which is 2 for `fs` and `net`, 4 for `sound`, else 1.";
    }
    rules { tag(r#type, tag); }
}

section! {
    /// `ready`
    ReadyConfig {
        console_line: Option<String> = optional(line(1, CONSOLE_LINE)),
            "Text that a line of the console contains; `*` stands for any text. Needs `console`. Absent, and `vsock_port`, too: ready at once.";
        vsock_port: Option<u32> = optional(whole(0, u32::MAX - 1)),
            "A port of the guest that accepts a vsock connection of the host, which is tried until it does and closed then. Needs `vsock`. With `console_line` the VM is ready by what comes first.";
        timeout: Duration = or(MINUTE, duration(MILLISECOND)),
            "How long it may take. After it the VM is stopped, which counts as a failure for `restart`.";
    }
}

section! {
    /// `start`
    StartConfig {
        after: Vec<Dependency> = or(Vec::new(), list(32, Waited)),
            "VMs that must run first, or with `\"name:ready\"` be ready. Each once, without circles; each has a file in the config directories, and a `ready` if that is waited for.";
        property: Option<PropertyWait> = optional(section()),
            "A system property that must have a value first. Absent: none.";
        priority: i32 = or(0, whole(i32::MIN, i32::MAX)),
            "Of the VMs that could start, the one with the higher number does so first.";
        timeout: Duration = or(30 * SECOND, duration(MILLISECOND)),
            "How long `starting` may take. After it the VM ends, which counts as a failure for `restart`.";
    }
}

section! {
    /// `start.property`
    PropertyWait {
        name: String = required(PropertyName),
            "The property.";
        value: String = required(line(1, PROPERTY_VALUE)),
            "The value waited for.";
        timeout: Duration = or(MINUTE, duration(MILLISECOND)),
            "After it the VM is `failed`.";
    }
}

section! {
    /// `restart`
    RestartConfig {
        policy: RestartPolicy = or(RestartPolicy::OnFailure, word()),
            "When a VM that ended is started again. `on-failure`: after a crash, a failed start or a dead worker. `always`: after any end but a `stop`.";
        max: u32 = or(5, whole(1, 1000)),
            "Restarts within `window`; one more makes the VM `failed`.";
        window: Duration = or(10 * MINUTE, duration(SECOND)),
            "The time in which restarts are counted.";
        backoff: Duration = or(SECOND, duration(Duration::ZERO)),
            "Wait before the first restart, not more than `backoff_max`. It doubles each time.";
        backoff_max: Duration = or(MINUTE, duration(Duration::ZERO)),
            "The longest wait.";
    }
    rules { backoff(backoff, backoff_max); }
}

section! {
    /// `stop`: one of the two.
    StopConfig {
        console_line: Option<String> = optional(line(1, CONSOLE_LINE)),
            "Typed on the guest's console, followed by Enter. Needs `console`.";
        power_key: bool = or(false, Boolean),
            "The guest has a power key, which is pressed; its kernel must have the driver `gpio-keys`. Not with `\"scheduling\": \"hypervisor\"`, nor on a driver without vCPUs.";
    }
    rules { stop_by(console_line, power_key); }
}

impl ReadyConfig {
    /// Nothing is waited for.
    pub fn is_at_once(&self) -> bool {
        self.console_line.is_none() && self.vsock_port.is_none()
    }
}

/// The keys of every section but the VM itself, in the order of the tables: what is looked through for a key that
/// stands in the wrong one.
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    ("memory", MemoryConfig::KEYS),
    ("regions[]", RegionConfig::KEYS),
    ("kernel", KernelConfig::KEYS),
    ("firmware", FirmwareConfig::KEYS),
    ("initrd", InitrdConfig::KEYS),
    ("dtb", DtbConfig::KEYS),
    ("vcpus", VcpuConfig::KEYS),
    ("console", ConsoleConfig::KEYS),
    ("disks[]", DiskConfig::KEYS),
    ("nets[]", NetConfig::KEYS),
    ("vsock", VsockConfig::KEYS),
    ("vhost_user[]", VhostUserConfig::KEYS),
    ("ready", ReadyConfig::KEYS),
    ("start", StartConfig::KEYS),
    ("start.property", PropertyWait::KEYS),
    ("restart", RestartConfig::KEYS),
    ("stop", StopConfig::KEYS),
];

impl VmConfig {
    /// What is wrong where `scheduling` is who schedules the vCPUs, which only the driver found can tell
    /// for `auto`.
    pub fn scheduled_by(&self, scheduling: Scheduling) -> Vec<Diagnostic> {
        let Self { vcpus, console, .. } = self;
        let power_key = self.has_power_key();
        let mut mistakes = rules::affinity_of(vcpus.count, scheduling, &vcpus.affinity);
        mistakes.extend(rules::nice_of(scheduling, vcpus.nice));
        for (key, _) in &mut mistakes {
            key.insert_str(0, "vcpus.");
        }
        mistakes.extend(rules::console_of(scheduling, console.is_some()));
        mistakes.extend(rules::devices_of(scheduling, self.device_keys()));
        mistakes.extend(rules::power_key_of(scheduling, power_key));
        mistakes.into_iter().map(|(key, mistake)| mistake.at(self.place(&key))).collect()
    }

    /// The place of `key` in the file, or of the nearest key above it that the file has.
    pub fn place(&self, key: &str) -> Place {
        self.places.place(&self.file, key)
    }

    /// The table of its keys.
    pub fn table() -> Vec<Row> {
        Self::rows()
    }

    /// Bytes of the memory that its guest shares with its devices, if it has any and its main memory is lent:
    /// by itself where the driver `lends`.
    pub fn pool_size(&self, lends: bool) -> Option<u64> {
        let lent = match self.memory.access {
            Access::Auto => lends,
            Access::Lend => true,
            Access::Share => false,
        };
        let part = self.memory.size / POOL_PART / MEMORY_ALIGN * MEMORY_ALIGN;
        let size = self.memory.pool.unwrap_or(part.clamp(POOL_LEAST, POOL_MOST));
        (lent && !self.device_keys().is_empty()).then_some(size)
    }

    /// Its guest is asked to end by a power key.
    pub fn has_power_key(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.power_key)
    }

    /// The keys of its virtio devices.
    pub fn device_keys(&self) -> Vec<&'static str> {
        let Self { disks, nets, vsock, vhost_user, entropy, console, .. } = self;
        rules::device_keys(disks, nets, vsock, vhost_user, entropy, console)
    }

    /// Pages that its regions take of the pools, by page size in bytes, where each gets the backing that
    /// it would like best; `auto` counts as `hugetlb`. `huge_page`: the size where the file names none. With a
    /// pool for devices where the driver `lends`.
    pub fn huge_pages(&self, huge_page: u64, lends: bool) -> HugePages {
        let memory = &self.memory;
        let mut pages = HugePages::default();
        let mut add = |size: u64, page_size: Option<u64>, backing: &[Option<Backing>]| {
            let page = page_size.unwrap_or(huge_page);
            // What is left over is made of base pages.
            let pool = matches!(backing, [None | Some(Backing::Hugetlb), ..]);
            if pool && size >= page {
                pages.add(page, size / page);
            }
        };
        add(memory.size, memory.page_size, &memory.backing);
        for region in &self.regions {
            add(region.size, region.page_size, &region.backing);
        }
        if let Some(size) = self.pool_size(lends) {
            add(size, memory.page_size, &memory.backing);
        }
        pages
    }
}
