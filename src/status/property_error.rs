// SPDX-License-Identifier: Apache-2.0
//! What init answers to a property, and why a property does not have its value.

use std::path::PathBuf;

use nix::errno::Errno;

use super::properties::{CONNECTION_LIMIT, NAME_MAX, QUEUE_MAX};

/// What init answered to SETPROP2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The property has the value.
    Success,
    /// Init could not read the command.
    ReadCommand,
    /// Init could not read name and value.
    ReadData,
    /// A `ro.` property that is set already.
    ReadOnly,
    /// Not a property name to init.
    InvalidName,
    /// Too long, not UTF-8, or not of the type that property_contexts gives.
    InvalidValue,
    /// SELinux says no.
    PermissionDenied,
    /// Not a command to init.
    InvalidCommand,
    /// A `ctl.` message that could not be handled.
    ControlMessage,
    /// The property area is full or missing.
    SetFailed,
    /// A code that AOSP does not have.
    Unknown(u32),
}

impl Reply {
    /// The reply of this code.
    pub fn from_code(code: u32) -> Self {
        match code {
            0x00 => Reply::Success,
            0x04 => Reply::ReadCommand,
            0x08 => Reply::ReadData,
            0x0B => Reply::ReadOnly,
            0x10 => Reply::InvalidName,
            0x14 => Reply::InvalidValue,
            0x18 => Reply::PermissionDenied,
            0x1B => Reply::InvalidCommand,
            0x20 => Reply::ControlMessage,
            0x24 => Reply::SetFailed,
            other => Reply::Unknown(other),
        }
    }

    /// AOSP's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Reply::Success => "PROP_SUCCESS",
            Reply::ReadCommand => "PROP_ERROR_READ_CMD",
            Reply::ReadData => "PROP_ERROR_READ_DATA",
            Reply::ReadOnly => "PROP_ERROR_READ_ONLY_PROPERTY",
            Reply::InvalidName => "PROP_ERROR_INVALID_NAME",
            Reply::InvalidValue => "PROP_ERROR_INVALID_VALUE",
            Reply::PermissionDenied => "PROP_ERROR_PERMISSION_DENIED",
            Reply::InvalidCommand => "PROP_ERROR_INVALID_CMD",
            Reply::ControlMessage => "PROP_ERROR_HANDLE_CONTROL_MESSAGE",
            Reply::SetFailed => "PROP_ERROR_SET_FAILED",
            Reply::Unknown(_) => "a code that AOSP does not have",
        }
    }

    /// Likely cause and cure.
    fn cure(self) -> &'static str {
        match self {
            Reply::Success => "",
            Reply::ReadCommand | Reply::ReadData => {
                "init gave up reading; likely cause: a host too busy at boot; the next change is sent anew"
            }
            Reply::ReadOnly => "a ro. property is set once a boot; use a name that does not begin with ro.",
            Reply::InvalidName => "rename it to [A-Za-z0-9._@:-] without leading, trailing or double dots",
            Reply::InvalidValue => {
                "likely cause: property_contexts gives the property a type that this value is not of; \
                 declare it as `prefix string`"
            }
            Reply::PermissionDenied => {
                "likely cause: SELinux; label vendor.gunyah. as vendor_gunyah_prop in property_contexts and \
                 give the caller's domain set_prop(…, vendor_gunyah_prop); `dmesg | grep avc` shows the denial"
            }
            Reply::InvalidCommand => "likely cause: an init older than Android 8, which lacks SETPROP2",
            Reply::ControlMessage => "init knows no such service or may not control it",
            Reply::SetFailed => {
                "likely cause: the property area is full (128 KiB a context) or its file was not made at boot"
            }
            Reply::Unknown(_) => "likely cause: another program listens on the property service's socket",
        }
    }
}

/// Why a property does not have its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// Not a name that init would take; nothing was sent.
    #[error(
        "property name {name:?} is invalid: {why}; init takes [A-Za-z0-9._@:-], at most {NAME_MAX} bytes here, \
         no dot at an end, no two in a row"
    )]
    Name {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Init refused it.
    #[error("property {name}={value:?}: init answered {} ({:#x}); {}", .reply.name(), .code, .reply.cure())]
    Refused {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// The answer.
        reply: Reply,
        /// Its number.
        code: u32,
    },
    /// A system call failed.
    #[error("property {name}: {call} {}: {errno:?} ({}); {}", .socket.display(), .errno.desc(), cure_of(*.errno))]
    Socket {
        /// The name.
        name: String,
        /// What was tried.
        call: &'static str,
        /// Where.
        socket: PathBuf,
        /// The answer.
        errno: Errno,
    },
    /// Init closed the connection without an answer.
    #[error(
        "property {name}: {} closed the connection without an answer; the value may be unset; \
         likely cause: init was too busy or the caller's label is unknown to it", .socket.display()
    )]
    NoReply {
        /// The name.
        name: String,
        /// Where.
        socket: PathBuf,
    },
    /// The connection took longer than [`CONNECTION_LIMIT`].
    #[error(
        "property {name}: no answer from {} within {} s while {doing}; the value may be unset; \
         likely cause: init is stuck, see `dmesg | grep init:`", .socket.display(), CONNECTION_LIMIT.as_secs()
    )]
    Timeout {
        /// The name.
        name: String,
        /// Where it stood: connecting, writing, waiting for the answer.
        doing: &'static str,
        /// Where.
        socket: PathBuf,
    },
    /// The queue was full and this value, the oldest, made room.
    #[error(
        "property {name}={value:?} dropped: {QUEUE_MAX} properties wait for init already; \
         likely cause: init is stuck, see `dmesg | grep init:`"
    )]
    QueueFull {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
}

fn cure_of(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => {
            "likely cause: SELinux or the socket's mode; set_prop(…, vendor_gunyah_prop) also allows the connection"
        }
        Errno::ECONNREFUSED => "nobody listens; likely cause: init is gone, or a stale socket file",
        Errno::ENAMETOOLONG => "a Unix socket's path has at most 107 bytes",
        Errno::EPIPE | Errno::ECONNRESET => "init closed the connection early; the value may be unset",
        _ => "the value may be unset",
    }
}
