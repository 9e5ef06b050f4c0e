// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask …`: set-up, demo, tests and release builds.

fn main() {}
