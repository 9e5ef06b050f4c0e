// SPDX-License-Identifier: Apache-2.0
//! Android's log daemon, by the datagrams that liblog writes.
//!
//! A datagram is the header of AOSP `system/logging/liblog/include/private/android_logger.h` (u8 log id,
//! u16 thread, u32 seconds, u32 nanoseconds, packed, little endian), then u8 priority, tag NUL, message NUL.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{sendto, socket, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::unistd::gettid;

use super::logger::{pieces, Sent};

// LOGGER_ENTRY_MAX_PAYLOAD: priority, tag, message and both NULs.
const PAYLOAD_MAX: usize = 4068;
// LOG_ID_MAIN.
const LOG_ID: u8 = 0;

/// A way to logd. Its socket is never connected: each datagram finds the logd that is there now, also
/// from a confined worker, which could make no new socket.
pub struct Logd {
    path: PathBuf,
    fd: Option<OwnedFd>,
}

impl Logd {
    pub fn new(path: PathBuf) -> Self {
        Self { path, fd: None }
    }

    /// The socket's fd, once there is one.
    pub fn fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn socket(&mut self) -> nix::Result<RawFd> {
        if let Some(fd) = self.fd() {
            return Ok(fd);
        }
        let fd = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(self.fd.insert(fd).as_raw_fd())
    }

    /// Sends one record in as many datagrams as it needs.
    pub fn send(&mut self, level: log::Level, tag: &str, message: &str) -> Sent {
        let room = PAYLOAD_MAX.saturating_sub(1 + tag.len() + 1 + 1);
        for piece in pieces(message, room) {
            match self.send_datagram(&datagram(level, tag, piece)) {
                Sent::Whole => {}
                not => return not,
            }
        }
        Sent::Whole
    }

    fn send_datagram(&mut self, bytes: &[u8]) -> Sent {
        let sent = self.socket().and_then(|fd| {
            let address = UnixAddr::new(self.path.as_path())?;
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            sendto(fd, bytes, &address, flags)
        });
        match sent {
            Ok(_) => Sent::Whole,
            // It is there and slow.
            Err(Errno::EAGAIN) => Sent::Lost,
            Err(_) => Sent::Absent,
        }
    }
}

/// The message has no control characters but line ends.
fn datagram(level: log::Level, tag: &str, message: &str) -> Vec<u8> {
    // Only the low 16 bits have room in the header.
    let thread = u16::try_from(gettid().as_raw() & 0xffff).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    let mut bytes = vec![LOG_ID];
    bytes.extend(thread.to_le_bytes());
    bytes.extend(seconds.to_le_bytes());
    bytes.extend(now.subsec_nanos().to_le_bytes());
    bytes.push(priority(level));
    for text in [tag, message] {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

// ANDROID_LOG_VERBOSE to ANDROID_LOG_ERROR.
fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 6,
        log::Level::Warn => 5,
        log::Level::Info => 4,
        log::Level::Debug => 3,
        log::Level::Trace => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagram_has_liblogs_layout() {
        let bytes = datagram(log::Level::Warn, "gunyahd", "a b");
        assert_eq!(bytes[0], 0);
        assert_eq!(&bytes[11..], b"\x05gunyahd\0a b\0");
    }
}
