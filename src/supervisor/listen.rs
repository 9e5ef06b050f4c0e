// SPDX-License-Identifier: Apache-2.0
//! The control socket: inherited from init, or our own with a lock beside it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag, Flock, FlockArg};
use nix::sys::socket::{self, sockopt, Backlog};
use nix::sys::stat::{umask, Mode};

use crate::error::errno_text;

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
    #[error("{call} {}: {}{}", .path.display(), errno_text(.error), advice(.error))]
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
        let value = std::env::var(SOCKET_VARIABLE).ok()?;
        Some(Self::from_inherited(&value).map_err(|why| ListenError::Inherited { value, why }))
    }

    fn from_inherited(value: &str) -> Result<Self, String> {
        let raw: RawFd = value.parse().map_err(|_| "not a number".to_owned())?;
        if raw < 3 {
            return Err("not an inherited fd".to_owned());
        }
        let explain = |errno: Errno| format!("{errno:?} ({})", errno.desc());
        // SAFETY: fcntl on a number that may be no fd at all only answers EBADF.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(explain)?;
        // SAFETY: it is open, and by init's convention it is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        if !socket::getsockopt(&fd, sockopt::AcceptConn).map_err(explain)? {
            let backlog = Backlog::new(8).map_err(explain)?;
            socket::listen(&fd, backlog).map_err(explain)?;
        }
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true).map_err(|e| errno_text(&e))?;
        Ok(Self { socket, own: None })
    }

    /// Our own socket at `path`, locked by a file in `run_dir`. A socket that a killed gunyahd left
    /// is replaced.
    pub fn bind(path: &Path, run_dir: &Path) -> Result<Self, ListenError> {
        // sun_path has 108 bytes with its NUL.
        if path.as_os_str().len() > 107 {
            return Err(ListenError::TooLong(path.to_owned()));
        }
        let failed = |call, at: &Path, error| ListenError::Io {
            call,
            path: at.to_owned(),
            error,
        };
        let mut lock_name = path.file_name().unwrap_or_default().to_owned();
        lock_name.push(".lock");
        let lock_path = run_dir.join(lock_name);
        let lock_file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(|error| failed("open lock", &lock_path, error))?;
        let busy = |found| ListenError::Busy {
            socket: path.to_owned(),
            found,
        };
        let lock = match Flock::lock(lock_file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(busy("its lock is held")),
            Err((_, errno)) => return Err(failed("lock", &lock_path, errno.into())),
        };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("stat", path, error)),
            Ok(found) => {
                use std::os::unix::fs::FileTypeExt;
                if !found.file_type().is_socket() {
                    return Err(ListenError::NotASocket(path.to_owned()));
                }
                // Another --run-dir means another lock: ask the socket itself.
                match UnixStream::connect(path) {
                    Ok(_) => return Err(busy("it answers")),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(failed("connect", path, error)),
                }
                log::info!(
                    "replacing {}, left by a gunyahd that was killed",
                    path.display()
                );
                std::fs::remove_file(path).map_err(|error| failed("remove", path, error))?;
            }
        }
        // 0660, with no moment in which it is more.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        umask(before);
        let socket = bound.map_err(|error| failed("bind", path, error))?;
        socket
            .set_nonblocking(true)
            .map_err(|error| failed("set non-blocking", path, error))?;
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

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, _lock)) = &self.own {
            // The lock's file stays: removing it would let two later ones lock two different files.
            if let Err(error) = std::fs::remove_file(path) {
                log::debug!("remove {}: {}", path.display(), errno_text(&error));
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
        for (value, word) in [("x", "number"), ("1", "inherited"), ("999999", "EBADF")] {
            let why = Listener::from_inherited(value).unwrap_err();
            assert!(why.contains(word), "{value}: {why}");
        }
        let dir = dir("inherited");
        let socket = UnixListener::bind(dir.join("s")).unwrap();
        let raw = std::os::fd::IntoRawFd::into_raw_fd(socket);
        let listener = Listener::from_inherited(&raw.to_string()).unwrap();
        assert!(listener.is_inherited());
        let file = File::open("/dev/null").unwrap();
        let raw = std::os::fd::IntoRawFd::into_raw_fd(file);
        let why = Listener::from_inherited(&raw.to_string()).unwrap_err();
        assert!(why.contains("ENOTSOCK"), "{why}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
