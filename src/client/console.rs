// SPDX-License-Identifier: Apache-2.0
//! Asks for a VM's console and shows it, over all lives of its guest.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{poll, PollFd, PollFlags};
use nix::sys::signalfd::SignalFd;

use super::{ask, ClientError, Conversation};
use crate::json::Json;
use crate::status::control::{Request, Response};
use crate::status::State;
use crate::terminal::{look, signal, take_signals, Left, Screen, View};

/// Milliseconds between two looks at a VM that is to start again.
const LOOK_AGAIN: u16 = 100;
/// A console that ended while its VM lives on was refused to us; a worker's death is noticed sooner.
const LOOKS_AT_THE_SAME_LIFE: u32 = 10;

/// Asks for `vm`'s console and shows it; a VM that starts again is followed into its next life, but
/// not by a pipe that does not follow.
pub fn console(socket: &Path, vm: &str, replay: u64, view: View) -> Result<Left, ClientError> {
    let signals = take_signals()?;
    let screen = Screen::start()?;
    let stays = view == View::Follow || io::stdin().is_terminal();
    let mut at = None;
    loop {
        let request =
            Request::Console { vm: vm.to_owned(), replay: at.is_none().then_some(replay), at };
        let mut conversation = Conversation::begin(socket, &request)?;
        let status = match conversation.answer()? {
            Response::Error(error) => return Err(ClientError::Refused(error)),
            Response::Done(status) => status,
            other => return Err(ClientError::Garbled(other.to_json().to_string())),
        };
        let (stream, early) = conversation.into_stream();
        let (left, seen) = look(stream, &early, vm, view, &screen, Some(&signals))?;
        if left != Left::Closed || !stays {
            return Ok(left);
        }
        let end = status.console_end.unwrap_or(0);
        let first = at.unwrap_or(end.saturating_sub(replay));
        at = Some(first.saturating_add(seen));
        if let Some(left) = wait_for_next_life(socket, vm, status.pid, &screen, &signals)? {
            return Ok(left);
        }
    }
}

/// Waits until `vm`, whose worker was `last`, runs again; says why if it will not.
fn wait_for_next_life(
    socket: &Path,
    vm: &str,
    last: Option<i32>,
    screen: &Screen,
    signals: &SignalFd,
) -> Result<Option<Left>, ClientError> {
    let request = Request::Status { vm: Some(vm.to_owned()) };
    let mut noticed = false;
    let mut same = 0;
    loop {
        let found = match ask(socket, &request) {
            Ok(Response::Vms(found)) => found.vms.into_iter().next(),
            Ok(_) => None,
            // It went with its VM.
            Err(ClientError::Unreachable(_)) => None,
            Err(error) => return Err(error),
        };
        match found.map(|vm| (vm.state, vm.pid)) {
            Some((state, pid)) if state.is_up() && pid != last => return Ok(None),
            Some((state, _)) if state.is_up() && same < LOOKS_AT_THE_SAME_LIFE => same += 1,
            // It may start again after the stop.
            Some((State::Stopping, _)) => {}
            Some((State::Waiting | State::Starting, _)) => {
                if !std::mem::replace(&mut noticed, true) {
                    screen.notice(vm, "waiting for it to start again; Ctrl-C leaves", false);
                }
            }
            _ => return Ok(Some(Left::Closed)),
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, LOOK_AGAIN);
        if let Some(signal) = signal(signals) {
            return Ok(Some(signal));
        }
    }
}
