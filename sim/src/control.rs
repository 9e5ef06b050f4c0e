// SPDX-License-Identifier: Apache-2.0
//! `--control SOCKET`: a line in, a line out.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags};

use crate::peers::remove_leftover;

#[derive(Debug)]
struct Client {
    number: u64,
    stream: UnixStream,
    text: Vec<u8>,
}

/// The socket and who is connected. The path is removed when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
    next: u64,
}

impl Control {
    /// Makes the socket; a leftover of an earlier run is replaced.
    pub fn listen(path: &Path) -> io::Result<Self> {
        remove_leftover(path)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_path_buf(), clients: Vec::new(), next: 0 })
    }

    /// What to poll.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            fds.push(PollFd::new(client.stream.as_fd(), PollFlags::POLLIN));
        }
        fds
    }

    /// All complete lines, each with whom to answer.
    pub fn take_lines(&mut self) -> Vec<(u64, String)> {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.next += 1;
                self.clients.push(Client { number: self.next, stream, text: Vec::new() });
            }
        }
        let mut lines = Vec::new();
        self.clients.retain_mut(|client| {
            let mut chunk = [0; 4096];
            let open = loop {
                match client.stream.read(&mut chunk) {
                    Ok(0) => break false,
                    Ok(length) => client.text.extend_from_slice(&chunk[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break false,
                }
            };
            while let Some(end) = client.text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = client.text.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                lines.push((client.number, line));
            }
            open || lines.iter().any(|(number, _)| *number == client.number)
        });
        lines
    }

    /// Answers a line.
    pub fn answer(&mut self, client: u64, line: &str) {
        if let Some(client) = self.clients.iter_mut().find(|have| have.number == client) {
            let _ = client.stream.write_all(format!("{line}\n").as_bytes());
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = remove_leftover(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peers;
    use std::io::BufRead;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn only_a_socket_is_removed() {
        let path = std::env::temp_dir().join(format!("gunyah-sim-left-{}", std::process::id()));
        std::fs::write(&path, "precious").unwrap();
        for listened in [
            Peers::listen(Some(&path), None).map(drop),
            Peers::listen(None, Some(&path)).map(drop),
            Control::listen(&path).map(drop),
        ] {
            assert_eq!(listened.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        drop(UnixDatagram::bind(&path).unwrap());
        drop(Peers::listen(None, Some(&path)).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn half_lines_wait_and_answers_reach_their_asker() {
        let path = std::env::temp_dir().join(format!("gunyah-sim-control-{}", std::process::id()));
        let mut control = Control::listen(&path).unwrap();
        let mut one = UnixStream::connect(&path).unwrap();
        let mut two = UnixStream::connect(&path).unwrap();
        one.write_all(b"li").unwrap();
        two.write_all(b"a\nb\n").unwrap();
        assert_eq!(control.take_lines(), [(2, "a".into()), (2, "b".into())]);
        one.write_all(b"st\n").unwrap();
        drop(two);
        assert_eq!(control.take_lines(), [(1, "list".into())]);
        control.answer(1, "ok");
        control.answer(2, "nobody is there");
        let mut answer = String::new();
        io::BufReader::new(one).read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n");
        drop(control);
        assert!(!path.exists());
    }
}
