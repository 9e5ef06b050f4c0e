// SPDX-License-Identifier: Apache-2.0
//! QEMU's machine protocol: one JSON object a line each way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{json, Value};

/// Why QEMU ended its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// PSCI SYSTEM_OFF.
    PowerOff,
    /// PSCI SYSTEM_RESET; a kernel that panics and restarts looks the same.
    Reset,
    /// Something else, as a signal from outside.
    Other,
}

/// One end of the protocol.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Qmp {
    /// On a connected stream.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// To poll.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Runs a command and waits for its answer.
    pub fn execute(&mut self, command: &str) -> io::Result<()> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        loop {
            let message = self.message()?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    /// The next message; blocks until there is one.
    pub fn message(&mut self) -> io::Result<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.pending.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// True if a whole message is there already.
    pub fn has_message(&self) -> bool {
        self.pending.contains(&b'\n')
    }
}

/// What `message` says about the guest's end, if it does.
pub fn shutdown(message: &Value) -> Option<Shutdown> {
    if message["event"] != "SHUTDOWN" {
        return None;
    }
    Some(match message["data"]["reason"].as_str() {
        Some("guest-shutdown") => Shutdown::PowerOff,
        Some("guest-reset") => Shutdown::Reset,
        _ => Shutdown::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_events() {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        theirs
            .write_all(b"{\"QMP\":{}}\r\n{\"event\":\"RESUME\"}\r\n{\"return\":{}}\r\n{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,\"reason\":\"guest-reset\"}}\r\n")
            .expect("write");
        let mut qmp = Qmp::new(ours);
        qmp.execute("cont").expect("answer");
        assert!(qmp.has_message());
        let message = qmp.message().expect("event");
        assert_eq!(shutdown(&message), Some(Shutdown::Reset));
        drop(theirs);
        assert!(qmp.message().is_err());
    }
}
