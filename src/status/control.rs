// SPDX-License-Identifier: Apache-2.0
//! The control socket's protocol: one JSON line each way, versioned and bounded.
//! docs/control-protocol.md is its description.

use crate::json::{self, choice, object, record, Json, Node, Value};
use crate::text::{printable, words};

use super::{End, State};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes, its newline included.
pub const MAX_REQUEST: usize = 4096;

/// Longest answer in bytes, its newline included: 64 VMs' journals fit.
pub const MAX_RESPONSE: usize = 1 << 20;

choice! {
    /// What can be asked.
    Request {
        /// One VM, or all.
        Status { vm: Option<String>, } = "status",
        /// Start a VM. With `wait`, here and below, the answer comes when that is done or has failed; else
        /// at once.
        Start { vm: String, wait: bool = true, } = "start",
        /// Stop a VM.
        Stop { vm: String, wait: bool = true, } = "stop",
        /// Kill a VM's worker, which ends the VM the hard way.
        Kill { vm: String, wait: bool = true, } = "kill",
        /// Stop a VM, then start it.
        Restart { vm: String, wait: bool = true, } = "restart",
        /// The last lines of a VM's journal and of its console.
        Log { vm: String, } = "log",
        /// Its console. After the answer the connection is the console's: [`crate::console::wire`].
        Console {
            vm: String,
            /// So many bytes of earlier output come first.
            replay: Option<u64>,
            /// Or everything from the byte with this number on, counted as in [`VmStatus::console_end`]:
            /// for those who were here before.
            at: Option<u64>,
        } = "console",
        /// The states now, then every change, until the client hangs up.
        Watch {} = "watch",
    }
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

words! {
    /// What kind of error an answer is.
    ErrorKind {
        /// Not a request of this protocol.
        BadRequest = "bad-request",
        /// A version that is not spoken here.
        Version = "version",
        /// No VM of that name.
        UnknownVm = "unknown-vm",
        /// The client may not do that.
        Denied = "denied",
        /// The VM is there, and it did not work.
        Failed = "failed",
        /// Too many clients, or gunyahd is stopping.
        Busy = "busy",
    }
}

record! {
    /// An error's answer.
    #[derive(thiserror::Error)]
    #[error("{message}")]
    ControlError {
        /// For programs.
        kind: ErrorKind,
        /// For people.
        message: String,
    }
}

impl ControlError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

record! {
    /// One step of a launch.
    StepTime {
        /// Its word: `memory`, `start`.
        step: String,
        /// Microseconds.
        micros: u64,
        /// What it did.
        detail: String = String::new(),
    }
}

record! {
    /// The transparent huge pages of a VM.
    #[derive(Copy)]
    FolioStatus {
        /// Those that are huge pages indeed, as its last launch found.
        huge: u64,
        /// As many as there could be.
        of: u64,
        /// Those of the reserve.
        reserved: u64,
    }
}

record! {
    /// The reserve.
    #[derive(Copy)]
    ReserveStatus {
        /// Bytes of a folio.
        folio_size: u64,
        /// How many there are.
        folios: u64,
        /// How many of them are huge pages now.
        huge: u64,
        /// How many no VM has.
        free: u64,
    }
}

record! {
    /// A VM, as status tells it. Times are milliseconds of the host's CLOCK_MONOTONIC, as in the
    /// journals.
    VmStatus {
        /// Its name.
        vm: String,
        /// Its state.
        state: State,
        /// Why.
        reason: String,
        /// When it came into this state.
        since_ms: u64,
        /// How long ago that was.
        age_ms: u64,
        /// Restarts of its own accord.
        restarts: u32,
        /// Restarts because the guest reset itself.
        resets: u32,
        /// Process of its worker.
        pid: Option<i32>,
        /// Its file.
        file: String,
        /// What is wrong with the file.
        problems: Vec<String> = Vec::new(),
        /// Waiting will not help it.
        stuck: bool = false,
        /// False: the driver cannot tell when this guest ends.
        end_visible: bool,
        /// The dialect of the driver that its last launch found: `ack61`.
        dialect: Option<String>,
        /// Transparent huge pages of the last launch; absent where it took none.
        folios: Option<FolioStatus>,
        /// Steps of the last launch, in order.
        steps: Vec<StepTime>,
        /// Microseconds from the fork of the last launch to START's return.
        launch_micros: Option<u64>,
        /// How its last run ended.
        last_end: Option<End>,
        /// Bytes that its guest has printed since gunyahd began, over all launches.
        console_end: Option<u64>,
        /// Its virtio devices.
        devices: Vec<DeviceStatus> = Vec::new(),
    }
}

record! {
    /// What a virtio device has done since its VM began, some seconds ago.
    DeviceStatus {
        /// Its key in the VM's file.
        device: String,
        /// Requests answered.
        requests: u64,
        /// Bytes to the guest.
        read: u64,
        /// Bytes from the guest.
        written: u64,
        /// Requests answered with an error.
        errors: u64,
        /// Interrupts.
        interrupts: u64,
        /// Accesses to its registers that came to a vCPU's thread.
        exits: u64,
        /// A socket device's: the guest's address, given or chosen.
        cid: Option<u64>,
    }
}

record! {
    /// A change of state.
    Change {
        /// When, in milliseconds of the monotonic clock.
        at_ms: u64,
        /// The VM.
        vm: String,
        /// Its new state.
        state: State,
        /// Why.
        reason: String,
    }
}

record! {
    /// VMs, and what is wrong with the whole.
    #[derive(Default)]
    Vms {
        /// All, or the one asked for.
        vms: Vec<VmStatus>,
        /// Config directories that could not be read the last time, and what is wrong with the reserve.
        problems: Vec<String> = Vec::new(),
        /// Absent where there is none.
        reserve: Option<ReserveStatus>,
    }
}

record! {
    /// What there is in [`VmStatus`] for those who do not want the whole.
    VmOverview {
        /// Its name.
        vm: String,
        /// Its state.
        state: State,
        /// Why.
        reason: String,
    }
}

record! {
    /// The same in [`Vms`].
    Overview {
        /// All; none where the answer is an error.
        vms: Vec<VmOverview> = Vec::new(),
        /// Absent where there is none.
        reserve: Option<ReserveStatus>,
    }
}

choice! {
    /// What is answered. Each has a key of its own, that of its variant; `vms` and `problems` are keys of
    /// the line.
    Response {
        /// To `start`, `stop` and `restart`: the VM afterwards.
        Done(vm: Box<VmStatus>) = "done",
        /// To `log`.
        Lines(lines: Vec<String>) = "lines",
        /// To `watch`, one for each change.
        Change(change: Change) = "change",
        /// It did not work.
        Error(error: ControlError) = "error",
        /// To `status`, and first to `watch`.
        Vms(vms: Vms) = "vms",
    }
}

fn bad(message: impl Into<String>) -> ControlError {
    ControlError::new(ErrorKind::BadRequest, message)
}

/// Reads a line of our version, with or without its newline.
fn parse(line: &[u8]) -> Result<Node<'_>, ControlError> {
    let wrong = |why: String| bad(format!("not a line of this protocol: {why}"));
    let line = json::of_bytes(line).map_err(wrong)?;
    match json::field(&line, "v").map_err(wrong)? {
        VERSION => Ok(line),
        version => Err(ControlError::new(
            ErrorKind::Version,
            format!(
                "version {version} is not supported, only version {VERSION}: use gunyahctl and gunyahd of one release"
            ),
        )),
    }
}

/// Reads a request's line. A key that is unknown or there twice is refused.
pub fn parse_request(line: &[u8]) -> Result<Request, ControlError> {
    let line = parse(line)?;
    let op: String = json::field(&line, "op").map_err(bad)?;
    let request = Request::of(&op, &line).map_err(bad)?;
    if let Request::Console { replay: Some(_), at: Some(_), .. } = request {
        return Err(bad("`replay` and `at` exclude each other"));
    }
    let mut keys = [&["v", "op"], request.keys()].concat();
    for member in line.members() {
        match keys.iter().position(|key| *key == member.key) {
            Some(known) => drop(keys.swap_remove(known)),
            None => {
                return Err(bad(format!(
                    "`{op}` has no such key, or has it once: `{}`",
                    printable(&member.key)
                )))
            }
        }
    }
    Ok(request)
}

/// Reads an answer's line. Keys that are not known are skipped.
pub fn parse_response(line: &[u8]) -> Result<Response, ControlError> {
    let line = parse(line)?;
    let answer = line.members().iter().find(|member| member.key != "v");
    let answer = answer.ok_or_else(|| bad("there is no answer"))?;
    match line.get("vms") {
        Some(_) => Vms::from_json(&line).map(Response::Vms),
        None => Response::of(&answer.key, &answer.value),
    }
    .map_err(bad)
}

/// Reads the same, of the answer to [`overview_line`].
pub fn parse_overview(line: &[u8]) -> Result<Overview, ControlError> {
    Overview::from_json(&parse(line)?).map_err(bad)
}

/// The line of [`Request::Status`] for all VMs.
pub fn overview_line() -> Vec<u8> {
    line(Some(("op", "status".into())), None)
}

/// A request's line with its newline.
pub fn request_line(request: &Request) -> Vec<u8> {
    let (op, content) = request.parts();
    line(Some(("op", op.into())), content)
}

/// An answer's line with its newline; an error's line if it would be too long.
pub fn response_line(response: &Response) -> Vec<u8> {
    let whole = answer_line(response);
    if whole.len() <= MAX_RESPONSE {
        return whole;
    }
    let length = whole.len();
    let text = format!("the answer has {length} bytes, more than {MAX_RESPONSE}: ask for one VM");
    answer_line(&Response::Error(ControlError::new(ErrorKind::Failed, text)))
}

fn answer_line(response: &Response) -> Vec<u8> {
    match response {
        Response::Vms(all) => line(None, Some(all.to_json())),
        other => {
            let (word, content) = other.parts();
            line(Some((word, content.unwrap_or(Value::Null))), None)
        }
    }
}

/// The version, a member, and those of `rest`.
fn line<'a>(member: Option<(&'static str, Value<'a>)>, rest: Option<Value<'a>>) -> Vec<u8> {
    let mut members = vec![("v", VERSION.into())];
    members.extend(member);
    let mut line = object(members);
    if let (Value::Object(members), Some(Value::Object(rest))) = (&mut line, rest) {
        members.extend(rest);
    }
    format!("{line}\n").into_bytes()
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
        assert_eq!(parse_request(&overview_line()), Ok(Request::Status { vm: None }));
    }

    #[test]
    fn bad_requests_say_what_is_wrong() {
        for (line, kind, word) in [
            ("", ErrorKind::BadRequest, "ends"),
            ("{", ErrorKind::BadRequest, "ends"),
            ("[]", ErrorKind::BadRequest, "protocol"),
            (r#"{"op":"status"}"#, ErrorKind::BadRequest, "`v`"),
            (r#"{"v":2,"op":"new"}"#, ErrorKind::Version, "version 2"),
            (r#"{"v":1,"op":"reboot"}"#, ErrorKind::BadRequest, "reboot"),
            (r#"{"v":1,"op":"stop"}"#, ErrorKind::BadRequest, "`vm`"),
            (r#"{"v":1,"op":"log","vm":"a","wait":true}"#, ErrorKind::BadRequest, "wait"),
            (r#"{"v":1,"op":"log","vm":"a","vm":"b"}"#, ErrorKind::BadRequest, "`vm`"),
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
        assert_eq!(parse_overview(&bytes), Ok(Overview { vms: Vec::new(), reserve: None }));
        let long = response_line(&Response::Lines(vec!["x".repeat(MAX_RESPONSE)]));
        assert!(long.len() < 200);
        assert!(matches!(
            parse_response(&long),
            Ok(Response::Error(ControlError { kind: ErrorKind::Failed, .. }))
        ));
    }
}
