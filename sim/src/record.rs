// SPDX-License-Identifier: Apache-2.0
//! `--record FILE`: every call and event as a line of JSON.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use gunyah::uapi::{
    BootContext, FunctionDesc, FunctionIoeventfd, FunctionIrqfd, FunctionVcpu, GuestRange,
    UserMemoryRegion, FUNCTION_IOEVENTFD, FUNCTION_IRQFD, FUNCTION_VCPU,
};
use nix::errno::Errno;
use serde_json::{json, Map, Value};

use crate::caller::Caller;
use crate::model::errno_name;
use crate::vm::VmId;

/// The record's file, or nothing.
#[derive(Debug)]
pub struct Record {
    file: Option<File>,
    /// The first line that could not be written.
    failed: Option<io::Error>,
    begin: Instant,
    next: u64,
}

/// A call that came in and is not answered yet.
#[derive(Debug, Clone)]
pub struct CallLine {
    seq: u64,
    time_us: u64,
    /// Who called.
    pub caller: Caller,
    /// The name of its process.
    pub process: String,
    /// `device`, `vm`, `vcpu` or `path`.
    pub fd_kind: &'static str,
    /// The VM, once known.
    pub vm: Option<VmId>,
    /// The call's name, without `GH_` or `GUNYAH_`.
    pub call: &'static str,
    /// The narrower name by which scripts may mean it, too.
    pub narrower: Option<&'static str>,
    /// Its arguments by name.
    pub args: Value,
}

impl Record {
    /// Opens the file, or records nothing.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let file = path
            .map(|path| {
                let what = |error| format!("record {}: {error}", path.display());
                File::create(path).map_err(what)
            })
            .transpose()?;
        Ok(Self { file, failed: None, begin: Instant::now(), next: 1 })
    }

    /// Why lines are missing, if any are.
    pub fn failed(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.next;
        self.next += 1;
        seq
    }

    /// A call came in: it gets its number and time now, its line when it is answered.
    pub fn arrived(
        &mut self,
        caller: Caller,
        fd_kind: &'static str,
        vm: Option<VmId>,
        call: &'static str,
        args: Value,
    ) -> CallLine {
        CallLine {
            seq: self.take_seq(),
            time_us: self.now(),
            caller,
            process: caller.process_name(),
            fd_kind,
            vm,
            call,
            narrower: None,
            args,
        }
    }

    /// A call was answered. `note` tells what a real driver would not have done.
    pub fn answered(&mut self, line: &CallLine, result: Result<i64, Errno>, note: Option<&str>) {
        let mut object = Map::new();
        object.insert("seq".into(), json!(line.seq));
        object.insert("time_us".into(), json!(line.time_us));
        object.insert("took_us".into(), json!(self.now().saturating_sub(line.time_us)));
        object.insert("pid".into(), json!(line.caller.pid));
        object.insert("tid".into(), json!(line.caller.tid));
        object.insert("process".into(), json!(line.process));
        object.insert("fd-kind".into(), json!(line.fd_kind));
        object.insert("vm".into(), json!(line.vm));
        object.insert("call".into(), json!(line.call));
        object.insert("args".into(), line.args.clone());
        match result {
            Ok(value) => {
                object.insert("ret".into(), json!(value));
                object.insert("errno".into(), Value::Null);
            }
            Err(errno) => {
                object.insert("ret".into(), json!(-1));
                object.insert("errno".into(), json!(errno_name(errno)));
            }
        }
        if let Some(note) = note {
            object.insert("note".into(), json!(note));
        }
        self.write(&Value::Object(object));
    }

    /// Something happened that is not a call. `what` is an object with `event`.
    pub fn event(&mut self, vm: Option<VmId>, what: Value) {
        let mut object = Map::new();
        object.insert("seq".into(), json!(self.take_seq()));
        object.insert("time_us".into(), json!(self.now()));
        if let Some(vm) = vm {
            object.insert("vm".into(), json!(vm));
        }
        if let Value::Object(fields) = what {
            object.extend(fields);
        }
        self.write(&Value::Object(object));
    }

    fn write(&mut self, line: &Value) {
        if let Some(file) = &mut self.file {
            // One write a line, so that a reader never sees half of one.
            if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
                self.failed.get_or_insert(error);
            }
        }
    }
}

fn hex(value: u64) -> Value {
    json!(format!("{value:#x}"))
}

/// A call's arguments with the names of the API's fields. Addresses are hexadecimal strings.
pub fn arguments(call: &str, caller: &Caller, argument: u64) -> Value {
    let shown = match call {
        "VM_SET_USER_MEM_REGION" | "VM_ANDROID_LEND_USER_MEM" => {
            caller.read::<UserMemoryRegion>(argument).map(|region| {
                json!({
                    "label": region.label,
                    "flags": region.flags,
                    "guest_phys_addr": hex(region.guest_phys_addr),
                    "memory_size": region.memory_size,
                    "userspace_addr": hex(region.userspace_addr),
                })
            })
        }
        "VM_SET_DTB_CONFIG" => caller.read::<GuestRange>(argument).map(
            |dtb| json!({"guest_phys_addr": hex(dtb.guest_phys_addr), "size": dtb.size}),
        ),
        "VM_ANDROID_SET_FW_CONFIG" => caller.read::<GuestRange>(argument).map(
            |firmware| json!({"guest_phys_addr": hex(firmware.guest_phys_addr), "size": firmware.size}),
        ),
        "VM_SET_BOOT_CONTEXT" => caller
            .read::<BootContext>(argument)
            .map(|context| json!({"reg": context.reg, "value": hex(context.value)})),
        "VM_ADD_FUNCTION" | "VM_REMOVE_FUNCTION" => caller
            .read::<FunctionDesc>(argument)
            .map(|desc| function(caller, &desc)),
        "VM_START" | "VCPU_RUN" | "VCPU_MMAP_SIZE" => Ok(json!({})),
        _ => Ok(json!({"arg": hex(argument)})),
    };
    shown.unwrap_or_else(|_| json!({"arg": hex(argument)}))
}

fn function(caller: &Caller, desc: &FunctionDesc) -> Value {
    let shown = match desc.kind {
        FUNCTION_VCPU => caller.read::<FunctionVcpu>(desc.arg).map(|vcpu| json!({"id": vcpu.id})),
        FUNCTION_IRQFD => caller
            .read::<FunctionIrqfd>(desc.arg)
            .map(|line| json!({"fd": line.fd, "label": line.label, "flags": line.flags})),
        FUNCTION_IOEVENTFD => caller.read::<FunctionIoeventfd>(desc.arg).map(|event| {
            json!({
                "datamatch": event.datamatch, "addr": hex(event.addr), "len": event.len,
                "fd": event.fd, "flags": event.flags,
            })
        }),
        _ => Ok(Value::Null),
    };
    json!({
        "type": desc.kind,
        "arg_size": desc.arg_size,
        "arg": shown.unwrap_or(Value::Null),
    })
}
