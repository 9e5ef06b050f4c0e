// SPDX-License-Identifier: Apache-2.0
//! A VM as the model hands it to an engine: its memory, its guest's wishes, and how it ended.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::caller::{self, Caller, Piece};

/// A VM's number: 1 for the first that is created, never used again.
pub type VmId = u32;

/// Whether the host keeps its access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The host keeps it.
    Share,
    /// The host loses it.
    Lend,
}

/// A region as registered, and what is behind it.
#[derive(Debug, Clone)]
pub struct StartRegion {
    /// Label, unique in the VM.
    pub label: u32,
    /// `MEM_ALLOW_*` of the API.
    pub flags: u32,
    /// Share or lend.
    pub access: Access,
    /// Guest address that the memory ioctl gave.
    pub guest_phys_addr: u64,
    /// Guest address that the resource manager gives it, which is what counts: main memory at
    /// the devicetree's base-address, a shm parcel at its base. None: wherever it likes.
    pub placed_at: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// Address in the process.
    pub userspace_addr: u64,
    /// Holds the devicetree, hence is main memory.
    pub main: bool,
    /// The backing, in order, without holes: files as read-write descriptors where they are files.
    pub pieces: Vec<Piece>,
}

/// The first instruction of the boot CPU and its argument, unless the boot context says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Guest address.
    pub pc: u64,
    /// The devicetree's guest address.
    pub x0: u64,
}

/// All that a START hands over.
#[derive(Debug, Clone)]
pub struct StartVm {
    /// The VM.
    pub vm: VmId,
    /// The process whose memory it is; [`Caller`] reads and writes it.
    pub owner: Caller,
    /// Regions in the order in which they were registered.
    pub regions: Vec<StartRegion>,
    /// Where it begins.
    pub entry: Entry,
    /// Guest ranges (address, size) that the guest has from the beginning; it gets everything else as
    /// it faults. None: it has all its memory.
    pub paged: Option<Vec<(u64, u64)>>,
    /// Guest address of the devicetree, as SET_DTB_CONFIG gave it.
    pub dtb_address: u64,
    /// Bytes of the devicetree's room.
    pub dtb_size: u64,
    /// Ids of the vCPU functions, ascending.
    pub vcpus: Vec<u32>,
    /// What the resource manager read from the guest's devicetree.
    pub guest: GuestDescription,
    /// SET_BOOT_CONTEXT's registers: (set << 8 | index, value).
    pub boot_context: Vec<(u32, u64)>,
}

impl StartVm {
    /// Reads guest memory by the addresses of the memory ioctls.
    pub fn read(&self, guest_address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let (region, at) = self.host_address(guest_address, into.len())?;
        caller::read_pieces(&self.owner, &region.pieces, at, into)
    }

    /// Writes guest memory by the addresses of the memory ioctls.
    pub fn write(&self, guest_address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (_, at) = self.host_address(guest_address, bytes.len())?;
        self.owner.write_bytes(at, bytes)
    }

    fn host_address(&self, guest_address: u64, len: usize) -> Result<(&StartRegion, u64), Errno> {
        let len = u64::try_from(len).map_err(|_| Errno::EFAULT)?;
        self.regions
            .iter()
            .find_map(|region| {
                let offset = guest_address.checked_sub(region.guest_phys_addr)?;
                let end = offset.checked_add(len)?;
                (end <= region.size).then(|| (region, region.userspace_addr + offset))
            })
            .ok_or(Errno::EFAULT)
    }
}

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// `STATUS_*` of the API.
    pub status: u32,
    /// `EXIT_TYPE_*` of the API.
    pub exit_type: u16,
    /// The type's own reason, little endian.
    pub reason: u64,
}

impl Exit {
    /// An orderly report of the resource manager: status EXITED with a type.
    pub fn of_type(exit_type: u16) -> Self {
        Self { status: gunyah::uapi::STATUS_EXITED, exit_type, reason: 0 }
    }
}

/// What a guest's devicetree asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDescription {
    /// Name of the image.
    pub image_name: String,
    /// Guest address of main memory, rounded as the resource manager does.
    pub base_address: u64,
    /// Indices of the CPUs: 0 and up.
    pub cpus: u32,
    /// Scheduled by VCPU_RUN; else by the hypervisor.
    pub proxy: bool,
    /// Doorbells.
    pub doorbells: Vec<Doorbell>,
    /// shm vdevices.
    pub shared_memory: Vec<SharedMemory>,
    /// Fixed ranges of `/reserved-memory`, address and bytes, that are neither labelled nor reusable: the
    /// newer resource manager takes them for memory that host and guest share.
    pub reserved: Vec<(u64, u64)>,
    /// False: nobody read the devicetree, all of this is assumed.
    pub was_read: bool,
}

impl GuestDescription {
    /// What is assumed where the resource manager is off.
    pub fn unread(base_address: u64, vcpus: &BTreeMap<u32, bool>) -> Self {
        let last = vcpus.keys().next_back().copied().unwrap_or(0);
        Self {
            image_name: String::new(),
            base_address,
            cpus: last.saturating_add(1),
            proxy: true,
            doorbells: Vec::new(),
            shared_memory: Vec::new(),
            reserved: Vec::new(),
            was_read: false,
        }
    }

    /// Whether there is a vCPU of this id.
    pub fn has_vcpu(&self, id: u32) -> bool {
        id < self.cpus
    }

    /// Whether a vdevice has this label's doorbell.
    pub fn has_doorbell(&self, label: u32) -> bool {
        self.doorbells.iter().any(|bell| bell.label == label)
    }

    /// Where a further parcel is placed.
    pub fn shared_memory_base(&self, label: u32) -> Option<u64> {
        self.shared_memory.iter().find(|shm| shm.label == label).and_then(|shm| shm.base)
    }
}

/// A shm vdevice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMemory {
    /// Label of the parcel.
    pub label: u32,
    /// Where the guest sees it; None: wherever.
    pub base: Option<u64>,
}

/// A doorbell vdevice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbell {
    /// Label of the irqfd.
    pub label: u32,
    /// Its interrupt's first two cells: kind (0 shared, 1 private) and number.
    pub interrupt: Option<(u32, u32)>,
    /// Its third cell says level, not edge.
    pub level: bool,
}
