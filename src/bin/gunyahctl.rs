// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl`: asks gunyahd and tells it what to do.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use gunyahd::cli::ctl::{self, Command};
use gunyahd::cli::{self, Stop};
use gunyahd::client::{self, console, ClientError, Conversation};
use gunyahd::list::Listed;
use gunyahd::status::control::{response_line, ErrorKind, Request, Response};
use gunyahd::terminal::{Left, View};
use gunyahd::text::failure;

/// The VM is unknown, or it failed.
const VM_FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// gunyahd cannot be reached.
const UNREACHABLE: u8 = 3;
/// gunyahd refused.
const REFUSED: u8 = 4;
/// gunyahd's answer cannot be understood.
const GARBLED: u8 = 5;
/// Standard output does not take what is to be shown.
const UNWRITABLE: u8 = 6;

fn main() -> ExitCode {
    let socket = std::env::var_os(ctl::SOCKET_VARIABLE);
    let words = std::env::args_os().listed();
    ExitCode::from(match ctl::parse(words.get(1..).unwrap_or_default(), socket) {
        Ok(Command { socket, request: Request::Console { vm, replay, .. }, follow, .. }) => {
            show_console(&socket, &vm, replay.unwrap_or(0), follow)
        }
        Ok(Command { socket, request, json, .. }) => {
            if matches!(request, Request::Kill { .. }) {
                complain(ctl::KILL_WARNING);
            }
            listen(&socket, &request, json).unwrap_or_else(|code| code)
        }
        Err(Stop::Print(text)) => print(text.as_bytes()).err().unwrap_or(0),
        Err(Stop::Usage(error)) => {
            complain(&format!("{error}; gunyahctl --help tells more"));
            USAGE
        }
    })
}

fn show_console(socket: &Path, vm: &str, replay: u64, follow: bool) -> u8 {
    let view = if follow { View::Follow } else { View::Once };
    match console::console(socket, vm, replay, view) {
        Ok(Left::ByUser | Left::Closed) => 0,
        Ok(Left::Refused) => {
            complain("standard input was not typed: the console is read only here");
            REFUSED
        }
        // As a shell tells it.
        Ok(Left::Signal(number)) => u8::try_from(number).map_or(1, |n| n.saturating_add(128)),
        Err(error) => fail(error),
    }
}

/// Asks, and shows answers until there are no more of them; `Err` if it ends before.
fn listen(socket: &Path, request: &Request, json: bool) -> Result<u8, u8> {
    let mut conversation = Conversation::begin(socket, request).map_err(fail)?;
    loop {
        // The next change may be far off: who has read enough is not to wait for it.
        let answer = conversation.answer_unless_closed(io::stdout().as_fd()).map_err(fail)?;
        let Some(response) = answer else {
            return Ok(0);
        };
        if json {
            print(&response_line(&response))?;
        }
        let show = |text: String| print(text.as_bytes());
        match response {
            Response::Error(error) if json => return Err(code_of(error.kind)),
            Response::Error(error) => return Err(fail(ClientError::Refused(error))),
            _ if json => {}
            Response::Vms(all) => match (request, all.vms.as_slice()) {
                (Request::Status { vm: Some(_) }, [vm]) => show(client::one(vm))?,
                _ => show(client::all(&all))?,
            },
            Response::Done(vm) => show(client::table(&[*vm]))?,
            Response::Lines(lines) => show(lines.iter().map(|l| format!("{l}\n")).collect())?,
            Response::Change(change) => show(client::change(&change))?,
        }
        if *request != (Request::Watch {}) {
            return Ok(0);
        }
    }
}

fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::UnknownVm | ErrorKind::Failed => VM_FAILED,
        ErrorKind::Denied | ErrorKind::Busy => REFUSED,
        ErrorKind::BadRequest | ErrorKind::Version => GARBLED,
    }
}

fn fail(error: ClientError) -> u8 {
    complain(&error.to_string());
    match error {
        ClientError::Unreachable(_) => UNREACHABLE,
        ClientError::Garbled(_) => GARBLED,
        ClientError::Refused(error) => code_of(error.kind),
    }
}

/// Shows it; `Err` is how to end if that cannot be.
fn print(text: &[u8]) -> Result<(), u8> {
    cli::print(text).map_err(|error| {
        complain(&format!("standard output: {}", failure(&error)));
        UNWRITABLE
    })
}

fn complain(text: &str) {
    cli::complain(&format!("gunyahctl: {text}"));
}
