// SPDX-License-Identifier: Apache-2.0
//! Values that a file gives as text of a form of their own: names, dependencies, permissions.

use std::fmt;

use super::types::{Text, TextForm};
use crate::text::printable;

/// A VM's name: 1 to 31 bytes of `[a-z0-9_-]`, first one a letter. Short, because the resource
/// manager limits `image-name`; no dots, because property names are split at them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 31;

    /// `None` if `text` is not a VM name.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let rest_ok = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        (first.is_ascii_lowercase() && rest_ok && text.len() <= Self::MAX_LEN)
            .then(|| Self(text.to_owned()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NAME: &str = "1 to 31 of a-z, 0-9, _ and -, a letter first";

/// `name`
pub(super) struct Name;

impl Text for Name {
    type Value = VmName;
    const BLANK: VmName = VmName(String::new());
    const FORM: TextForm = TextForm {
        name: "name",
        limits: Some(NAME),
        bytes: (1, VmName::MAX_LEN),
        pattern: "^[a-z][a-z0-9_-]{0,30}$",
    };

    fn parse(text: &str) -> Result<VmName, String> {
        VmName::new(text).ok_or(format!("expected {NAME}"))
    }
}

/// What a VM waits for in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The other VM.
    pub vm: VmName,
    /// Wait for its `ready` (`"x:ready"`), else for its `running`.
    pub ready: bool,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = if self.ready { ":ready" } else { "" };
        write!(f, "{}{ready}", self.vm)
    }
}

/// An item of `start.after`.
pub(super) struct Waited;

impl Text for Waited {
    type Value = Dependency;
    const BLANK: Dependency = Dependency { vm: VmName(String::new()), ready: false };
    const FORM: TextForm = TextForm {
        name: "name",
        limits: Some("a VM's name, or `name:ready`"),
        bytes: (1, VmName::MAX_LEN + ":ready".len()),
        pattern: "^[a-z][a-z0-9_-]{0,30}(:ready)?$",
    };

    fn parse(text: &str) -> Result<Dependency, String> {
        let (name, ready) = match text.strip_suffix(":ready") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let vm = VmName::new(name).ok_or("expected a VM's name, or \"name:ready\"")?;
        Ok(Dependency { vm, ready })
    }
}

/// What the guest may do with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
}

impl Permissions {
    /// `rwx`, what main memory always has.
    pub const ALL: Self = Self { read: true, write: true, execute: true };

    /// `rw`
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.execute, "x")] {
            if set {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// `flags`
pub(super) struct Flags;

impl Text for Flags {
    type Value = Permissions;
    const BLANK: Permissions = Permissions::READ_WRITE;
    const FORM: TextForm = TextForm {
        name: "text",
        limits: Some("letters of `rwx`, each at most once"),
        bytes: (1, 3),
        pattern: "^[rwx]{1,3}$",
    };

    fn parse(text: &str) -> Result<Permissions, String> {
        let mut flags = Permissions { read: false, write: false, execute: false };
        for letter in text.chars() {
            let flag = match letter {
                'r' => &mut flags.read,
                'w' => &mut flags.write,
                'x' => &mut flags.execute,
                _ => return Err("expected letters of \"rwx\"".to_owned()),
            };
            if std::mem::replace(flag, true) {
                return Err(format!("has {letter} twice"));
            }
        }
        Ok(flags)
    }
}

/// Bytes of an interface's name at most (linux/if.h: IFNAMSIZ without the final NUL).
const INTERFACE: usize = 15;

/// `nets[].tap`
pub(super) struct Interface;

impl Text for Interface {
    type Value = String;
    const BLANK: String = String::new();
    const FORM: TextForm = TextForm {
        name: "text",
        limits: Some("1 to 15 of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`"),
        bytes: (1, INTERFACE),
        pattern: "^[A-Za-z0-9._-]{1,15}$",
    };

    fn parse(text: &str) -> Result<String, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if let Some(other) = text.chars().find(|c| !allowed(*c)) {
            let other = other.to_string();
            let other = printable(&other);
            return Err(format!("has '{other}'; only a-z, A-Z, 0-9 and . _ - are possible"));
        }
        match text {
            "." | ".." => Err("is no name of an interface".to_owned()),
            _ => Ok(text.to_owned()),
        }
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// That of network device `index` of the VM named `vm`: locally administered, and always the same.
    pub fn of(vm: &VmName, index: usize) -> Self {
        // FNV-1a of 64 bits.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let bytes = vm.as_str().bytes().chain([b'/']).chain(index.to_le_bytes());
        let [a, b, c, d, e, ..] = bytes.fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// `nets[].mac`
pub(super) struct Ethernet;

impl Text for Ethernet {
    type Value = Mac;
    const BLANK: Mac = Mac([0; 6]);
    const FORM: TextForm = TextForm {
        name: "text",
        limits: Some("six bytes, as `02:00:00:12:34:56`; the first one even"),
        bytes: (17, 17),
        pattern: "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
    };

    fn parse(text: &str) -> Result<Mac, String> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = value.ok_or("expected six bytes, as 02:00:00:12:34:56")?;
        }
        match (parts.next(), mac) {
            (Some(_), _) => Err("has more than six bytes".to_owned()),
            (None, [0, 0, 0, 0, 0, 0]) => Err("is nobody's address".to_owned()),
            (None, [first, ..]) if first & 1 != 0 => {
                Err("is an address of a group: its first byte is odd".to_owned())
            }
            _ => Ok(Mac(mac)),
        }
    }
}

/// `start.property.name`
pub(super) struct PropertyName;

impl Text for PropertyName {
    type Value = String;
    const BLANK: String = String::new();
    const FORM: TextForm = TextForm {
        name: "text",
        limits: Some("1 to 255 of `a-z`, `A-Z`, `0-9`, `.`, `_`, `@`, `:` and `-`; no dot first, last or twice in a row"),
        bytes: (1, 255),
        pattern: "^[A-Za-z0-9_@:-]+(\\.[A-Za-z0-9_@:-]+)*$",
    };

    fn parse(text: &str) -> Result<String, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._@:-".contains(c);
        if let Some(other) = text.chars().find(|c| !allowed(*c)) {
            let other = other.to_string();
            let other = printable(&other);
            return Err(format!("has '{other}'; only a-z, A-Z, 0-9 and . _ @ : - are possible"));
        }
        if text.starts_with('.') || text.ends_with('.') {
            return Err("must not begin or end with a dot".to_owned());
        }
        if text.contains("..") {
            return Err("must not have two dots in a row".to_owned());
        }
        Ok(text.to_owned())
    }
}
