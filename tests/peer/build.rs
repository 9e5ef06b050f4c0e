// SPDX-License-Identifier: Apache-2.0
//! The linker's script.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg-bins=-T{here}/link.ld");
}
