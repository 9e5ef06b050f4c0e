// SPDX-License-Identifier: Apache-2.0
//! The service and its program, and Android's services that it reports to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::node::{kind_of, label, SYSTEM};
use super::processes::Process;
use super::Findings;
use crate::client;
use crate::diagnostic::kinds;
use crate::list::Listed;
use crate::status::control::ReserveStatus;
use crate::status::{logger, properties};
use crate::text::failure;

kinds! {
    PROGRAM_LABEL: Warning "program-label" in Serve {
        "init cannot put this program into the domain gunyahd",
        cause: "sepolicy/vendor is not in the vendor's policy, or the program is not where file_contexts has it",
        cure: "install it as /vendor/bin/gunyahd, with sepolicy/vendor (docs/porting.md, step 5); a program that was pushed for a try needs no label",
    }
    NOT_SERVED: Warning "service-silent" in Serve {
        "no gunyahd serves the control socket",
        cause: "init has not started the service, or it has ended",
        cure: "`getprop init.svc.vendor.gunyahd`; empty means that init does not know the service (`dmesg | grep init:`), `restarting` that it ends again and again (`logcat -s gunyahd`)",
    }
    VM_DOWN: Warning "service-vm-down" in Serve {
        "a VM has crashed or failed",
        cure: "`gunyahctl status VM` has the whole reason, `gunyahctl start VM` tries again",
    }
    NO_PROPERTIES: Warning "no-property-service" in Serve {
        "the property service cannot be reached, and vendor.gunyah.* stay empty",
        cause: "this is not Android, or the SELinux policy lacks set_prop",
        cure: "use the policy of sepolicy/; look for avc: denied in dmesg",
    }
    NO_LOG: Warning "no-log-daemon" in Serve {
        "the log daemon cannot be reached, and lines go to the kernel's log or to stderr",
        cause: "this is not Android, or logd does not run yet",
        cure: "`getprop init.svc.logd`; until it runs, `dmesg | grep gunyahd`",
    }
}

/// The label of the program that init starts.
pub(super) fn program(all: &mut Findings) {
    let Ok(path) = std::env::current_exe() else { return };
    let path_text = path.display();
    match label(&path) {
        Ok(Some(label)) if kind_of(&label) == "gunyahd_exec" => {
            all.good("program", format!("{path_text} is labelled {label}"));
        }
        Ok(Some(label)) => {
            all.bad(
                PROGRAM_LABEL.case(format!("{path_text} is labelled {label}, not gunyahd_exec")),
            );
        }
        // The node's line says so.
        _ => {}
    }
}

/// The gunyahd that serves.
pub(super) struct Service {
    /// Its process, where it can be told.
    pub pid: Option<u32>,
    pub reserve: Option<ReserveStatus>,
}

/// Whether gunyahd serves, and how its VMs are.
pub(super) fn service(socket: &Path, processes: &[Process], all: &mut Findings) -> Option<Service> {
    let path = socket.display();
    let peer = match UnixStream::connect(socket) {
        Ok(stream) => getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid()),
        Err(error) => {
            all.bad(NOT_SERVED.case(format!("{path}: {}", failure(&error))));
            return None;
        }
    };
    let vms = match client::overview(socket) {
        Ok(vms) => vms,
        Err(error) => {
            all.bad(NOT_SERVED.case(error.to_string()));
            return None;
        }
    };
    let states = vms.vms.iter().map(|vm| format!("{} {}", vm.vm, vm.state)).listed();
    all.good("service", format!("gunyahd serves {path}: {}", states.join(", ")));
    for vm in vms.vms.iter().filter(|vm| vm.state.is_bad()) {
        all.bad(VM_DOWN.case(format!("{} is {}: {}", vm.vm, vm.state, vm.reason)));
    }
    // A socket of init's has init for its peer.
    let peer = peer.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 1);
    let pid =
        peer.or_else(|| processes.iter().find(|found| found.is_service()).map(|found| found.pid));
    Some(Service { pid, reserve: vms.reserve })
}

/// The sockets by which states and log lines leave.
pub(super) fn sockets(all: &mut Findings) {
    let path = properties::socket_path();
    match UnixStream::connect(path.as_path()) {
        Ok(_) => all.good("properties", format!("{} answers", path.display())),
        Err(error) => {
            let what = format!("{}: {}", path.display(), failure(&error));
            all.bad(NO_PROPERTIES.case(what));
        }
    }
    let path = logger::socket_path();
    match UnixDatagram::unbound().and_then(|socket| socket.connect(path.as_path())) {
        Ok(()) => all.good("log", format!("{} is served", path.display())),
        Err(error) => {
            let what = format!("{}: {}", path.display(), failure(&error));
            all.bad(NO_LOG.case(what));
        }
    }
}

/// Whether the service may read what the kernel says of a START that fails.
pub(super) fn kernel_log(all: &mut Findings) {
    let Ok(node) = fs::metadata("/dev/kmsg") else { return };
    let mode = node.mode();
    let may = match node.gid() {
        SYSTEM => mode & 0o044 != 0,
        _ => mode & 0o004 != 0,
    };
    match may {
        true => all.good("kernel log", "the user system may read /dev/kmsg"),
        false => all.note(
            "kernel log",
            "the user system may not read /dev/kmsg: a failed START is told without the kernel's words (docs/sepolicy.md)",
        ),
    }
}
