// SPDX-License-Identifier: Apache-2.0
//! gunyahd's client: connects, asks, reads answers, and shows them to people.

pub mod console;
mod show;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::status::control::{
    parse_response, request_line, ControlError, Request, Response, MAX_RESPONSE,
};
use crate::text::failure;

pub use show::{all, change, one, table};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("gunyahd cannot be reached at {}: {}; {}", .socket.display(), failure(.error), check(.error))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to gunyahd broke: {}; see its log", failure(.0))]
    Broken(io::Error),
    /// It hung up without an answer.
    #[error("gunyahd hung up without an answer; see its log")]
    HungUp,
    /// It hung up on a watch.
    #[error("gunyahd has hung up: it has ended, or this watch read too slowly; see its log")]
    Gone,
    /// Its answer is not of this protocol.
    #[error("gunyahd's answer cannot be understood: {0}")]
    Garbled(String),
}

fn check(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "is it running? On a device: getprop init.svc.vendor.gunyahd. Another socket: --socket",
        io::ErrorKind::ConnectionRefused => "it was there and is gone; see its log and init.svc.vendor.gunyahd",
        io::ErrorKind::PermissionDenied => "this user may not connect; from adb shell only /vendor/bin/gunyahctl may, by its SELinux domain",
        _ => "check that gunyahd runs",
    }
}

/// What [`Conversation::wait_unless_closed`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// An answer, or the end of the connection.
    Answer,
    /// Nobody reads any more what is shown.
    NobodyReads,
}

/// A connection with its one request sent.
#[derive(Debug)]
pub struct Conversation {
    answers: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects to the gunyahd at `socket` and asks.
    pub fn begin(socket: &Path, request: &Request) -> Result<Self, ClientError> {
        let mut stream = UnixStream::connect(socket)
            .map_err(|error| ClientError::Unreachable { socket: socket.to_owned(), error })?;
        match stream.write_all(&request_line(request)) {
            Ok(()) => {}
            // A busy gunyahd answers and hangs up before it is asked.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(ClientError::Broken(error)),
        }
        Ok(Self { answers: BufReader::new(stream) })
    }

    /// The connection, and what of it was read beyond the last answer.
    pub fn into_stream(self) -> (UnixStream, Vec<u8>) {
        let early = self.answers.buffer().to_vec();
        (self.answers.into_inner(), early)
    }

    /// Waits for the next answer, or until nobody can read from `out` any more.
    pub fn wait_unless_closed(&self, out: BorrowedFd<'_>) -> Result<Waited, ClientError> {
        if !self.answers.buffer().is_empty() {
            return Ok(Waited::Answer);
        }
        loop {
            let mut fds = [
                PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN),
                // Errors and hang-ups are reported anyway.
                PollFd::new(out, PollFlags::empty()),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(ClientError::Broken(errno.into())),
            }
            let [answer, closed] = fds.map(|fd| fd.any().unwrap_or(true));
            if answer {
                return Ok(Waited::Answer);
            }
            if closed {
                return Ok(Waited::NobodyReads);
            }
        }
    }

    /// The next answer; `None` when gunyahd has hung up.
    pub fn answer(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX);
        let read = (&mut self.answers).take(limit).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) if line.last() != Some(&b'\n') => Err(ClientError::HungUp),
            Ok(_) => parse_response(&line)
                .map(Some)
                .map_err(|ControlError { message, .. }| ClientError::Garbled(message)),
            // It hung up with our request unread, which a busy one does; its answer came before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(ClientError::Broken(error)),
        }
    }
}

/// Asks for one answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    Conversation::begin(socket, request)?.answer()?.ok_or(ClientError::HungUp)
}
