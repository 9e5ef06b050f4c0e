// SPDX-License-Identifier: Apache-2.0
//! ADD_FUNCTION and REMOVE_FUNCTION: vCPUs, interrupt lines, io events.

use std::os::fd::{AsRawFd, OwnedFd};

use gunyah::uapi::{
    self, FunctionDesc, FunctionIoeventfd, FunctionIrqfd, FunctionVcpu, FUNCTION_MAX_ARG_SIZE,
    IOEVENTFD_FLAGS_DATAMATCH, IRQFD_FLAGS_LEVEL,
};
use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::Caller;

/// An interrupt line from the host.
#[derive(Debug)]
pub struct Irqfd {
    /// Label of the doorbell.
    pub label: u32,
    /// Level triggered.
    pub level: bool,
    /// Our descriptor of the caller's eventfd.
    pub eventfd: OwnedFd,
    /// Who gave it.
    pub owner: Caller,
}

impl Irqfd {
    /// Whether its giver still has the eventfd open.
    pub fn is_open_elsewhere(&self) -> bool {
        let own =
            Caller { tid: self.owner.tid, pid: i32::try_from(std::process::id()).unwrap_or(0) };
        match own.eventfd_id(self.eventfd.as_raw_fd()) {
            Some(id) => self.owner.eventfd_ids().contains(&id),
            None => false,
        }
    }
}

/// For the record: up to 6.1 such a line stays on its eventfd's wait queue, which the eventfd's last
/// close walks through freed memory; a CPU of the host then spins for ever.
pub fn dangling(line: &Irqfd) -> Value {
    json!({
        "event": "violation",
        "what": format!(
            "the irqfd with label {} is gone before its eventfd and never had a doorbell: closing the \
             eventfd would hang a CPU of the host",
            line.label
        ),
    })
}

/// A guest's write that fires an eventfd.
#[derive(Debug)]
pub struct Ioeventfd {
    /// As given.
    pub given: FunctionIoeventfd,
    /// Our descriptor of the caller's eventfd.
    pub eventfd: OwnedFd,
}

impl Ioeventfd {
    /// Whether the driver keeps the new one from standing beside this. One without DATAMATCH has its
    /// address alone: the driver keeps a length only together with a value.
    pub fn clashes(&self, new: &FunctionIoeventfd) -> bool {
        let value = |of: &FunctionIoeventfd| {
            (of.flags & IOEVENTFD_FLAGS_DATAMATCH != 0).then_some((of.len, of.datamatch))
        };
        self.given.addr == new.addr
            && match (value(&self.given), value(new)) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            }
    }

    /// Whether this is the one that REMOVE_FUNCTION names.
    pub fn is(&self, named: &FunctionIoeventfd) -> bool {
        (self.given.addr, self.given.len, self.given.flags) == (named.addr, named.len, named.flags)
            && (named.flags & IOEVENTFD_FLAGS_DATAMATCH == 0
                || self.given.datamatch == named.datamatch)
    }

    /// Whether a guest's write fires it; without DATAMATCH its length does not matter.
    pub fn matches(&self, address: u64, len: u32, value: u64) -> bool {
        self.given.addr == address
            && (self.given.flags & IOEVENTFD_FLAGS_DATAMATCH == 0
                || (self.given.len == len && self.given.datamatch == value))
    }
}

/// A function's argument, copied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionArgument {
    /// Type 1.
    Vcpu(FunctionVcpu),
    /// Type 2.
    Irqfd(FunctionIrqfd),
    /// Type 3.
    Ioeventfd(FunctionIoeventfd),
}

/// Copies the argument: size limit, then the bytes, then the type, then the type's own size.
pub fn read_argument(caller: &Caller, desc: &FunctionDesc) -> Result<FunctionArgument, Errno> {
    if desc.arg_size > FUNCTION_MAX_ARG_SIZE {
        return Err(Errno::EINVAL);
    }
    let size = usize::try_from(desc.arg_size).map_err(|_| Errno::EINVAL)?;
    let mut bytes = vec![0; size];
    caller.read_bytes(desc.arg, &mut bytes)?;
    let sized = |wanted: usize| {
        if size == wanted {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    };
    match desc.kind {
        uapi::FUNCTION_VCPU => {
            sized(size_of::<FunctionVcpu>())?;
            caller.read(desc.arg).map(FunctionArgument::Vcpu)
        }
        uapi::FUNCTION_IRQFD => {
            sized(size_of::<FunctionIrqfd>())?;
            caller.read(desc.arg).map(FunctionArgument::Irqfd)
        }
        uapi::FUNCTION_IOEVENTFD => {
            sized(size_of::<FunctionIoeventfd>())?;
            caller.read(desc.arg).map(FunctionArgument::Ioeventfd)
        }
        // No module provides it.
        _ => Err(Errno::ENOENT),
    }
}

/// The caller's eventfd: EBADF where there is none, EINVAL where it is something else.
fn eventfd(caller: &Caller, fd: i32) -> Result<OwnedFd, Errno> {
    if !caller.fd_target(fd)?.contains("[eventfd]") {
        return Err(Errno::EINVAL);
    }
    caller.take_fd(fd)
}

/// An irqfd's own checks.
pub fn irqfd(caller: &Caller, given: &FunctionIrqfd) -> Result<Irqfd, Errno> {
    if given.flags & !IRQFD_FLAGS_LEVEL != 0 {
        return Err(Errno::EINVAL);
    }
    let fd = i32::try_from(given.fd).map_err(|_| Errno::EBADF)?;
    Ok(Irqfd {
        label: given.label,
        level: given.flags & IRQFD_FLAGS_LEVEL != 0,
        eventfd: eventfd(caller, fd)?,
        owner: *caller,
    })
}

/// An ioeventfd's own checks.
pub fn ioeventfd(caller: &Caller, given: &FunctionIoeventfd) -> Result<Ioeventfd, Errno> {
    let known_len = matches!(given.len, 0 | 1 | 2 | 4 | 8);
    let datamatch = given.flags & IOEVENTFD_FLAGS_DATAMATCH != 0;
    if !known_len || given.flags & !IOEVENTFD_FLAGS_DATAMATCH != 0 || (given.len == 0 && datamatch)
    {
        return Err(Errno::EINVAL);
    }
    Ok(Ioeventfd { given: *given, eventfd: eventfd(caller, given.fd)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn desc<T>(kind: u32, argument: &T) -> FunctionDesc {
        FunctionDesc {
            kind,
            arg_size: u32::try_from(size_of::<T>()).unwrap(),
            arg: std::ptr::from_ref(argument) as u64,
        }
    }

    #[test]
    fn the_size_is_checked_before_the_bytes_and_the_type() {
        let me = Caller::myself();
        let vcpu = FunctionVcpu { id: 3 };
        let good = desc(uapi::FUNCTION_VCPU, &vcpu);
        assert_eq!(read_argument(&me, &good), Ok(FunctionArgument::Vcpu(vcpu)));

        let long = FunctionDesc { arg_size: 257, arg: 0, ..good };
        assert_eq!(read_argument(&me, &long), Err(Errno::EINVAL));
        let nowhere = FunctionDesc { arg: 8, ..good };
        assert_eq!(read_argument(&me, &nowhere), Err(Errno::EFAULT));
        let unknown = FunctionDesc { kind: 9, ..good };
        assert_eq!(read_argument(&me, &unknown), Err(Errno::ENOENT));
        let short = FunctionDesc { kind: uapi::FUNCTION_IRQFD, ..good };
        assert_eq!(read_argument(&me, &short), Err(Errno::EINVAL));
    }

    #[test]
    fn an_irqfd_wants_an_eventfd() {
        let me = Caller::myself();
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let mut given = FunctionIrqfd {
            fd: u32::try_from(event.as_raw_fd()).unwrap(),
            label: 5,
            flags: 1,
            padding: 0,
        };
        assert!(irqfd(&me, &given).unwrap().level);
        given.flags = 2;
        assert_eq!(irqfd(&me, &given).unwrap_err(), Errno::EINVAL);
        given.flags = 0;
        given.fd = u32::try_from(socket.as_raw_fd()).unwrap();
        assert_eq!(irqfd(&me, &given).unwrap_err(), Errno::EINVAL);
        given.fd = 100_000;
        assert_eq!(irqfd(&me, &given).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn an_ioeventfd_is_checked_and_matches() {
        let me = Caller::myself();
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let good = FunctionIoeventfd {
            datamatch: 7,
            addr: 0x1000,
            len: 4,
            fd: event.as_raw_fd(),
            flags: IOEVENTFD_FLAGS_DATAMATCH,
            padding: 0,
        };
        let made = ioeventfd(&me, &good).unwrap();
        assert!(made.matches(0x1000, 4, 7));
        assert!(!made.matches(0x1000, 4, 8));
        assert!(!made.matches(0x1000, 2, 7));
        assert!(!made.matches(0x1004, 4, 7));
        let other_value = FunctionIoeventfd { datamatch: 8, ..good };
        let any_value = FunctionIoeventfd { flags: 0, ..good };
        assert!(made.clashes(&good) && made.clashes(&any_value));
        assert!(!made.clashes(&other_value));
        assert!(made.is(&good) && !made.is(&other_value) && !made.is(&any_value));
        for wrong in [
            FunctionIoeventfd { len: 3, ..good },
            FunctionIoeventfd { flags: 2, ..good },
            FunctionIoeventfd { len: 0, ..good },
        ] {
            assert_eq!(ioeventfd(&me, &wrong).unwrap_err(), Errno::EINVAL);
        }
        let nothing = FunctionIoeventfd { fd: -1, ..good };
        assert_eq!(ioeventfd(&me, &nothing).unwrap_err(), Errno::EBADF);
    }
}
