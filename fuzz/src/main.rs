// SPDX-License-Identifier: Apache-2.0
//! All targets in one program for libFuzzer; GUNYAHD_FUZZ_TARGET names the one to attack.
#![no_main]

use std::sync::OnceLock;

use gunyahd_fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static FEED: OnceLock<fn(&[u8])> = OnceLock::new();
    let feed = FEED.get_or_init(|| {
        let name = std::env::var("GUNYAHD_FUZZ_TARGET").unwrap_or_default();
        match TARGETS.iter().find(|target| target.name == name) {
            Some(target) => target.feed,
            None => panic!(
                "GUNYAHD_FUZZ_TARGET={name:?} is none of {:?}",
                TARGETS.map(|target| target.name)
            ),
        }
    });
    feed(bytes);
});
