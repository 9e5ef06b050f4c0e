// SPDX-License-Identifier: Apache-2.0
//! docs/control-protocol.md says what the code does.

use gunyahd::status::control::{parse_request, parse_response, request_line, response_line};

#[test]
fn every_example_of_the_protocol_is_understood() {
    let text = include_str!("../../docs/control-protocol.md");
    let (mut requests, mut answers) = (0, 0);
    for line in text.lines().filter(|line| line.starts_with("{\"v\"")) {
        if line.contains("\"op\"") {
            let request = parse_request(line.as_bytes()).unwrap();
            assert_eq!(parse_request(&request_line(&request)), Ok(request));
            requests += 1;
        } else {
            // What we would write for it is what stands there, key by key.
            let answer = parse_response(line.as_bytes()).unwrap();
            let written = response_line(&answer);
            assert_eq!(String::from_utf8_lossy(&written).trim_end(), line);
            answers += 1;
        }
    }
    assert_eq!((requests, answers), (10, 6));
}
