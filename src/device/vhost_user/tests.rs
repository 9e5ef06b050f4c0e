// SPDX-License-Identifier: Apache-2.0
//! The protocol against a backend that answers as told. A real one is in tests/devices.rs.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use crate::device::link::Link;
use crate::device::warnings::Warner;
use crate::memory::GuestMemory;
use crate::mpsc;

fn settings(backend: Backend) -> VhostUserConfig {
    let tag = (backend == Backend::Fs).then(|| "data".to_owned());
    VhostUserConfig { r#type: backend, socket: PathBuf::from("/nowhere"), tag, queues: None }
}

fn connection(protocol: u64) -> (Connection, UnixStream) {
    let (socket, far) = UnixStream::pair().unwrap();
    (Connection { socket: socket.into(), features: PROTOCOL, protocol }, far)
}

fn reply(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    let mut bytes = [request, flags, len].map(u32::to_le_bytes).concat();
    bytes.extend(payload);
    bytes
}

#[test]
fn a_number_is_asked_for_and_read() {
    let (near, mut far) = connection(0);
    far.write_all(&reply(GET_FEATURES, VERSION | REPLY, &7u64.to_le_bytes())).unwrap();
    assert_eq!(near.get(GET_FEATURES), Ok(7));
    let mut asked = [0; HEADER];
    far.read_exact(&mut asked).unwrap();
    assert_eq!(asked, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn answers_that_are_none_are_refused() {
    let good = VERSION | REPLY;
    for (answer, errno) in [
        (reply(SET_OWNER, good, &[0; 8]), Errno::EPROTO),
        (reply(GET_FEATURES, VERSION, &[0; 8]), Errno::EPROTO),
        (reply(GET_FEATURES, good, &[0; 4]), Errno::EPROTO),
        (reply(GET_FEATURES, good, &[0; PAYLOAD + 1]), Errno::EPROTO),
        (reply(GET_FEATURES, good, &[0; 8])[..15].to_vec(), Errno::EPIPE),
        (Vec::new(), Errno::EPIPE),
    ] {
        let (near, mut far) = connection(0);
        far.write_all(&answer).unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(near.get(GET_FEATURES), Err(errno), "{answer:?}");
    }
    let (near, _far) = connection(0);
    assert_eq!(near.get(GET_FEATURES), Err(Errno::ETIMEDOUT));
}

/// Byte by byte, it would hold its VM up for minutes.
#[test]
fn an_answer_that_drips_is_not_waited_for() {
    let (near, mut far) = connection(0);
    let drip = std::thread::spawn(move || {
        for byte in reply(GET_FEATURES, VERSION | REPLY, &7u64.to_le_bytes()) {
            std::thread::sleep(PATIENCE / 10);
            let _ = far.write_all(&[byte]);
        }
    });
    assert_eq!(near.get(GET_FEATURES), Err(Errno::ETIMEDOUT));
    drop(near);
    drip.join().unwrap();
}

#[test]
fn a_backend_that_confirms_is_waited_for() {
    let (near, mut far) = connection(PROTOCOL_REPLY_ACK);
    far.write_all(&reply(SET_FEATURES, VERSION | REPLY, &0u64.to_le_bytes())).unwrap();
    far.write_all(&reply(SET_FEATURES, VERSION | REPLY, &1u64.to_le_bytes())).unwrap();
    assert_eq!(near.set(SET_FEATURES, &[0; 8], &[]), Ok(()));
    assert_eq!(near.set(SET_FEATURES, &[0; 8], &[]), Err(Errno::EREMOTEIO));
    let mut asked = [0; 2 * (HEADER + 8)];
    far.read_exact(&mut asked).unwrap();
    assert_eq!(asked[4], 9, "an answer is wanted");
    drop(far);
    assert_eq!(near.set(SET_FEATURES, &[0; 8], &[]), Err(Errno::EPIPE));
}

#[test]
fn a_space_that_the_backend_has_not_is_made_here() {
    let vm = VmName::new("vm").unwrap();
    let (fs, more) = own_config(&settings(Backend::Fs), &vm, 0);
    assert_eq!((&fs[..5], fs[36], fs.len(), more), (&b"data\0"[..], 1, 40, 0));
    let (net, more) = own_config(&settings(Backend::Net), &vm, 0);
    assert_eq!((net[0], net[6], net[8], net.len(), more), (2, 1, 1, 12, NET_MAC));
    assert_eq!(own_config(&settings(Backend::Entropy), &vm, 0), (vec![], 0));
}

#[test]
fn a_backend_that_is_not_there_or_takes_nobody_has_a_name() {
    let vm = VmName::new("vm").unwrap();
    let missing = VhostUser::open(&settings(Backend::Entropy), &vm, 0).err().unwrap();
    assert_eq!(missing.name, "vhost-user-no-backend");
    assert!(missing.to_string().contains("ENOENT"), "{missing}");
    let full = std::env::temp_dir().join(format!("gunyahd-backlog-{}", std::process::id()));
    let _ = std::fs::remove_file(&full);
    let flags = SockFlag::SOCK_NONBLOCK;
    let new = || socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let (listener, address) = (new(), UnixAddr::new(&full).unwrap());
    nix::sys::socket::bind(listener.as_raw_fd(), &address).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut waiting = vec![new()];
    while connect(waiting[waiting.len() - 1].as_raw_fd(), &address).is_ok() {
        waiting.push(new());
    }
    let busy = VhostUserConfig { socket: full.clone(), ..settings(Backend::Entropy) };
    let busy = VhostUser::open(&busy, &vm, 0).err().unwrap();
    std::fs::remove_file(full).unwrap();
    assert_eq!(busy.name, "vhost-user-no-backend");
    assert!(busy.to_string().contains("EAGAIN") && busy.cause.contains("backlog"), "{busy}");
    assert_eq!(UNFIT.case("").name, "vhost-user-unfit");
    assert_eq!(RESERVE.case("").name, "vhost-user-reserve");
    assert_eq!(LOST.case("").name, "vhost-user-lost");
}

/// A device whose backend has hung up and that looks for the next one at `socket`, and what it warns of.
fn seeking(socket: &std::path::Path, features: u64) -> (VhostUser, Io, mpsc::Receiver<Diagnostic>) {
    let (sender, warnings) = mpsc::channel();
    let wake = Arc::new(crate::vcpu::eventfd().unwrap());
    let face = Face { number: 4, features: 0, queues: vec![8], config: vec![] };
    let warner = Warner::new(sender, wake);
    let link = Link::new("vhost_user[0]".to_owned(), face, 0, mpsc::channel().0, warner).unwrap();
    let window = GuestMemory::of(&[(0x8000_0000, 0x4000)]).unwrap().for_devices();
    let io = Io::new(VERSION_1, vec![None], window, Arc::new(link), |_| false).unwrap();
    let settings = VhostUserConfig { socket: socket.to_owned(), ..settings(Backend::Entropy) };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    let (config, backend) = (Vec::new(), None);
    let device = VhostUser { settings, features, config, backend, timer, started: true };
    (device, io, warnings)
}

/// Takes one connection, and says that it has `features`.
fn answer_with(listener: &UnixListener, features: u64) -> UnixStream {
    let (mut near, _) = listener.accept().unwrap();
    near.write_all(&reply(GET_FEATURES, VERSION | REPLY, &features.to_le_bytes())).unwrap();
    near
}

#[test]
fn a_backend_that_stays_away_or_is_another_is_told_of_and_one_that_is_back() {
    let socket = std::env::temp_dir().join(format!("gunyahd-seek-{}", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let (mut device, io, warnings) = seeking(&socket, VERSION_1 | 1);
    device.seek(&io).unwrap();
    let away = warnings.try_recv().unwrap();
    assert_eq!(away.name, "vhost-user-lost");
    assert!(away.to_string().contains("ENOENT"), "{away}");

    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| answer_with(&listener, VERSION_1));
        device.seek(&io).unwrap();
        other.join().unwrap();
    });
    let changed = warnings.try_recv().unwrap();
    assert_eq!(changed.name, "vhost-user-changed");
    assert!(changed.what.contains("features 0x1"), "{changed}");
    assert!(device.backend.is_none());

    std::thread::scope(|scope| {
        let same = scope.spawn(|| answer_with(&listener, VERSION_1 | 1));
        device.seek(&io).unwrap();
        same.join().unwrap();
    });
    std::fs::remove_file(socket).unwrap();
    let back = warnings.try_recv().unwrap();
    assert_eq!(back.name, "vhost-user-back");
    assert!(device.backend.is_some() && warnings.try_recv().is_err());
}

#[test]
fn a_backend_that_is_only_being_started_is_waited_for() {
    let mut answers = vec![Ok(7), Err(Errno::ECONNREFUSED), Err(Errno::ENOENT)];
    assert_eq!(once_started(|| answers.pop().unwrap()), Ok(7));
    // One that is there and talks nonsense will go on.
    let mut answers = vec![Ok(7), Err(Errno::EPROTO)];
    assert_eq!(once_started(|| answers.pop().unwrap()), Err(Errno::EPROTO));
}
