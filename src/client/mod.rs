// SPDX-License-Identifier: Apache-2.0
//! gunyahd's client: connects, asks, reads answers, and shows them to people.

pub mod console;
mod show;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::status::control::{
    overview_line, parse_overview, parse_response, request_line, ControlError, Overview, Request,
    Response, MAX_RESPONSE,
};
use crate::text::failure;

pub use show::{all, change, one, table};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// gunyahd is not there, or has hung up.
    #[error("{0}")]
    Unreachable(String),
    /// Its answer is not of this protocol.
    #[error("gunyahd's answer cannot be understood: {0}")]
    Garbled(String),
    /// It says no.
    #[error(transparent)]
    Refused(ControlError),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        let error = failure(&error);
        Self::Unreachable(format!("the connection to gunyahd broke: {error}; see its log"))
    }
}

fn check(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "is it running? On a device: getprop init.svc.vendor.gunyahd. Another socket: --socket",
        io::ErrorKind::ConnectionRefused => "it was there and is gone; see its log and init.svc.vendor.gunyahd",
        io::ErrorKind::PermissionDenied => "this user may not connect; from adb shell only /vendor/bin/gunyahctl may, by its SELinux domain",
        _ => "check that gunyahd runs",
    }
}

/// A connection with its one request sent.
#[derive(Debug)]
pub struct Conversation {
    answers: BufReader<UnixStream>,
    answered: bool,
}

impl Conversation {
    /// Connects to the gunyahd at `socket` and asks.
    pub fn begin(socket: &Path, request: &Request) -> Result<Self, ClientError> {
        Self::send(socket, &request_line(request))
    }

    fn send(socket: &Path, line: &[u8]) -> Result<Self, ClientError> {
        let mut stream = UnixStream::connect(socket).map_err(|error| {
            let (socket, why, check) = (socket.display(), failure(&error), check(&error));
            let text = format!("gunyahd cannot be reached at {socket}: {why}; {check}");
            ClientError::Unreachable(text)
        })?;
        match stream.write_all(line) {
            // A busy gunyahd answers and hangs up before it is asked.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(Self { answers: BufReader::new(stream), answered: false })
    }

    /// The connection, and what of it was read beyond the last answer.
    pub fn into_stream(self) -> (UnixStream, Vec<u8>) {
        let early = self.answers.buffer().to_vec();
        (self.answers.into_inner(), early)
    }

    /// The next answer; `None` once nobody can read from `out` any more.
    pub fn answer_unless_closed(
        &mut self,
        out: BorrowedFd<'_>,
    ) -> Result<Option<Response>, ClientError> {
        while self.answers.buffer().is_empty() {
            let mut fds = [
                PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN),
                // Errors and hang-ups are reported anyway.
                PollFd::new(out, PollFlags::empty()),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                done => done.map_err(io::Error::from)?,
            };
            let [answer, closed] = fds.map(|fd| fd.any().unwrap_or(true));
            if answer {
                break;
            }
            if closed {
                return Ok(None);
            }
        }
        self.answer().map(Some)
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Response, ClientError> {
        parse_response(&self.line()?).map_err(garbled)
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX);
        match (&mut self.answers).take(limit).read_until(b'\n', &mut line) {
            // It hung up with our request unread, which a busy one does; its answer came before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            read => drop(read?),
        }
        if line.last() != Some(&b'\n') {
            let what = match self.answered {
                true => "has hung up: it has ended, or this watch read too slowly",
                false => "hung up without an answer",
            };
            return Err(ClientError::Unreachable(format!("gunyahd {what}; see its log")));
        }
        self.answered = true;
        Ok(line)
    }
}

fn garbled(error: ControlError) -> ClientError {
    ClientError::Garbled(error.message)
}

/// Asks for one answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    Conversation::begin(socket, request)?.answer()
}

/// How the VMs of the gunyahd at `socket` are.
pub fn overview(socket: &Path) -> Result<Overview, ClientError> {
    let answer = Conversation::send(socket, &overview_line())?.line()?;
    parse_overview(&answer).map_err(garbled)
}
