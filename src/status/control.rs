// SPDX-License-Identifier: Apache-2.0
//! The control socket's protocol: one JSON line each way, versioned and bounded.
//! docs/control-protocol.md is its description.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{End, State};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes, its newline included.
pub const MAX_REQUEST: usize = 4096;

/// Longest answer in bytes, its newline included: 64 VMs' journals fit.
pub const MAX_RESPONSE: usize = 1 << 20;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// One VM, or all.
    Status {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vm: Option<String>,
    },
    /// Start a VM. With `wait`, here and below, the answer comes when that is done or has failed; else
    /// at once.
    Start {
        vm: String,
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Stop a VM.
    Stop {
        vm: String,
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Kill a VM's worker, which ends the VM the hard way.
    Kill {
        vm: String,
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Stop a VM, then start it.
    Restart {
        vm: String,
        #[serde(default = "yes")]
        wait: bool,
    },
    /// The last lines of a VM's journal and of its console.
    Log { vm: String },
    /// Its console. After the answer the connection is the console's: [`crate::console::wire`].
    Console {
        vm: String,
        /// So many bytes of earlier output come first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay: Option<u64>,
        /// Or everything from the byte with this number on, counted as in [`VmStatus::console_end`]:
        /// for those who were here before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
    },
    /// The states now, then every change, until the client hangs up.
    Watch {},
}

fn yes() -> bool {
    true
}

impl Request {
    /// Whether it changes anything, and so needs the right to.
    pub fn changes(&self) -> bool {
        match self {
            Request::Status { .. } | Request::Log { .. } | Request::Watch {} => false,
            Request::Start { .. }
            | Request::Stop { .. }
            | Request::Kill { .. }
            | Request::Restart { .. }
            | Request::Console { .. } => true,
        }
    }
}

/// A line with its version.
#[derive(Serialize)]
struct Line<'a, T> {
    v: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// A line's version, and the rest of it.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// What kind of error an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// Not a request of this protocol.
    BadRequest,
    /// A version that is not spoken here.
    Version,
    /// No VM of that name.
    UnknownVm,
    /// The client may not do that.
    Denied,
    /// The VM is there, and it did not work.
    Failed,
    /// Too many clients, or gunyahd is stopping.
    Busy,
}

/// An error's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl ControlError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// One step of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// Its word: `memory`, `start`.
    pub step: String,
    /// Microseconds.
    pub micros: u64,
    /// What it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The transparent huge pages of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolioStatus {
    /// Those that are huge pages indeed, as its last launch found.
    pub huge: u64,
    /// As many as there could be.
    pub of: u64,
    /// Those of the reserve.
    pub reserved: u64,
}

/// The reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveStatus {
    /// Bytes of a folio.
    pub folio_size: u64,
    /// How many there are.
    pub folios: u64,
    /// How many of them are huge pages now.
    pub huge: u64,
    /// How many no VM has.
    pub free: u64,
}

/// A VM, as status tells it. Times are milliseconds of the host's CLOCK_MONOTONIC, as in the
/// journals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its name.
    pub vm: String,
    /// Its state.
    pub state: State,
    /// Why.
    pub reason: String,
    /// When it came into this state.
    pub since_ms: u64,
    /// How long ago that was.
    pub age_ms: u64,
    /// Restarts of its own accord.
    pub restarts: u32,
    /// Restarts because the guest reset itself.
    pub resets: u32,
    /// Process of its worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its file.
    pub file: String,
    /// What is wrong with the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Waiting will not help it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// False: the driver cannot tell when this guest ends.
    pub end_visible: bool,
    /// The dialect of the driver that its last launch found: `ack61`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// Transparent huge pages of the last launch; absent where it took none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folios: Option<FolioStatus>,
    /// Steps of the last launch, in order.
    pub steps: Vec<StepTime>,
    /// Microseconds from the fork of the last launch to START's return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_micros: Option<u64>,
    /// How its last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<End>,
    /// Bytes that its guest has printed since gunyahd began, over all launches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_end: Option<u64>,
    /// Its virtio devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceStatus>,
}

/// What a virtio device has done since its VM began, some seconds ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its key in the VM's file.
    pub device: String,
    /// Requests answered.
    pub requests: u64,
    /// Bytes to the guest.
    pub read: u64,
    /// Bytes from the guest.
    pub written: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Interrupts.
    pub interrupts: u64,
    /// Accesses to its registers that came to a vCPU's thread.
    pub exits: u64,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in milliseconds of the monotonic clock.
    pub at_ms: u64,
    /// The VM.
    pub vm: String,
    /// Its new state.
    pub state: State,
    /// Why.
    pub reason: String,
}

/// VMs, and what is wrong with the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vms {
    /// All, or the one asked for.
    pub vms: Vec<VmStatus>,
    /// Config directories that could not be read the last time, and what is wrong with the reserve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<ReserveStatus>,
}

/// What is answered. Each has a key of its own, that of its variant; `vms` and `problems` are keys of
/// the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To `start`, `stop` and `restart`: the VM afterwards.
    Done(Box<VmStatus>),
    /// To `log`.
    Lines(Vec<String>),
    /// To `watch`, one for each change.
    Change(Change),
    /// It did not work.
    Error(ControlError),
    /// To `status`, and first to `watch`.
    #[serde(untagged)]
    Vms(Vms),
}

fn bad(message: impl Into<String>) -> ControlError {
    ControlError::new(ErrorKind::BadRequest, message)
}

/// Reads a line of our version, with or without its newline.
fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, ControlError> {
    let found: Versioned = serde_json::from_slice(line)
        .map_err(|error| bad(format!("not a line of this protocol: {error}")))?;
    if found.v != VERSION {
        return Err(ControlError::new(
            ErrorKind::Version,
            format!(
                "version {} is not supported, only version {VERSION}: use gunyahctl and gunyahd of one release",
                found.v
            ),
        ));
    }
    serde_json::from_value(found.rest.into()).map_err(|error| bad(error.to_string()))
}

/// Reads a request's line.
pub fn parse_request(line: &[u8]) -> Result<Request, ControlError> {
    let request = parse(line)?;
    if let Request::Console { replay: Some(_), at: Some(_), .. } = request {
        return Err(bad("`replay` and `at` exclude each other"));
    }
    Ok(request)
}

/// Reads an answer's line.
pub fn parse_response(line: &[u8]) -> Result<Response, ControlError> {
    parse(line)
}

/// A request's line with its newline.
pub fn request_line(request: &Request) -> Vec<u8> {
    line(request)
}

/// An answer's line with its newline; an error's line if it would be too long.
pub fn response_line(response: &Response) -> Vec<u8> {
    let whole = line(response);
    if whole.len() <= MAX_RESPONSE {
        return whole;
    }
    let length = whole.len();
    let text = format!("the answer has {length} bytes, more than {MAX_RESPONSE}: ask for one VM");
    line(&Response::Error(ControlError::new(ErrorKind::Failed, text)))
}

fn line(content: &impl Serialize) -> Vec<u8> {
    let v = VERSION;
    // These types hold nothing that JSON cannot; an empty line would be a protocol error at the peer.
    let mut bytes = serde_json::to_vec(&Line { v, content }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_went() {
        for request in [
            Request::Status { vm: None },
            Request::Status { vm: Some("a".into()) },
            Request::Start { vm: "a".into(), wait: false },
            Request::Stop { vm: "a".into(), wait: true },
            Request::Restart { vm: "a".into(), wait: true },
            Request::Kill { vm: "a".into(), wait: false },
            Request::Log { vm: "a".into() },
            Request::Console { vm: "a".into(), replay: Some(7), at: None },
            Request::Console { vm: "a".into(), replay: None, at: Some(7) },
            Request::Watch {},
        ] {
            assert_eq!(parse_request(&request_line(&request)), Ok(request));
        }
    }

    #[test]
    fn bad_requests_say_what_is_wrong() {
        for (line, kind, word) in [
            ("", ErrorKind::BadRequest, "EOF"),
            ("{", ErrorKind::BadRequest, "EOF"),
            ("[]", ErrorKind::BadRequest, "protocol"),
            (r#"{"op":"status"}"#, ErrorKind::BadRequest, "`v`"),
            (r#"{"v":2,"op":"new"}"#, ErrorKind::Version, "version 2"),
            (r#"{"v":1,"op":"reboot"}"#, ErrorKind::BadRequest, "reboot"),
            (r#"{"v":1,"op":"stop"}"#, ErrorKind::BadRequest, "`vm`"),
            (r#"{"v":1,"op":"log","vm":"a","wait":true}"#, ErrorKind::BadRequest, "wait"),
            (r#"{"v":1,"op":"watch","vm":"a"}"#, ErrorKind::BadRequest, "`vm`"),
            (
                r#"{"v":1,"op":"console","vm":"a","at":1,"replay":1}"#,
                ErrorKind::BadRequest,
                "exclude",
            ),
            (r#"{"v":1,"op":"status","vmm":"a"}"#, ErrorKind::BadRequest, "vmm"),
            (r#"{"v":1,"op":"status","vm":7}"#, ErrorKind::BadRequest, "string"),
        ] {
            let error = parse_request(line.as_bytes()).unwrap_err();
            assert_eq!(error.kind, kind, "{line}");
            assert!(error.message.contains(word), "{line}: {}", error.message);
        }
    }

    #[test]
    fn answers_come_back_and_long_ones_are_refused() {
        let response = Response::Lines(vec!["one \"line\"".to_owned(), "ü\n".to_owned()]);
        let bytes = response_line(&response);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(parse_response(&bytes), Ok(response));
        let long = response_line(&Response::Lines(vec!["x".repeat(MAX_RESPONSE)]));
        assert!(long.len() < 200);
        assert!(matches!(
            parse_response(&long),
            Ok(Response::Error(ControlError { kind: ErrorKind::Failed, .. }))
        ));
    }
}
