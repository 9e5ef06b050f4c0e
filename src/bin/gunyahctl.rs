// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl`: asks gunyahd and tells it what to do.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use gunyahd::cli::ctl::{self, Command};
use gunyahd::client::{self, console, ClientError, Conversation, Waited};
use gunyahd::status::control::{response_line, ErrorKind, Request, Response};
use gunyahd::terminal::{Left, View};
use gunyahd::text::{failure, printable};

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
    let command = match ctl::parse(std::env::args_os().skip(1), socket) {
        Ok(command) => command,
        Err(error) => {
            complain(&format!("{error}; gunyahctl --help tells more"));
            return ExitCode::from(USAGE);
        }
    };
    let code = match command {
        Command::Print(text) => print(text.as_bytes()).err().unwrap_or(0),
        Command::Console { socket, vm, replay, follow } => {
            show_console(&socket, &vm, replay, follow)
        }
        Command::Ask { socket, request, json } => {
            if matches!(request, Request::Kill { .. }) {
                complain(ctl::KILL_WARNING);
            }
            match Conversation::begin(&socket, &request) {
                Ok(conversation) => match listen(conversation, &request, json) {
                    Ok(code) | Err(code) => code,
                },
                Err(error) => fail(&error),
            }
        }
    };
    ExitCode::from(code)
}

fn show_console(socket: &Path, vm: &str, replay: u64, follow: bool) -> u8 {
    let view = if follow { View::Follow } else { View::Once };
    match console::console(socket, vm, replay, view) {
        Ok(Ok(Left::ByUser | Left::Closed)) => 0,
        Ok(Ok(Left::Refused)) => {
            complain("standard input was not typed: the console is read only here");
            REFUSED
        }
        // As a shell tells it.
        Ok(Ok(Left::Signal(number))) => u8::try_from(number).map_or(1, |n| n.saturating_add(128)),
        Ok(Err(error)) => {
            complain(&error.message);
            code_of(error.kind)
        }
        Err(error) => fail(&error),
    }
}

/// Shows answers until there are no more of them; `Err` if it ends before.
fn listen(mut conversation: Conversation, request: &Request, json: bool) -> Result<u8, u8> {
    let mut answered = false;
    loop {
        // The next change may be far off: who has read enough is not to wait for it.
        match conversation.wait_unless_closed(io::stdout().as_fd()) {
            Ok(Waited::Answer) => {}
            Ok(Waited::NobodyReads) => return Ok(0),
            Err(error) => return Err(fail(&error)),
        }
        let response = match conversation.answer() {
            Ok(Some(response)) => response,
            Ok(None) if answered => return Err(fail(&ClientError::Gone)),
            Ok(None) => return Err(fail(&ClientError::HungUp)),
            Err(error) => return Err(fail(&error)),
        };
        answered = true;
        if json {
            print(&response_line(&response))?;
        }
        let show = |text: String| print(text.as_bytes()).map(|()| 0);
        let code = match &response {
            Response::Error(error) => {
                if !json {
                    complain(&error.message);
                }
                code_of(error.kind)
            }
            _ if json => 0,
            Response::Vms(all) => match (request, all.vms.as_slice()) {
                (Request::Status { vm: Some(_) }, [vm]) => show(client::one(vm))?,
                _ => show(client::all(all))?,
            },
            Response::Done(vm) => show(client::table(std::slice::from_ref(vm)))?,
            Response::Lines(lines) => show(lines.iter().map(|l| format!("{l}\n")).collect())?,
            Response::Change(change) => show(client::change(change))?,
        };
        if code != 0 || *request != (Request::Watch {}) {
            return Ok(code);
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

fn fail(error: &ClientError) -> u8 {
    complain(&error.to_string());
    match error {
        ClientError::Unreachable { .. }
        | ClientError::Broken(_)
        | ClientError::HungUp
        | ClientError::Gone => UNREACHABLE,
        ClientError::Garbled(_) => GARBLED,
    }
}

/// Shows it; `Err` is how to end if that cannot be.
fn print(text: &[u8]) -> Result<(), u8> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(|error| unwritable(&error))
}

// A reader that went away (`| head`) is not a failure.
fn unwritable(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return 0;
    }
    complain(&format!("standard output: {}", failure(error)));
    UNWRITABLE
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "gunyahctl: {}", printable(text));
}
