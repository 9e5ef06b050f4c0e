// SPDX-License-Identifier: Apache-2.0
//! Why a property does not have its value, and what init answers to one.

use nix::errno::Errno;

use super::properties::{CONNECTION_LIMIT, NAME_MAX, QUEUE_MAX};
use crate::text::errno_name;

/// A property without its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {name}={value:?}: {fault}")]
pub struct PropertyError {
    pub name: String,
    pub value: String,
    pub fault: Fault,
}

/// Why it has not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Init would not take the name; nothing was sent.
    #[error(
        "the name {0}; init takes [A-Za-z0-9._@:-], at most {NAME_MAX} bytes here, no dot at an end, no \
         two in a row"
    )]
    Name(&'static str),
    /// There is no property service on this host.
    #[error("no property service")]
    Absent,
    /// Init refused it with this code.
    #[error("init answered {}", reply(*.0))]
    Refused(u32),
    /// A system call failed.
    #[error("{} the property service: {}; {}", .0, errno_name(*.1), cure(*.1))]
    Call(&'static str, Errno),
    #[error(
        "init closed the connection without an answer; the value may be unset; likely cause: init was too \
         busy or the caller's label is unknown to it"
    )]
    NoReply,
    /// The connection took longer than [`CONNECTION_LIMIT`], at this.
    #[error(
        "no answer from init within {} s while {}; the value may be unset; likely cause: init is stuck, \
         see `dmesg | grep init:`", CONNECTION_LIMIT.as_secs(), .0
    )]
    Timeout(&'static str),
    /// The queue was full and this value, the oldest, made room.
    #[error(
        "dropped: {QUEUE_MAX} properties wait for init already; likely cause: init is stuck, see \
         `dmesg | grep init:`"
    )]
    QueueFull,
}

const BUSY: &str =
    "init gave up reading; likely cause: a host too busy at boot; the next change is sent anew";

// AOSP system/core/init/property_service.h and bionic's _system_properties.h.
const REPLIES: [(u32, &str, &str); 9] = [
    (0x04, "PROP_ERROR_READ_CMD", BUSY),
    (0x08, "PROP_ERROR_READ_DATA", BUSY),
    (
        0x0B,
        "PROP_ERROR_READ_ONLY_PROPERTY",
        "a ro. property is set once a boot; use a name that does not begin with ro.",
    ),
    (
        0x10,
        "PROP_ERROR_INVALID_NAME",
        "rename it to [A-Za-z0-9._@:-] without leading, trailing or double dots",
    ),
    (
        0x14,
        "PROP_ERROR_INVALID_VALUE",
        "likely cause: property_contexts gives the property a type that this value is not of; declare it \
         as `prefix string`",
    ),
    (
        0x18,
        "PROP_ERROR_PERMISSION_DENIED",
        "likely cause: SELinux; label vendor.gunyah. as vendor_gunyah_prop in property_contexts and give \
         the caller's domain set_prop(…, vendor_gunyah_prop); `dmesg | grep avc` shows the denial",
    ),
    (
        0x1B,
        "PROP_ERROR_INVALID_CMD",
        "likely cause: an init older than Android 8, which lacks SETPROP2",
    ),
    (
        0x20,
        "PROP_ERROR_HANDLE_CONTROL_MESSAGE",
        "init knows no such service or may not control it",
    ),
    (
        0x24,
        "PROP_ERROR_SET_FAILED",
        "likely cause: the property area is full (128 KiB a context) or its file was not made at boot",
    ),
];

/// AOSP's name of a code, with cause and cure.
fn reply(code: u32) -> String {
    let unknown = (
        code,
        "a code that AOSP does not have",
        "likely cause: another program listens on the property service's socket",
    );
    let mut replies = REPLIES.into_iter();
    let (_, name, cure) = replies.find(|reply| reply.0 == code).unwrap_or(unknown);
    format!("{name} ({code:#x}); {cure}")
}

fn cure(errno: Errno) -> &'static str {
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
