// SPDX-License-Identifier: Apache-2.0
//! The log daemon's side of its socket (AOSP, system/logging/logd): shows what arrives.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::Result;

/// The file that gets every line.
pub const JOURNAL: &str = "/data/log";

/// Log id, thread, seconds, nanoseconds.
const HEADER: usize = 11;

/// Receives on `path` until the host ends.
pub fn serve(path: &Path) -> Result<()> {
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    std::thread::spawn(move || {
        let mut packet = vec![0; 8192];
        while let Ok(length) = socket.recv(&mut packet) {
            let line =
                line(&packet[..length]).unwrap_or_else(|| format!("? a packet of {length} bytes"));
            println!("logd: {line}");
            if let Ok(mut journal) = OpenOptions::new().create(true).append(true).open(JOURNAL) {
                let _ = writeln!(journal, "{line}");
            }
        }
    });
    Ok(())
}

fn line(packet: &[u8]) -> Option<String> {
    let (priority, rest) = packet.get(HEADER..)?.split_first()?;
    let letter = "??VDIWEF".chars().nth(usize::from(*priority))?;
    let mut parts = rest.split(|byte| *byte == 0);
    let (tag, message) = (parts.next()?, parts.next()?);
    Some(format!("{letter} {}: {}", String::from_utf8_lossy(tag), String::from_utf8_lossy(message)))
}
