// SPDX-License-Identifier: Apache-2.0
//! The control socket's protocol: one JSON line each way, versioned and bounded.
//! docs/control-protocol.md is its description.

use serde::{Deserialize, Serialize};

use super::State;

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes, its newline included.
pub const MAX_REQUEST: usize = 4096;

/// Longest answer in bytes, its newline included: 64 VMs' journals fit.
pub const MAX_RESPONSE: usize = 1 << 20;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// All VMs, or one.
    Status {
        /// Absent: all.
        vm: Option<String>,
    },
    /// Start a VM.
    Start {
        /// The VM.
        vm: String,
        /// Answer when it runs or has failed to, else at once.
        wait: bool,
    },
    /// Stop a VM.
    Stop {
        /// The VM.
        vm: String,
        /// Answer when it has ended, else at once.
        wait: bool,
    },
    /// Stop a VM, then start it.
    Restart {
        /// The VM.
        vm: String,
        /// Answer when it runs or has failed to, else at once.
        wait: bool,
    },
    /// The last lines of a VM's journal and of its console.
    Log {
        /// The VM.
        vm: String,
    },
    /// Its console. After the answer the connection is the console's: [`crate::console::wire`].
    Console {
        /// The VM.
        vm: String,
        /// What is shown first.
        begin: Begin,
    },
    /// The states now, then every change, until the client hangs up.
    Watch,
}

impl Request {
    /// Whether it changes anything, and so needs the right to.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Request::Start { .. }
                | Request::Stop { .. }
                | Request::Restart { .. }
                | Request::Console { .. }
        )
    }

    fn op(&self) -> &'static str {
        match self {
            Request::Status { .. } => "status",
            Request::Start { .. } => "start",
            Request::Stop { .. } => "stop",
            Request::Restart { .. } => "restart",
            Request::Log { .. } => "log",
            Request::Console { .. } => "console",
            Request::Watch => "watch",
        }
    }
}

/// Where a console begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// So many bytes of earlier output come first.
    Replay(u64),
    /// The byte with this number, counted as in [`VmStatus::console_end`]: for those who were here
    /// before.
    At(u64),
}

/// A request's line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    v: u32,
    op: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replay: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

/// Just enough of any version's line.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
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
    /// Too many clients, or gunyahd is going down.
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
        Self {
            kind,
            message: message.into(),
        }
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

/// How a VM's last run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// A guest's end (`power-off`, `reset`, `watchdog`, `hypervisor-error`, `external-abort`,
    /// `force-stopped`, `load-failed`, `crashed`, `unreported`) or `launch-failed`, `worker-died`,
    /// `timeout`, `asked`.
    pub reason: String,
    /// The driver's words, or the error.
    pub detail: String,
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
    /// Steps of the last launch, in order.
    pub steps: Vec<StepTime>,
    /// Microseconds from the fork of the last launch to START's return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_micros: Option<u64>,
    /// How its last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// Bytes that its guest has printed since gunyahd began, over all launches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_end: Option<u64>,
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
#[serde(transparent)]
pub struct Vms {
    /// All, or the one asked for.
    pub vms: Vec<VmStatus>,
    /// Config directories that could not be read the last time; a key of the line itself.
    #[serde(skip)]
    pub problems: Vec<String>,
}

impl From<Vec<VmStatus>> for Vms {
    fn from(vms: Vec<VmStatus>) -> Self {
        let problems = Vec::new();
        Self { vms, problems }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To `status`, and first to `watch`.
    Vms(Vms),
    /// To `start`, `stop` and `restart`: the VM afterwards.
    Done(Box<VmStatus>),
    /// To `log`.
    Lines(Vec<String>),
    /// To `watch`, one for each change.
    Change(Change),
    /// It did not work.
    Error(ControlError),
}

#[derive(Serialize)]
struct ResponseLine<'a> {
    v: u32,
    #[serde(flatten)]
    response: &'a Response,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    problems: &'a [String],
}

impl<'a> ResponseLine<'a> {
    fn of(response: &'a Response) -> Self {
        let problems = match response {
            Response::Vms(all) => all.problems.as_slice(),
            _ => &[],
        };
        Self {
            v: VERSION,
            response,
            problems,
        }
    }
}

#[derive(Deserialize)]
struct AnyResponse {
    #[serde(flatten)]
    response: Response,
    #[serde(default)]
    problems: Vec<String>,
}

fn bad(message: impl Into<String>) -> ControlError {
    ControlError::new(ErrorKind::BadRequest, message)
}

fn version(line: &[u8]) -> Result<(), ControlError> {
    let found: Versioned = serde_json::from_slice(line)
        .map_err(|error| bad(format!("not a line of this protocol: {error}")))?;
    if found.v != VERSION {
        return Err(ControlError::new(
            ErrorKind::Version,
            format!(
                "version {} is not spoken here, only version {VERSION}: use gunyahctl and gunyahd of one release",
                found.v
            ),
        ));
    }
    Ok(())
}

/// Reads a request's line, with or without its newline.
pub fn parse_request(line: &[u8]) -> Result<Request, ControlError> {
    version(line)?;
    let wire: RequestLine = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    let wait = wire.wait.unwrap_or(true);
    let changing = matches!(wire.op.as_str(), "start" | "stop" | "restart");
    if wire.wait.is_some() && !changing {
        return Err(bad(format!("`wait` has no meaning for `{}`", wire.op)));
    }
    if wire.op == "watch" && wire.vm.is_some() {
        return Err(bad("`vm` has no meaning for `watch`"));
    }
    if (wire.replay.is_some() || wire.at.is_some()) && wire.op != "console" {
        return Err(bad(format!(
            "`replay` and `at` have no meaning for `{}`",
            wire.op
        )));
    }
    let begin = match (wire.at, wire.replay) {
        (Some(_), Some(_)) => return Err(bad("`replay` and `at` exclude each other")),
        (Some(at), None) => Begin::At(at),
        (None, replay) => Begin::Replay(replay.unwrap_or(0)),
    };
    let op = wire.op;
    let vm = wire.vm.clone();
    let named = || vm.ok_or_else(|| bad(format!("`{op}` needs `vm`")));
    Ok(match op.as_str() {
        "status" => Request::Status { vm: wire.vm },
        "start" => Request::Start { vm: named()?, wait },
        "stop" => Request::Stop { vm: named()?, wait },
        "restart" => Request::Restart { vm: named()?, wait },
        "log" => Request::Log { vm: named()? },
        "console" => Request::Console {
            vm: named()?,
            begin,
        },
        "watch" => Request::Watch,
        _ => {
            return Err(bad(format!(
                "unknown `op` `{op}`: status, start, stop, restart, log, console or watch"
            )))
        }
    })
}

/// A request's line with its newline.
pub fn request_line(request: &Request) -> Vec<u8> {
    let (replay, at) = match request {
        Request::Console { begin, .. } => match begin {
            Begin::Replay(bytes) => (Some(*bytes), None),
            Begin::At(first) => (None, Some(*first)),
        },
        _ => (None, None),
    };
    let (vm, wait) = match request {
        Request::Status { vm } => (vm.clone(), None),
        Request::Start { vm, wait }
        | Request::Stop { vm, wait }
        | Request::Restart { vm, wait } => (Some(vm.clone()), Some(*wait)),
        Request::Log { vm } | Request::Console { vm, .. } => (Some(vm.clone()), None),
        Request::Watch => (None, None),
    };
    line(&RequestLine {
        v: VERSION,
        op: request.op().to_owned(),
        vm,
        wait,
        replay,
        at,
    })
}

/// Reads an answer's line.
pub fn parse_response(line: &[u8]) -> Result<Response, ControlError> {
    version(line)?;
    let any: AnyResponse = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    Ok(match any.response {
        Response::Vms(Vms { vms, .. }) => Response::Vms(Vms {
            vms,
            problems: any.problems,
        }),
        other => other,
    })
}

/// An answer's line with its newline; an error's line if it would be too long.
pub fn response_line(response: &Response) -> Vec<u8> {
    let whole = line(&ResponseLine::of(response));
    if whole.len() <= MAX_RESPONSE {
        return whole;
    }
    let error = Response::Error(ControlError::new(
        ErrorKind::Failed,
        format!(
            "the answer has {} bytes, more than {MAX_RESPONSE}: ask for one VM",
            whole.len()
        ),
    ));
    line(&ResponseLine::of(&error))
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // These types hold nothing that JSON cannot; an empty line would be a protocol error at the peer.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
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
            Request::Status {
                vm: Some("a".into()),
            },
            Request::Start {
                vm: "a".into(),
                wait: false,
            },
            Request::Stop {
                vm: "a".into(),
                wait: true,
            },
            Request::Restart {
                vm: "a".into(),
                wait: true,
            },
            Request::Log { vm: "a".into() },
            Request::Console {
                vm: "a".into(),
                begin: Begin::Replay(7),
            },
            Request::Console {
                vm: "a".into(),
                begin: Begin::At(7),
            },
            Request::Watch,
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
            (
                r#"{"v":1,"op":"stop"}"#,
                ErrorKind::BadRequest,
                "needs `vm`",
            ),
            (
                r#"{"v":1,"op":"log","vm":"a","wait":true}"#,
                ErrorKind::BadRequest,
                "wait",
            ),
            (
                r#"{"v":1,"op":"status","vmm":"a"}"#,
                ErrorKind::BadRequest,
                "vmm",
            ),
            (
                r#"{"v":1,"op":"status","vm":7}"#,
                ErrorKind::BadRequest,
                "string",
            ),
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
            Ok(Response::Error(ControlError {
                kind: ErrorKind::Failed,
                ..
            }))
        ));
    }
}
