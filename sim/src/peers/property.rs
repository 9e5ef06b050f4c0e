// SPDX-License-Identifier: Apache-2.0
//! A property service: SETPROP2 and the old SETPROP, answered with AOSP's codes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::{json, Value};

use crate::script::PeerMode;

use super::remove_leftover;

// system/core/init/property_service.cpp and bionic's system_properties.h.
const SETPROP: u32 = 1;
const SETPROP2: u32 = 0x0002_0001;
const SUCCESS: u32 = 0;
const READ_DATA: u32 = 0x08;
const READ_ONLY: u32 = 0x0b;
const BAD_NAME: u32 = 0x10;
const BAD_VALUE: u32 = 0x14;
const BAD_COMMAND: u32 = 0x1b;
const CONTROL: u32 = 0x20;
/// Bytes of a value; longer only for `ro.`.
const VALUE_MAX: usize = 91;
/// Longest string that the service receives.
const STRING_MAX: usize = 0xffff;
const OLD_NAME: usize = 32;
const OLD_VALUE: usize = 92;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct PropertyService {
    path: PathBuf,
    listener: Option<UnixListener>,
    mode: PeerMode,
    clients: Vec<Client>,
    properties: BTreeMap<String, String>,
}

/// A request, or how many bytes it was not long enough.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Incomplete,
    Set { name: String, value: Vec<u8>, old: bool },
    Wrong(u32),
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A counted string at `at`, and where the next thing begins.
fn string(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, u32> {
    let Some(length) = word(bytes, at) else {
        return Ok(None);
    };
    let length =
        usize::try_from(length).ok().filter(|&length| length <= STRING_MAX).ok_or(READ_DATA)?;
    let end = at + 4 + length;
    Ok(bytes.get(at + 4..end).map(|text| (text, end)))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

fn parse(bytes: &[u8]) -> Request {
    let lossy = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    match word(bytes, 0) {
        None => Request::Incomplete,
        Some(SETPROP2) => {
            let parts = || {
                let Some((name, next)) = string(bytes, 4)? else {
                    return Ok(None);
                };
                Ok(string(bytes, next)?.map(|(value, _)| (name, value)))
            };
            match parts() {
                Ok(Some((name, value))) => {
                    Request::Set { name: lossy(name), value: value.to_vec(), old: false }
                }
                Ok(None) => Request::Incomplete,
                Err(code) => Request::Wrong(code),
            }
        }
        Some(SETPROP) => match bytes.get(4..4 + OLD_NAME + OLD_VALUE) {
            Some(fields) => Request::Set {
                name: lossy(until_nul(&fields[..OLD_NAME])),
                value: until_nul(&fields[OLD_NAME..]).to_vec(),
                old: true,
            },
            None => Request::Incomplete,
        },
        Some(_) => Request::Wrong(BAD_COMMAND),
    }
}

fn legal_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@:-".contains(&byte))
}

impl PropertyService {
    /// Makes the socket.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let mut service = Self {
            path: path.to_path_buf(),
            listener: None,
            mode: PeerMode::Answer,
            clients: Vec::new(),
            properties: BTreeMap::new(),
        };
        service.set_mode(PeerMode::Answer)?;
        Ok(service)
    }

    /// Changes its behaviour.
    pub fn set_mode(&mut self, mode: PeerMode) -> io::Result<()> {
        self.mode = mode;
        match mode {
            PeerMode::Vanish => {
                self.listener = None;
                self.clients.clear();
                return remove_leftover(&self.path);
            }
            // The file stays, but what connects to it is refused.
            PeerMode::Stale => {
                self.clients.clear();
                self.listener = None;
                remove_leftover(&self.path)?;
                return UnixListener::bind(&self.path).map(drop);
            }
            _ => {}
        }
        if self.listener.is_none() {
            remove_leftover(&self.path)?;
            let listener = UnixListener::bind(&self.path)?;
            listener.set_nonblocking(true)?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// What to poll.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        if self.mode == PeerMode::Hang {
            return Vec::new();
        }
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        listener.into_iter().chain(clients).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect()
    }

    /// Serves whoever came.
    pub fn serve(&mut self, events: &mut Vec<Value>) {
        if self.mode == PeerMode::Hang {
            return;
        }
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, received: Vec::new() });
            }
        }
        for mut client in std::mem::take(&mut self.clients) {
            let open = receive(&mut client);
            match parse(&client.received) {
                Request::Incomplete if open => self.clients.push(client),
                Request::Incomplete => events.push(json!({
                    "event": "property-broken", "bytes": client.received.len(),
                })),
                request => self.answer(&mut client, request, events),
            }
        }
    }

    fn answer(&mut self, client: &mut Client, request: Request, events: &mut Vec<Value>) {
        let (name, value, old, verdict) = match request {
            Request::Set { name, value, old } => {
                let verdict = self.set(&name, &value);
                (name, value, old, verdict)
            }
            Request::Wrong(code) => (String::new(), Vec::new(), false, code),
            Request::Incomplete => return,
        };
        let reply = match self.mode {
            PeerMode::Refuse(code) => code,
            _ => verdict,
        };
        if reply == SUCCESS {
            let value = String::from_utf8_lossy(&value).into_owned();
            self.properties.insert(name.clone(), value);
        }
        let pid =
            getsockopt(&client.stream, PeerCredentials).map(|credentials| credentials.pid()).ok();
        events.push(json!({
            "event": "property",
            "pid": pid,
            "name": name,
            "value": String::from_utf8_lossy(&value),
            "reply": reply,
            "old": old,
        }));
        if self.mode == PeerMode::Flood {
            let _ = client.stream.write_all(&vec![0xa5; 1 << 16]);
        } else if !old {
            let _ = client.stream.write_all(&reply.to_ne_bytes());
        }
    }

    fn set(&self, name: &str, value: &[u8]) -> u32 {
        let read_only = name.starts_with("ro.");
        if !legal_name(name) {
            BAD_NAME
        } else if (value.len() > VALUE_MAX && !read_only) || std::str::from_utf8(value).is_err() {
            BAD_VALUE
        } else if name.starts_with("ctl.") {
            CONTROL
        } else if read_only && self.properties.contains_key(name) {
            READ_ONLY
        } else {
            SUCCESS
        }
    }
}

/// Takes what is there. False: the client sends no more.
fn receive(client: &mut Client) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match client.stream.read(&mut chunk) {
            Ok(0) => return false,
            Ok(length) => client.received.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

impl Drop for PropertyService {
    fn drop(&mut self) {
        let _ = remove_leftover(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> PropertyService {
        let path = std::env::temp_dir().join(format!("gunyah-sim-{name}-{}", std::process::id()));
        PropertyService::listen(&path).unwrap()
    }

    fn request(name: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = SETPROP2.to_ne_bytes().to_vec();
        for part in [name.as_bytes(), value] {
            bytes.extend(u32::try_from(part.len()).unwrap().to_ne_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn ask(service: &mut PropertyService, bytes: &[u8]) -> (u32, Vec<Value>) {
        let mut stream = UnixStream::connect(&service.path).unwrap();
        stream.write_all(bytes).unwrap();
        let mut events = Vec::new();
        service.serve(&mut events);
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).unwrap();
        (u32::from_ne_bytes(reply), events)
    }

    #[test]
    fn replies_are_aosps() {
        let mut service = service("property-replies");
        let mut reply = |name: &str, value: &[u8]| ask(&mut service, &request(name, value)).0;
        assert_eq!(reply("vendor.gunyah.state", b"running"), SUCCESS);
        assert_eq!(reply("vendor..x", b""), BAD_NAME);
        assert_eq!(reply(".x", b""), BAD_NAME);
        assert_eq!(reply("x y", b""), BAD_NAME);
        assert_eq!(reply("x", &[b'v'; 91]), SUCCESS);
        assert_eq!(reply("x", &[b'v'; 92]), BAD_VALUE);
        assert_eq!(reply("x", &[0xff]), BAD_VALUE);
        assert_eq!(reply("ro.x", &[b'v'; 92]), SUCCESS);
        assert_eq!(reply("ro.x", b"again"), READ_ONLY);
        assert_eq!(reply("ctl.start", b"x"), CONTROL);
        let (code, _) = ask(&mut service, &7u32.to_ne_bytes());
        assert_eq!(code, BAD_COMMAND);
    }

    #[test]
    fn half_a_request_waits_and_is_told_when_it_breaks_off() {
        let mut service = service("property-half");
        let bytes = request("a.b", b"c");
        let mut stream = UnixStream::connect(&service.path).unwrap();
        stream.write_all(&bytes[..7]).unwrap();
        let mut events = Vec::new();
        service.serve(&mut events);
        assert!(events.is_empty());
        stream.write_all(&bytes[7..]).unwrap();
        service.serve(&mut events);
        assert_eq!((&events[0]["name"], &events[0]["value"]), (&"a.b".into(), &"c".into()));
        let mut broken = UnixStream::connect(&service.path).unwrap();
        broken.write_all(&bytes[..9]).unwrap();
        drop(broken);
        service.serve(&mut events);
        assert_eq!(events[1]["event"], "property-broken");
    }

    #[test]
    fn bad_days() {
        let mut service = service("property-bad");
        service.set_mode(PeerMode::Refuse(0x18)).unwrap();
        let (code, events) = ask(&mut service, &request("a", b"b"));
        assert_eq!((code, &events[0]["reply"]), (0x18, &0x18.into()));
        service.set_mode(PeerMode::Vanish).unwrap();
        assert!(UnixStream::connect(&service.path).is_err());
        service.set_mode(PeerMode::Stale).unwrap();
        let refused = UnixStream::connect(&service.path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        service.set_mode(PeerMode::Hang).unwrap();
        let _waiting = UnixStream::connect(&service.path).unwrap();
        let mut events = Vec::new();
        service.serve(&mut events);
        assert!(events.is_empty() && service.poll_fds().is_empty());
        service.set_mode(PeerMode::Flood).unwrap();
        let (code, _) = ask(&mut service, &request("a", b"b"));
        assert_eq!(code, 0xa5a5_a5a5);
    }

    #[test]
    fn the_old_command_has_no_reply() {
        let mut bytes = SETPROP.to_ne_bytes().to_vec();
        let mut fields = vec![0; OLD_NAME + OLD_VALUE];
        fields[..3].copy_from_slice(b"a.b");
        fields[OLD_NAME..OLD_NAME + 1].copy_from_slice(b"c");
        bytes.extend(&fields);
        assert_eq!(parse(&bytes[..20]), Request::Incomplete);
        assert_eq!(
            parse(&bytes),
            Request::Set { name: "a.b".into(), value: b"c".to_vec(), old: true }
        );
    }
}
