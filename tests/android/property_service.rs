// SPDX-License-Identifier: Apache-2.0
//! Init's side of the property service.

use std::io::Read;
use std::os::unix::net::UnixStream;

/// Reads one SETPROP2 request, by AOSP's description of it: name and value.
pub fn read_request(stream: &mut UnixStream) -> (String, String) {
    let mut word = [0; 4];
    let mut number = |stream: &mut UnixStream| {
        stream.read_exact(&mut word).expect("a number");
        u32::from_ne_bytes(word)
    };
    assert_eq!(number(stream), 0x0002_0001, "SETPROP2");
    let mut text = || {
        let length = usize::try_from(number(stream)).expect("a length");
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("a text");
        String::from_utf8(bytes).expect("UTF-8")
    };
    let name = text();
    (name, text())
}
