// SPDX-License-Identifier: Apache-2.0
//! Properties: waited for in init's areas, and told to a property service of the test's own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{channel, Receiver};

use gunyahd::status::State;
use rsproperties::{build_trie, PropertyInfoEntry, SystemProperties};
use serde_json::json;

use crate::host::{Host, PATIENCE};

/// A property service that says yes to everything and tells what it was asked to set.
fn property_service(host: &Host) -> Receiver<(String, String)> {
    let listener = UnixListener::bind(host.path("properties")).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(assignment) = stream.and_then(serve) else {
                return;
            };
            if tell.send(assignment).is_err() {
                return;
            }
        }
    });
    told
}

/// SETPROP2 of AOSP's property_service.cpp.
fn serve(mut stream: UnixStream) -> std::io::Result<(String, String)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    assert_eq!(word(&mut stream)?, 0x0002_0001);
    let name = text(&mut stream)?;
    let value = text(&mut stream)?;
    stream.write_all(&0u32.to_ne_bytes())?;
    Ok((name, value))
}

fn word(stream: &mut UnixStream) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn text(stream: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = vec![0; usize::try_from(word(stream)?).unwrap()];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap())
}

#[test]
fn every_state_is_told_once_in_order_with_its_reason_first() {
    let mut host = Host::new();
    host.vm("a", json!({}));
    let told = property_service(&host);
    host.boot();
    host.until("a", State::Running);
    assert_eq!(host.shut_down(), Some(0));
    let mut all = Vec::new();
    while all.last() != Some(&("vendor.gunyah.state".to_owned(), "stopped".to_owned())) {
        all.push(told.recv_timeout(PATIENCE).unwrap());
    }
    let values = |name: &str| -> Vec<&str> {
        all.iter().filter(|(of, _)| of == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(
        values("vendor.gunyah.a.state"),
        ["waiting", "starting", "running", "stopping", "stopped"]
    );
    assert_eq!(values("vendor.gunyah.state"), ["starting", "up", "stopping", "stopped"]);
    assert_eq!(values("vendor.gunyah.dialect"), ["ack61"]);
    for (index, (name, value)) in all.iter().enumerate() {
        if name == "vendor.gunyah.a.state" && value == "stopping" {
            let before = &all[index - 2..index];
            assert_eq!(before[0].0, "vendor.gunyah.a.reason");
            assert!(before[0].1.contains("gunyahd is stopping"), "{before:?}");
            assert_eq!(before[1], ("vendor.gunyah.a.restarts".into(), "0".into()));
        }
    }
}

/// Before the state, so that a script that waits for `ready` finds it.
#[test]
fn the_time_of_being_ready_is_told() {
    let mut host = Host::new();
    let told = property_service(&host);
    host.vm("a", json!({}));
    host.boot();
    host.until("a", State::Running);
    let mut last = (String::new(), String::new());
    loop {
        let next = told.recv_timeout(PATIENCE).unwrap();
        // Its file says nothing of being ready, so running is all that there is.
        if next == ("vendor.gunyah.a.state".to_owned(), "running".to_owned()) {
            break;
        }
        assert!(next.0 != "vendor.gunyah.a.ready_ms" || last.0 == "vendor.gunyah.a.restarts");
        last = next;
    }
    assert_eq!(last.0, "vendor.gunyah.a.ready_ms");
    let since_boot = std::fs::read_to_string("/proc/uptime").unwrap();
    let since_boot: f64 = since_boot.split(' ').next().unwrap().parse().unwrap();
    let millis: u32 = last.1.parse().unwrap();
    assert!(millis > 0 && f64::from(millis) / 1000.0 <= since_boot + 0.01, "{millis} {since_boot}");
}

#[test]
fn a_property_service_that_never_answers_holds_up_nobody() {
    let mut host = Host::new();
    host.vm("a", json!({}));
    // It listens and never accepts.
    let _deaf = UnixListener::bind(host.path("properties")).unwrap();
    host.boot();
    host.until("a", State::Running);
    assert_eq!(host.told(&["restart", "a"]).0, 0);
    let begun = std::time::Instant::now();
    assert_eq!(host.shut_down(), Some(0));
    assert!(begun.elapsed() < PATIENCE / 10, "{:?}", begun.elapsed());
}

/// Areas as init makes them at boot, without a property in them.
pub fn area(host: &Host) -> SystemProperties {
    let area = host.path("area");
    std::fs::create_dir(&area).unwrap();
    let contexts = host.path("contexts");
    std::fs::write(&contexts, "vendor. u:object_r:vendor_default_prop:s0\n").unwrap();
    let (entries, _) = PropertyInfoEntry::parse_from_file(&contexts, false).unwrap();
    let trie = build_trie(&entries, "u:object_r:default_prop:s0", "string").unwrap();
    std::fs::write(area.join("property_info"), trie).unwrap();
    SystemProperties::new_area(&area).unwrap()
}

#[test]
fn a_vm_starts_when_its_property_comes() {
    let mut host = Host::new();
    let mut properties = area(&host);
    properties.add("vendor.disk", "down").unwrap();

    let wait = json!({"name": "vendor.disk", "value": "up", "timeout": "1m"});
    host.vm("a", json!({"start": {"property": wait}})).boot();
    let mut watch = host.watch();
    watch.until("a", State::Waiting);
    assert_eq!(host.status("a").reason, "for property vendor.disk=up");
    let index = properties.find("vendor.disk").unwrap().unwrap();
    properties.update(&index, "up").unwrap();
    watch.until("a", State::Running);
}
