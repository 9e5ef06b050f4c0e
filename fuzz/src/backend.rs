// SPDX-License-Identifier: Apache-2.0
//! A vhost-user backend that answers with bytes.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::Path;

use gunyahd::config::{self, VhostUserConfig, VmName};
use gunyahd::device::{VhostUser, VirtioDevice};

const TYPES: [&str; 7] = ["fs", "net", "block", "entropy", "sound", "gpio", "i2c"];

fn settings(of: &str, socket: &Path) -> VhostUserConfig {
    let tag = if of == "fs" { r#", "tag": "data""# } else { "" };
    let text = format!(
        r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "/Image"}},
            "vhost_user": [{{"type": "{of}", "socket": {socket:?}{tag}}}]}}"#
    );
    let config = config::parse(Path::new("vm.json"), &text).expect("it is good");
    config.vhost_user[0].clone()
}

/// A device whose backend answers with these bytes, but for the first, which says what it is: it has what the
/// driver may see, or there is a reason.
pub fn answers(bytes: &[u8]) {
    let Some((of, answer)) = bytes.split_first() else { return };
    let thread = std::thread::current().id();
    let name = format!("gunyahd-fuzz-{}-{thread:?}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let settings = settings(TYPES[usize::from(*of) % TYPES.len()], &socket);
    let opened = std::thread::scope(|scope| {
        // It stays until the device has heard everything.
        let backend = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(Shutdown::Write);
            stream
        });
        let opened = VhostUser::open(&settings, &VmName::new("vm").expect("a name"), 0);
        drop(backend.join());
        opened
    });
    std::fs::remove_file(&socket).expect("it was made");
    match opened {
        Ok(device) => {
            let face = device.face();
            assert_eq!(face.config.len(), settings.r#type.config_bytes());
            assert_eq!(face.features >> 24, 0, "features of its type alone");
            assert_eq!(face.number, settings.r#type.number());
        }
        Err(fault) => assert!(fault.name.starts_with("vhost-user-"), "{fault}"),
    }
}

/// Good answers: of a backend without features of the protocol, of one with a configuration space.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let reply = |request: u32, payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("it is short");
        let head = [request, 1 | 1 << 2, len].map(u32::to_le_bytes).concat();
        [&head, payload].concat()
    };
    let number = |request, value: u64| reply(request, &value.to_le_bytes());
    let plain = number(1, 1 << 32 | 7);
    let protocol = [number(1, 1 << 32 | 1 << 30 | 7), number(15, 1 << 9 | 1 << 3 | 1)].concat();
    let space = |len: u32| {
        let mut payload = [0, len, 0].map(u32::to_le_bytes).concat();
        payload.extend(std::iter::repeat_n(9, len as usize));
        reply(24, &payload)
    };
    vec![
        [&[3][..], &plain].concat(),
        [&[0][..], &protocol, &space(40)].concat(),
        [&[1][..], &protocol, &space(12)].concat(),
        [&[1][..], &protocol, &reply(24, &[])].concat(),
    ]
}
