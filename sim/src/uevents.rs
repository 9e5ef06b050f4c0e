// SPDX-License-Identifier: Apache-2.0
//! `--uevents PATH`: what newer drivers tell udev, as datagrams in the kernel's own format.
//!
//! A netlink group cannot be spoken to from here, so they go to a unix datagram socket that whoever
//! wants to hear binds at the path. Where nobody listens, or does not keep up, they are dropped, as
//! the kernel drops them.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where the misc device of the driver is in sysfs.
const DEVPATH: &str = "/devices/virtual/misc/gunyah";

/// The feed.
#[derive(Debug)]
pub struct Uevents {
    path: PathBuf,
    socket: UnixDatagram,
    sequence: u64,
}

impl Uevents {
    /// A feed to that path, where nobody has to be yet.
    pub fn to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { path: path.to_path_buf(), socket, sequence: 0 })
    }

    /// Sends the event of a record's line.
    pub fn send(&mut self, line: &Value) {
        self.sequence += 1;
        let _ = self.socket.send_to(&datagram(line, self.sequence), &self.path);
    }
}

/// lib/kobject_uevent.c: "ACTION@DEVPATH", then variables, each with its NUL.
fn datagram(line: &Value, sequence: u64) -> Vec<u8> {
    let mut words = vec![
        format!("change@{DEVPATH}"),
        "ACTION=change".to_string(),
        format!("DEVPATH={DEVPATH}"),
        "SUBSYSTEM=misc".to_string(),
    ];
    for name in ["EVENT", "vm_exit", "vm_id"] {
        match &line[name] {
            Value::Null => {}
            Value::String(text) => words.push(format!("{name}={text}")),
            other => words.push(format!("{name}={other}")),
        }
    }
    words.push("DEVNAME=gunyah".to_string());
    words.push(format!("SEQNUM={sequence}"));
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_datagram_is_the_kernels() {
        let line = json!({"event": "uevent", "EVENT": "destroy", "vm_exit": 1, "vm_id": 2});
        let expected = "change@/devices/virtual/misc/gunyah\0ACTION=change\0\
            DEVPATH=/devices/virtual/misc/gunyah\0SUBSYSTEM=misc\0EVENT=destroy\0vm_exit=1\0vm_id=2\0\
            DEVNAME=gunyah\0SEQNUM=9\0";
        assert_eq!(datagram(&line, 9), expected.as_bytes());
    }

    #[test]
    fn what_nobody_hears_is_dropped() {
        let path = std::env::temp_dir().join(format!("gunyah-sim-uevents-{}", std::process::id()));
        let mut feed = Uevents::to(&path).unwrap();
        feed.send(&json!({"EVENT": "create", "vm_id": 1}));
        let listener = UnixDatagram::bind(&path).unwrap();
        feed.send(&json!({"EVENT": "create", "vm_id": 2}));
        let mut heard = [0; 512];
        let length = listener.recv(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard[..length]);
        assert!(heard.contains("EVENT=create\0vm_id=2\0"), "{heard}");
        assert!(heard.ends_with("SEQNUM=2\0"), "{heard}");
        std::fs::remove_file(&path).unwrap();
    }
}
