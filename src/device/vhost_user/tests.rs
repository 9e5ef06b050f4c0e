// SPDX-License-Identifier: Apache-2.0
//! The protocol against a backend that answers as told. A real one is in tests/devices.rs.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

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
