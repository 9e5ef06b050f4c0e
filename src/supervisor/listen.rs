// SPDX-License-Identifier: Apache-2.0
//! The control socket: inherited from init, or our own with a lock beside it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, sockopt, Backlog};
use nix::sys::stat::{umask, Mode};

use crate::diagnostic::{kinds, Diagnostic};
use crate::process::inherited_fd;
use crate::status::logger;
use crate::text::{errno_name, errno_of, failure};

/// Names the inherited fd, as init's `socket gunyahd stream+listen …` gives it.
pub const SOCKET_VARIABLE: &str = "ANDROID_SOCKET_gunyahd";

kinds! {
    BUSY: Error "socket-busy" in Serve {
        "another gunyahd serves the control socket",
        cure: "stop it, or give this one its own --socket",
    }
    NOT_A_SOCKET: Error "socket-other-file" in Serve {
        "a file that is not a socket is where the control socket should be",
        cure: "remove it, or give another --socket",
    }
    TOO_LONG: Error "socket-path-too-long" in Serve {
        "the path of the control socket is longer than a socket's can be",
        cure: "give a --socket of at most 107 bytes",
    }
    SETUP: Error "socket-setup" in Serve {
        "the control socket or its lock cannot be made",
        cause: "its directory does not exist, or this user may not write there",
        cure: "make the directory, or give --socket and --run-dir where this user may write",
    }
    INHERITED: Error "socket-inherited" in Serve {
        "what init handed down as the control socket is not a listening socket",
        cause: "the service's .rc file declares no such socket",
        cure: "give the service `socket gunyahd stream+listen …`",
    }
}

/// A listening control socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Ours to remove, with the lock that keeps others away while we live.
    own: Option<(PathBuf, Flock<File>)>,
}

impl Listener {
    /// The socket that init made, if it made one.
    pub fn inherited() -> Option<Result<Self, Diagnostic>> {
        let listener = inherited_fd(SOCKET_VARIABLE)?.and_then(Self::of);
        Some(listener.map_err(|why| {
            let value = std::env::var(SOCKET_VARIABLE).unwrap_or_default();
            INHERITED.case(format!("{SOCKET_VARIABLE}={value}: {why}"))
        }))
    }

    fn of(fd: OwnedFd) -> Result<Self, String> {
        if !socket::getsockopt(&fd, sockopt::AcceptConn).map_err(errno_name)? {
            let backlog = Backlog::new(8).map_err(errno_name)?;
            socket::listen(&fd, backlog).map_err(errno_name)?;
        }
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true).map_err(|e| failure(&e))?;
        Ok(Self { socket, own: None })
    }

    /// Our own socket at `path`, locked by a file in `run_dir`. A socket that a killed gunyahd left
    /// is replaced.
    pub fn bind(path: &Path, run_dir: &Path) -> Result<Self, Diagnostic> {
        // sun_path has 108 bytes with its NUL.
        let length = path.as_os_str().len();
        if length > 107 {
            let path = path.display();
            let text = format!("{path} has {length} bytes, a socket's path has at most 107");
            return Err(TOO_LONG.case(text));
        }
        let lock = lock(path, run_dir)?;
        make_way(path)?;
        // 0660, with no moment in which it is more.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        umask(before);
        let socket = bound.map_err(failed("bind", path))?;
        let set = socket.set_nonblocking(true);
        set.map_err(failed("set non-blocking", path))?;
        Ok(Self { socket, own: Some((path.to_owned(), lock)) })
    }

    /// It came from init.
    pub fn is_inherited(&self) -> bool {
        self.own.is_none()
    }

    /// The socket, non-blocking.
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

fn failed<'a>(call: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Diagnostic + 'a {
    move |error| SETUP.case(format!("{call} {}", path.display())).errno(errno_of(&error))
}

fn busy(socket: &Path, found: &str) -> Diagnostic {
    let socket = socket.display();
    BUSY.case(format!("another gunyahd serves {socket}: {found}"))
}

/// Keeps other gunyahds away from the socket at `path`, by a file in `run_dir`.
fn lock(path: &Path, run_dir: &Path) -> Result<Flock<File>, Diagnostic> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let lock_path = run_dir.join(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(failed("open lock", &lock_path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => busy(path, "its lock is held"),
        errno => failed("lock", &lock_path)(errno.into()),
    })
}

/// Removes what a killed gunyahd left at `path`, and nothing else.
fn make_way(path: &Path) -> Result<(), Diagnostic> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            let path = path.display();
            return Err(NOT_A_SOCKET.case(format!("{path} is not a socket")));
        }
        Ok(_) => {}
    }
    // Another --run-dir means another lock: ask the socket itself.
    match UnixStream::connect(path) {
        Ok(_) => return Err(busy(path, "it answers")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(failed("connect", path)(error)),
    }
    let path_text = path.display();
    logger::info!("replacing {path_text}, left by a gunyahd that was killed");
    std::fs::remove_file(path).map_err(failed("remove", path))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, _lock)) = &self.own {
            // The lock's file stays: removing it would let two later ones lock two different files.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("gunyahd-listen-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_second_one_is_refused_and_a_stale_one_replaced() {
        let dir = dir("second");
        let path = dir.join("s");
        let first = Listener::bind(&path, &dir).unwrap();
        let error = Listener::bind(&path, &dir).unwrap_err();
        assert_eq!(error.name, "socket-busy");
        assert!(error.what.ends_with("its lock is held"), "{error}");
        // Another run-dir has another lock, yet the socket answers.
        let other = dir.join("other");
        std::fs::create_dir_all(&other).unwrap();
        let error = Listener::bind(&path, &other).unwrap_err();
        assert_eq!(error.name, "socket-busy");
        assert!(error.what.ends_with("it answers"), "{error}");
        drop(first);
        assert!(!path.exists());
        // What a killed one leaves: a socket file that nobody serves.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let again = Listener::bind(&path, &dir).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(again);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn other_things_in_the_way_are_left_alone() {
        let dir = dir("other");
        let path = dir.join("s");
        std::fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&path, &dir).unwrap_err();
        assert_eq!(error.name, "socket-other-file");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let error = Listener::bind(&dir.join("absent/s"), &dir.join("absent")).unwrap_err();
        assert_eq!(error.name, "socket-setup");
        assert!(error.to_string().contains("ENOENT"), "{error}");
        let error = Listener::bind(&dir.join("x".repeat(108)), &dir).unwrap_err();
        assert_eq!(error.name, "socket-path-too-long");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_inherited_must_be_a_listening_socket() {
        let dir = dir("inherited");
        let socket = UnixListener::bind(dir.join("s")).unwrap();
        assert!(Listener::of(socket.into()).unwrap().is_inherited());
        let why = Listener::of(File::open("/dev/null").unwrap().into()).unwrap_err();
        assert!(why.contains("ENOTSOCK"), "{why}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
