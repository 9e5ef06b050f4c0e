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

use crate::process::inherited_fd;
use crate::text::{errno_name, failure};

/// Names the inherited fd, as init's `socket gunyahd stream+listen …` gives it.
pub const SOCKET_VARIABLE: &str = "ANDROID_SOCKET_gunyahd";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another gunyahd serves it.
    #[error("another gunyahd serves {}: {found}; stop it, or give this one its own --socket", .socket.display())]
    Busy {
        /// The socket.
        socket: PathBuf,
        /// What showed it.
        found: &'static str,
    },
    /// Something that is no socket of ours is in the way.
    #[error("{} is not a socket: remove it, or give another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The path is too long for a socket.
    #[error("{} has {} bytes, a socket's path has at most 107", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// A call failed.
    #[error("{call} {}: {}{}", .path.display(), failure(.error), advice(.error))]
    Io {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The inherited fd is no listening socket.
    #[error(
        "{SOCKET_VARIABLE}={value}: {why}; the service needs `socket gunyahd stream+listen …`"
    )]
    Inherited {
        /// What the variable says.
        value: String,
        /// What is wrong.
        why: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "; its directory must exist: make it, or give --socket and --run-dir"
        }
        io::ErrorKind::PermissionDenied => {
            "; give --socket and --run-dir where this user may write"
        }
        _ => "",
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
    pub fn inherited() -> Option<Result<Self, ListenError>> {
        let listener = inherited_fd(SOCKET_VARIABLE)?.and_then(Self::of);
        Some(listener.map_err(|why| ListenError::Inherited {
            value: std::env::var(SOCKET_VARIABLE).unwrap_or_default(),
            why,
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
    pub fn bind(path: &Path, run_dir: &Path) -> Result<Self, ListenError> {
        // sun_path has 108 bytes with its NUL.
        if path.as_os_str().len() > 107 {
            return Err(ListenError::TooLong(path.to_owned()));
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
        Ok(Self {
            socket,
            own: Some((path.to_owned(), lock)),
        })
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

fn failed<'a>(call: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ListenError + 'a {
    let path = path.to_owned();
    move |error| ListenError::Io { call, path, error }
}

fn busy(socket: &Path, found: &'static str) -> ListenError {
    ListenError::Busy {
        socket: socket.to_owned(),
        found,
    }
}

/// Keeps other gunyahds away from the socket at `path`, by a file in `run_dir`.
fn lock(path: &Path, run_dir: &Path) -> Result<Flock<File>, ListenError> {
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
fn make_way(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()))
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
    log::info!("replacing {path_text}, left by a gunyahd that was killed");
    std::fs::remove_file(path).map_err(failed("remove", path))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, _lock)) = &self.own {
            // The lock's file stays: removing it would let two later ones lock two different files.
            if let Err(error) = std::fs::remove_file(path) {
                log::debug!("remove {}: {}", path.display(), failure(&error));
            }
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
        assert!(
            matches!(
                error,
                ListenError::Busy {
                    found: "its lock is held",
                    ..
                }
            ),
            "{error}"
        );
        // Another run-dir has another lock, yet the socket answers.
        let other = dir.join("other");
        std::fs::create_dir_all(&other).unwrap();
        let error = Listener::bind(&path, &other).unwrap_err();
        assert!(
            matches!(
                error,
                ListenError::Busy {
                    found: "it answers",
                    ..
                }
            ),
            "{error}"
        );
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
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let error = Listener::bind(&dir.join("absent/s"), &dir.join("absent")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("ENOENT (No such file or directory); its directory must exist"),
            "{error}"
        );
        let error = Listener::bind(&dir.join("x".repeat(108)), &dir).unwrap_err();
        assert!(matches!(error, ListenError::TooLong(_)), "{error}");
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
