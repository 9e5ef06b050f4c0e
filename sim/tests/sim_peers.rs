// SPDX-License-Identifier: Apache-2.0
//! The property service and the log daemon that the simulator plays, seen from a program.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::process::Command;

use serde_json::Value;

#[test]
fn properties_and_log_lines_reach_the_record() {
    let place = std::env::temp_dir().join(format!("gunyah-sim-peers-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let path = |name: &str| place.join(name).to_str().unwrap().to_string();
    // SETPROP2 as a client sends it.
    let mut request = 0x0002_0001u32.to_ne_bytes().to_vec();
    for part in ["vendor.gunyah.state", "up"] {
        request.extend(u32::try_from(part.len()).unwrap().to_ne_bytes());
        request.extend(part.as_bytes());
    }
    let record = path("record");
    let mut sim = Command::new(env!("CARGO_BIN_EXE_gunyah-sim"))
        .args(["--record", &record])
        .args(["--property-socket", &path("property")])
        .args(["--logd-socket", &path("logd")])
        .args(["--", "cat"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();

    let mut property = connect(&path("property"));
    std::io::Write::write_all(&mut property, &request).unwrap();
    let mut reply = [0xff; 4];
    std::io::Read::read_exact(&mut property, &mut reply).unwrap();
    assert_eq!(reply, [0; 4]);

    let logd = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let line = [&[0u8; 11][..], b"\x05tag\0careful\0"].concat();
    logd.send_to(&line, path("logd")).unwrap();

    // The end of its input ends the program.
    drop(sim.stdin.take());
    assert!(sim.wait().unwrap().success());
    let lines: Vec<Value> = std::fs::read_to_string(&record)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap();
    assert_eq!(find("property")["name"], "vendor.gunyah.state");
    assert_eq!(find("property")["value"], "up");
    assert_eq!(
        (&find("log")["priority"], &find("log")["message"]),
        (&"W".into(), &"careful".into())
    );
    assert!(!place.join("property").exists() && !place.join("logd").exists());
    std::fs::remove_dir_all(&place).unwrap();
}

/// The socket is there before the program starts, but this test runs beside the simulator.
fn connect(path: &str) -> std::os::unix::net::UnixStream {
    loop {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}
