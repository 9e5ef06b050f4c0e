// SPDX-License-Identifier: Apache-2.0
//! A log daemon: datagrams as liblog sends them, decoded.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags};
use serde_json::{json, Value};

use crate::script::PeerMode;

use super::remove_leftover;

/// id u8, tid u16, seconds u32, nanoseconds u32: android_log_header_t of liblog.
const HEADER: usize = 11;
/// LOGGER_ENTRY_MAX_PAYLOAD of liblog: priority, tag and message with their NULs.
const PAYLOAD_MAX: usize = 4068;
/// A line of the flood; it stays out of the record.
const FLOOD: &[u8] = b"others have more to say";
const PRIORITIES: [&str; 6] = ["V", "D", "I", "W", "E", "F"];

/// The daemon.
#[derive(Debug)]
pub struct Logd {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    mode: PeerMode,
}

fn decode(datagram: &[u8]) -> Result<Value, &'static str> {
    let (header, payload) = datagram.split_at_checked(HEADER).ok_or("shorter than the header")?;
    if payload.len() > PAYLOAD_MAX {
        return Err("payload longer than 4068 bytes");
    }
    let (&priority, text) = payload.split_first().ok_or("no priority")?;
    let priority = priority
        .checked_sub(2)
        .and_then(|index| PRIORITIES.get(usize::from(index)))
        .ok_or("unknown priority")?;
    let tag_end = text.iter().position(|&byte| byte == 0).ok_or("tag without NUL")?;
    let message = text[tag_end + 1..].strip_suffix(b"\0").ok_or("message without NUL")?;
    if message.contains(&0) {
        return Err("NUL inside the message");
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    Ok(json!({
        "event": "log",
        "id": header[0],
        "tid": u16::from_le_bytes([header[1], header[2]]),
        "sec": word(3),
        "nsec": word(7),
        "priority": priority,
        "tag": String::from_utf8_lossy(&text[..tag_end]),
        "message": String::from_utf8_lossy(message),
        "utf8": std::str::from_utf8(message).is_ok(),
    }))
}

impl Logd {
    /// Makes the socket.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let mut logd = Self { path: path.to_path_buf(), socket: None, mode: PeerMode::Answer };
        logd.set_mode(PeerMode::Answer)?;
        Ok(logd)
    }

    /// Changes its behaviour.
    pub fn set_mode(&mut self, mode: PeerMode) -> io::Result<()> {
        self.mode = mode;
        match mode {
            PeerMode::Vanish => {
                self.socket = None;
                return remove_leftover(&self.path);
            }
            // The file stays, but what connects to it is refused.
            PeerMode::Stale if self.socket.take().is_some() => return Ok(()),
            PeerMode::Stale => {
                remove_leftover(&self.path)?;
                return UnixDatagram::bind(&self.path).map(drop);
            }
            _ => {}
        }
        if self.socket.is_none() {
            remove_leftover(&self.path)?;
            let socket = UnixDatagram::bind(&self.path)?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        if mode == PeerMode::Flood {
            self.fill()?;
        }
        Ok(())
    }

    /// Fills the socket up with others' lines, so that there is no room for any more.
    fn fill(&self) -> io::Result<()> {
        let other = UnixDatagram::unbound()?;
        other.set_nonblocking(true)?;
        loop {
            match other.send_to(FLOOD, &self.path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }

    fn reads(&self) -> bool {
        !matches!(self.mode, PeerMode::Hang | PeerMode::Flood)
    }

    /// What to poll.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        match &self.socket {
            Some(socket) if self.reads() => {
                vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)]
            }
            _ => Vec::new(),
        }
    }

    /// Takes what came.
    pub fn serve(&mut self, events: &mut Vec<Value>) {
        if !self.reads() {
            return;
        }
        let mut datagram = vec![0; 2 * PAYLOAD_MAX];
        while let Some(Ok(length)) = self.socket.as_ref().map(|of| of.recv(&mut datagram)) {
            if matches!(self.mode, PeerMode::Refuse(_)) || datagram[..length] == *FLOOD {
                continue;
            }
            events.push(
                decode(&datagram[..length]).unwrap_or_else(
                    |why| json!({"event": "log-broken", "bytes": length, "why": why}),
                ),
            );
        }
    }
}

impl Drop for Logd {
    fn drop(&mut self) {
        let _ = remove_leftover(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(priority: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0x34, 0x12];
        bytes.extend(1_700_000_000u32.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
        bytes.push(priority);
        bytes.extend(text);
        bytes
    }

    #[test]
    fn a_good_line_is_decoded() {
        let line = decode(&datagram(4, b"gunyahd\0vm started\0")).unwrap();
        assert_eq!(line["priority"], "I");
        assert_eq!(line["tag"], "gunyahd");
        assert_eq!(line["message"], "vm started");
        assert_eq!((&line["tid"], &line["sec"]), (&0x1234.into(), &1_700_000_000.into()));
    }

    #[test]
    fn broken_lines_say_why() {
        assert_eq!(decode(b"short"), Err("shorter than the header"));
        assert_eq!(decode(&datagram(9, b"t\0m\0")), Err("unknown priority"));
        assert_eq!(decode(&datagram(4, b"t")), Err("tag without NUL"));
        assert_eq!(decode(&datagram(4, b"t\0m")), Err("message without NUL"));
        let long = [b"t\0".as_slice(), &[b'm'; 4065], b"\0"].concat();
        assert_eq!(decode(&datagram(4, &long)), Err("payload longer than 4068 bytes"));
        assert!(decode(&datagram(4, &long[1..])).is_ok());
    }

    #[test]
    fn it_comes_back_after_it_vanished() {
        let path = std::env::temp_dir().join(format!("gunyah-sim-logd-{}", std::process::id()));
        let mut logd = Logd::listen(&path).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        logd.set_mode(PeerMode::Vanish).unwrap();
        assert!(client.connect(&path).is_err());
        logd.set_mode(PeerMode::Answer).unwrap();
        client.connect(&path).unwrap();
        client.send(&datagram(6, b"t\0lost\0")).unwrap();
        let mut events = Vec::new();
        logd.serve(&mut events);
        assert_eq!(events[0]["priority"], "E");
        logd.set_mode(PeerMode::Refuse(0)).unwrap();
        client.send(&datagram(6, b"t\0dropped\0")).unwrap();
        logd.serve(&mut events);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_flood_leaves_no_room_and_a_stale_socket_refuses() {
        let path = std::env::temp_dir().join(format!("gunyah-sim-flood-{}", std::process::id()));
        let mut logd = Logd::listen(&path).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&path).unwrap();
        let line = datagram(6, b"t\0late\0");
        logd.set_mode(PeerMode::Flood).unwrap();
        let error = client.send(&line).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        logd.set_mode(PeerMode::Answer).unwrap();
        let mut events = Vec::new();
        logd.serve(&mut events);
        assert!(events.is_empty(), "{events:?}");
        client.send(&line).unwrap();
        logd.serve(&mut events);
        assert_eq!(events[0]["message"], "late");

        logd.set_mode(PeerMode::Stale).unwrap();
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        assert!(refused(client.send(&line).unwrap_err()));
        assert!(refused(client.connect(&path).unwrap_err()));
        logd.set_mode(PeerMode::Answer).unwrap();
        client.connect(&path).unwrap();
        client.send(&line).unwrap();
        logd.set_mode(PeerMode::Vanish).unwrap();
        logd.set_mode(PeerMode::Stale).unwrap();
        assert!(refused(client.connect(&path).unwrap_err()));
    }
}
