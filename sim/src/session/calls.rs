// SPDX-License-Identifier: Apache-2.0
//! A call's way: seen, named, counted, perhaps failed by the script, brought to the model, answered.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use gunyah::uapi;
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use crate::caller::Caller;
use crate::engine::{Access, Event, Exit, VmId};
use crate::intercept::{driver, host, Notification};
use crate::model::{legacy, Added, Dialect, StartStep};
use crate::record::{self, CallLine};
use crate::script::Fault;

use super::{fd_value, Due, FileKind, Held, Session, Waits};

/// PATH_MAX of linux/limits.h.
const PATH_MAX: usize = 4096;

impl Session {
    /// A call came in.
    pub(super) fn take_call(&mut self, notification: Notification) {
        if i64::from(notification.nr) == libc::SYS_sched_getaffinity {
            if let Some(cores) = self.cores {
                self.tell_cores(&notification, cores);
                return;
            }
        }
        let seen = match i64::from(notification.nr) {
            libc::SYS_ioctl => self.seen_ioctl(&notification),
            libc::SYS_openat | libc::SYS_openat2 => self.seen_open(&notification),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.seen_open(&notification),
            _ => None,
        };
        let seen = seen.or_else(|| self.seen_host_call(&notification));
        let Some((kind, line)) = seen else {
            self.let_go(notification);
            return;
        };
        let line = *line;
        let names = [line.call].into_iter().chain(line.narrower);
        match self.faults.next(names, &line.process) {
            None => self.dispatch(notification, kind, line),
            Some(Fault::Errno(errno)) => {
                self.answer_with(&notification, &line, Err(errno), Some("injected"));
            }
            Some(Fault::Ignored) => {
                self.answer_with(&notification, &line, Ok(0), Some("injected"));
            }
            Some(Fault::Hang) => self.hold(notification, line, Waits::Forever),
            Some(Fault::Delay(delay)) => {
                let at = Instant::now() + delay;
                self.due.push((at, Due::Call(notification, kind, line)));
            }
            Some(Fault::Partial(pages, errno)) => {
                self.touch_some(&notification, kind, line.caller, pages);
                self.answer_with(&notification, &line, Err(errno), Some("injected"));
            }
            Some(Fault::Short(bytes)) => {
                let result = read_some(&notification, &line, bytes);
                self.answer_with(&notification, &line, result, Some("injected"));
            }
            Some(Fault::KillCaller) => {
                let _ = kill(Pid::from_raw(line.caller.pid), Signal::SIGKILL);
                self.hold(notification, line, Waits::Forever);
            }
            Some(Fault::KillCommand) => {
                let _ = kill(self.command_pid(), Signal::SIGKILL);
                self.dispatch(notification, kind, line);
            }
        }
    }

    /// sched_getaffinity on a host of so many cores.
    fn tell_cores(&self, notification: &Notification, cores: u32) {
        const BYTES: usize = 128;
        let mut mask = [0; BYTES];
        for core in (0..cores).filter_map(|core| usize::try_from(core).ok()) {
            if let Some(byte) = mask.get_mut(core / 8) {
                *byte |= 1u8 << (core % 8);
            }
        }
        let [_, room, address, ..] = notification.args;
        let bytes = usize::try_from(room).unwrap_or(BYTES).min(BYTES);
        let caller = Caller { tid: notification.tid, pid: notification.tid };
        let result =
            caller.write_bytes(address, &mask[..bytes]).map(|()| i64::try_from(bytes).unwrap_or(0));
        let _ = self.launched.listener.answer(notification.id, result);
    }

    /// Faults in the first pages of what the call is about, as far as there are any.
    fn touch_some(&self, notification: &Notification, kind: FileKind, caller: Caller, pages: u64) {
        let range = match kind {
            FileKind::Host => Some((notification.args[0], notification.args[1])),
            _ if self.model.settings().dialect.pins_at_ioctl() => caller
                .read::<uapi::UserMemoryRegion>(notification.args[2])
                .ok()
                .map(|region| (region.userspace_addr, region.memory_size)),
            _ => None,
        };
        if let Some((address, size)) = range {
            caller.touch_first(address, size, pages);
        }
    }

    /// An open of the device's path, and only that.
    fn seen_open(&mut self, notification: &Notification) -> Option<(FileKind, Box<CallLine>)> {
        // open has the path first, openat and openat2 second.
        #[cfg(target_arch = "x86_64")]
        let path_first = i64::from(notification.nr) == libc::SYS_open;
        #[cfg(not(target_arch = "x86_64"))]
        let path_first = false;
        let at = notification.args[usize::from(!path_first)];
        // The thread's number will do to read its memory.
        let reader = Caller { tid: notification.tid, pid: notification.tid };
        let path = reader.read_string(at, PATH_MAX).ok()?;
        if path != self.device.as_os_str().as_bytes() {
            return None;
        }
        let caller = Caller::of_thread(notification.tid).ok()?;
        let args = json!({"path": self.device.to_string_lossy()});
        let line = self.record.arrived(caller, "path", None, driver::OPEN, args);
        Some((FileKind::Device, Box::new(line)))
    }

    /// A host call that a script asked for.
    fn seen_host_call(&mut self, notification: &Notification) -> Option<(FileKind, Box<CallLine>)> {
        let thread = Caller { tid: notification.tid, pid: notification.tid };
        let flags = || match host::flags_of(notification.nr, &notification.args) {
            host::Flags::Here(flags) => flags,
            host::Flags::At(address) => {
                let mut word = [0; 8];
                // A caller that is gone makes no thread.
                let _ = thread.read_bytes(address, &mut word);
                u64::from_ne_bytes(word)
            }
        };
        let name = host::name(notification.nr, flags)?;
        let mut narrower = host::narrower(name, &notification.args);
        let name = match narrower {
            _ if self.watched.contains(&name) => name,
            // Watched by its narrower name alone, it has that one alone.
            Some(_) => narrower.take().filter(|of| self.watched.contains(of))?,
            None => return None,
        };
        let caller = Caller::of_thread(notification.tid).ok()?;
        let mut args = json!({"args": notification.args.map(|word| format!("{word:#x}"))});
        if name == "openat" {
            let path = thread.read_string(notification.args[1], PATH_MAX).ok()?;
            args["path"] = json!(String::from_utf8_lossy(&path));
        }
        let mut line = self.record.arrived(caller, "host", None, name, args);
        line.narrower = narrower;
        Some((FileKind::Host, Box::new(line)))
    }

    /// An ioctl on one of our files.
    fn seen_ioctl(&mut self, notification: &Notification) -> Option<(FileKind, Box<CallLine>)> {
        let thread = Caller { tid: notification.tid, pid: notification.tid };
        let fd = i32::try_from(notification.args[0]).ok()?;
        let kind = self.files.kind(thread.inode(fd).ok()?)?;
        let caller = Caller::of_thread(notification.tid).ok()?;
        let command = command_of(notification);
        let argument = notification.args[2];
        let (name, args) = match driver::name(kind.as_str(), command) {
            Some(name) => (name, record::arguments(name, &caller, argument)),
            None => (
                driver::UNKNOWN,
                json!({"cmd": format!("{command:#x}"), "arg": format!("{argument:#x}")}),
            ),
        };
        let line = self.record.arrived(caller, kind.as_str(), kind.vm(), name, args);
        Some((kind, Box::new(line)))
    }

    /// A delayed call's turn. One whose caller was interrupted comes again by itself, or never.
    pub(super) fn dispatch_late(
        &mut self,
        notification: Notification,
        kind: FileKind,
        line: CallLine,
    ) {
        if self.launched.listener.waits(notification.id) {
            self.dispatch(notification, kind, line);
        } else {
            self.record.answered(&line, Err(Errno::EINTR), Some("interrupted"));
        }
    }

    /// Brings a call to the model and answers or holds it.
    pub(super) fn dispatch(&mut self, notification: Notification, kind: FileKind, line: CallLine) {
        if line.call == driver::OPEN {
            self.open_device(&notification, &line);
            return;
        }
        if kind == FileKind::Host {
            // The kernel decides its result.
            self.record.answered(&line, Ok(0), Some("let go"));
            self.let_go(notification);
            return;
        }
        let argument = notification.args[2];
        let caller = line.caller;
        let command = command_of(&notification);
        if self.model.settings().dialect == Dialect::QcomB2 {
            self.dispatch_legacy(notification, kind, line);
            return;
        }
        let result = match kind {
            FileKind::Host => Err(Errno::ENOTTY),
            FileKind::Device => match command {
                uapi::CREATE_VM => {
                    self.create_vm(&notification, line, argument);
                    return;
                }
                _ => Err(Errno::ENOTTY),
            },
            FileKind::Vm(vm) => match command {
                uapi::VM_SET_USER_MEM_REGION => {
                    self.model.memory(vm, caller, argument, Access::Share)
                }
                uapi::VM_ANDROID_LEND_USER_MEM => {
                    self.model.memory(vm, caller, argument, Access::Lend)
                }
                uapi::VM_SET_DTB_CONFIG => self.model.set_dtb_config(vm, caller, argument),
                uapi::VM_ANDROID_SET_FW_CONFIG => self.model.set_fw_config(vm, caller, argument),
                uapi::VM_SET_BOOT_CONTEXT => self.model.set_boot_context(vm, caller, argument),
                uapi::VM_ANDROID_RECLAIM_REGION => self.model.reclaim_region(vm, caller, argument),
                uapi::VM_ANDROID_MAP_CMA_MEM => self.model.map_cma_mem(vm, caller, argument),
                uapi::VM_ANDROID_SET_AUTH_TYPE => self.model.set_auth_type(vm, caller, argument),
                uapi::CHECK_EXTENSION => self.model.check_extension(argument),
                uapi::VM_START => {
                    self.start(notification, line, vm);
                    return;
                }
                uapi::VM_ADD_FUNCTION => match self.model.add_function(vm, caller, argument) {
                    Ok(Added::Vcpu(vcpu)) => {
                        self.give_vcpu(&notification, &line, vm, vcpu);
                        return;
                    }
                    Ok(Added::Plain) => Ok(0),
                    Err(errno) => Err(errno),
                },
                uapi::VM_REMOVE_FUNCTION => self.model.remove_function(vm, caller, argument),
                _ => Err(Errno::ENOTTY),
            },
            FileKind::Vcpu(vm, vcpu) => match command {
                uapi::VCPU_RUN => {
                    self.run_vcpu(notification, line, vm, vcpu);
                    return;
                }
                uapi::VCPU_MMAP_SIZE => {
                    i64::try_from(crate::page_size()).map_err(|_| Errno::EINVAL)
                }
                _ if self.model.settings().dialect.pins_at_ioctl() => Err(Errno::EINVAL),
                _ => Err(Errno::ENOTTY),
            },
        };
        self.answer(&notification, &line, result);
    }

    /// The legacy vendor driver: the kernel loads the image by its firmware name, and the first
    /// VCPU_RUN boots it. It knows nothing of type 'G'.
    fn dispatch_legacy(&mut self, notification: Notification, kind: FileKind, line: CallLine) {
        let argument = notification.args[2];
        let command = command_of(&notification);
        let result = match (kind, command) {
            (FileKind::Device, legacy::CREATE_VM) => {
                self.create_vm(&notification, line, argument);
                return;
            }
            (FileKind::Vm(vm), legacy::SET_FW_NAME) => {
                self.model.set_firmware_name(vm, line.caller, argument)
            }
            (FileKind::Vm(_), legacy::GET_VCPU_COUNT) => Ok(1),
            (FileKind::Vm(vm), legacy::CREATE_VCPU) => {
                match self.model.create_legacy_vcpu(vm, argument) {
                    Ok(vcpu) => {
                        self.give_vcpu(&notification, &line, vm, vcpu);
                        return;
                    }
                    Err(errno) => Err(errno),
                }
            }
            (FileKind::Vcpu(vm, vcpu), legacy::VCPU_RUN) => match self.model.boot_legacy(vm) {
                Ok(booted) => {
                    if booted {
                        self.events.sender(vm).send(Event::Started);
                    }
                    self.hold(notification, line, Waits::Run(vm, vcpu));
                    return;
                }
                Err(errno) => Err(errno),
            },
            _ => Err(Errno::ENOTTY),
        };
        self.answer(&notification, &line, result);
    }

    pub(super) fn answer(
        &mut self,
        notification: &Notification,
        line: &CallLine,
        result: Result<i64, Errno>,
    ) {
        self.answer_with(notification, line, result, None);
    }

    pub(super) fn answer_with(
        &mut self,
        notification: &Notification,
        line: &CallLine,
        result: Result<i64, Errno>,
        note: Option<&str>,
    ) {
        // What the call led to stands before its answer, which lets the caller go on.
        self.take_notes();
        let note = match self.launched.listener.waits(notification.id) {
            true => note,
            false => Some("the caller was gone"),
        };
        self.record.answered(line, result, note);
        let _ = self.launched.listener.answer(notification.id, result);
    }

    /// Answers with a descriptor. False: the caller did not get it.
    fn answer_fd(
        &mut self,
        notification: &Notification,
        line: &CallLine,
        fd: OwnedFd,
        cloexec: bool,
    ) {
        use std::os::fd::AsFd;
        match self.launched.listener.answer_fd(notification.id, fd.as_fd(), cloexec) {
            Ok(number) => self.record.answered(line, Ok(fd_value(number)), None),
            // Dropping our copy closes the file for good, which the loop sees.
            Err(errno) => self.answer(notification, line, Err(errno)),
        }
    }

    pub(super) fn hold(&mut self, notification: Notification, line: CallLine, waits: Waits) {
        self.held.push(Held { notification, line, waits });
    }

    fn open_device(&mut self, notification: &Notification, line: &CallLine) {
        if self.model.settings().dialect == Dialect::None {
            self.answer(notification, line, Err(Errno::ENOENT));
            return;
        }
        #[cfg(target_arch = "x86_64")]
        let flags_at = if i64::from(notification.nr) == libc::SYS_open { 1 } else { 2 };
        #[cfg(not(target_arch = "x86_64"))]
        let flags_at = 2;
        // openat2 has a struct there; its callers here all want close-on-exec.
        let cloexec = i64::from(notification.nr) == libc::SYS_openat2
            || u64::try_from(libc::O_CLOEXEC)
                .is_ok_and(|bit| notification.args[flags_at] & bit != 0);
        match self.files.make(FileKind::Device) {
            Ok(fd) => self.answer_fd(notification, line, fd, cloexec),
            Err(errno) => self.answer(notification, line, Err(errno)),
        }
    }

    fn create_vm(&mut self, notification: &Notification, mut line: CallLine, argument: u64) {
        let made = self.model.create_vm(line.caller, argument);
        let file = made.and_then(|vm| {
            line.vm = Some(vm);
            self.files.make(FileKind::Vm(vm))
        });
        match file {
            Ok(fd) => self.answer_fd(notification, &line, fd, true),
            Err(errno) => self.answer(notification, &line, Err(errno)),
        }
    }

    fn give_vcpu(&mut self, notification: &Notification, line: &CallLine, vm: VmId, vcpu: u32) {
        match self.files.make_vcpu(vm, vcpu) {
            Ok(fd) => self.answer_fd(notification, line, fd, true),
            Err(errno) => {
                self.model.file_closed(vm);
                self.answer(notification, line, Err(errno));
            }
        }
    }

    /// START, or a VCPU_RUN that starts first: `line` is held until the engine answers.
    pub(super) fn start(&mut self, notification: Notification, line: CallLine, vm: VmId) {
        if self.rm_dead {
            self.hold(notification, line, Waits::Forever);
            return;
        }
        if self.model.rm_is_busy(vm) {
            self.hold(notification, line, Waits::Turn(vm));
            return;
        }
        let step = self.model.start_by(vm, line.caller);
        if self.model.manager_lost() && !self.rm_dead {
            self.kill_rm("a START without proxy scheduling failed");
        }
        match step {
            StartStep::Answer(result) => self.answer(&notification, &line, result),
            StartStep::Wait => self.hold(notification, line, Waits::Start(vm)),
            StartStep::Hang => self.hold(notification, line, Waits::Forever),
            StartStep::Panic(why) => self.panic(notification, line, vm, why),
            StartStep::Go(start) => {
                self.hold(notification, line, Waits::Start(vm));
                self.take_notes();
                if let Some(console) = &mut self.console {
                    console.name(vm, &start.guest.image_name);
                }
                if let Some(errno) = self.refusals.remove(&vm) {
                    let why = "a script says so".to_string();
                    self.events.sender(vm).send(Event::Refused(errno, why));
                    return;
                }
                if start.paged.is_some() && !start.guest.proxy {
                    // Faults are served in VCPU_RUN alone: this one gets no memory, and aborts at once.
                    let events = self.events.sender(vm);
                    events.send(Event::Started);
                    events.send(Event::Exited(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)));
                    return;
                }
                let engine_vm = self.engine.start(*start, self.events.sender(vm));
                self.running.insert(vm, engine_vm);
            }
        }
    }

    /// Nothing of the host is left: the program dies, and nothing answers any more.
    fn panic(&mut self, notification: Notification, line: CallLine, vm: VmId, why: String) {
        self.take_notes();
        self.record.event(Some(vm), json!({"event": "host-panic", "why": why}));
        self.violations.push(format!("the host's kernel panics: {why}"));
        self.rm_dead = true;
        let _ = kill(self.command_pid(), Signal::SIGKILL);
        let _ = kill(Pid::from_raw(line.caller.pid), Signal::SIGKILL);
        self.hold(notification, line, Waits::Forever);
    }

    /// START came to an end: everybody who waits for it goes on.
    pub(super) fn end_start(&mut self, vm: VmId, result: Result<i64, Errno>) {
        for held in self.take_held(|waits| waits == Waits::Start(vm)) {
            if held.line.call == "VCPU_RUN" && result.is_ok() {
                let kind = self.files_kind(&held);
                self.dispatch(held.notification, kind, held.line);
            } else {
                self.answer(&held.notification, &held.line, result);
            }
        }
    }

    fn files_kind(&self, held: &Held) -> FileKind {
        let fd = i32::try_from(held.notification.args[0]).unwrap_or(-1);
        held.line
            .caller
            .inode(fd)
            .ok()
            .and_then(|inode| self.files.kind(inode))
            .unwrap_or(FileKind::Device)
    }

    pub(super) fn take_held(&mut self, wanted: impl Fn(Waits) -> bool) -> Vec<Held> {
        let (taken, kept) =
            std::mem::take(&mut self.held).into_iter().partition(|held| wanted(held.waits));
        self.held = kept;
        taken
    }

    /// Forgets calls whose caller was interrupted: the kernel answered them, or will ask again.
    pub(super) fn drop_interrupted(&mut self) {
        self.drop_interrupted_closing();
        let (waiting, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| self.launched.listener.waits(held.notification.id));
        self.held = waiting;
        for held in gone {
            self.record.answered(&held.line, Err(Errno::EINTR), Some("interrupted"));
            if let Waits::Run(vm, vcpu) = held.waits {
                self.interrupt_vcpu(vm, vcpu);
            }
        }
    }
}

/// A read of fewer bytes than there are.
fn read_some(notification: &Notification, line: &CallLine, bytes: u64) -> Result<i64, Errno> {
    let [fd, address, wanted, offset, ..] = notification.args;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    let file = line.caller.take_fd(fd)?;
    let length = usize::try_from(bytes.min(wanted)).map_err(|_| Errno::EINVAL)?;
    let mut buffer = vec![0; length];
    let read = if line.call == "read" {
        nix::unistd::read(&file, &mut buffer)?
    } else {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        nix::sys::uio::pread(&file, &mut buffer, offset)?
    };
    line.caller.write_bytes(address, &buffer[..read])?;
    i64::try_from(read).map_err(|_| Errno::EOVERFLOW)
}

/// An ioctl's number is 32 bits, whatever the register's upper half holds.
fn command_of(notification: &Notification) -> u32 {
    u32::try_from(notification.args[1] & 0xffff_ffff).unwrap_or(0)
}
