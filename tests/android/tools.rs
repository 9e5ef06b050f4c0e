// SPDX-License-Identifier: Apache-2.0
//! Programs of the development host that a test needs.

use std::io::Write;
use std::path::Path;

/// True if all of `names` are on PATH. Else the test is to end: loudly, and as a failure where
/// GUNYAHD_REQUIRE_TOOLS=1 says that the host is set up.
pub fn present(names: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| !std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("GUNYAHD_REQUIRE_TOOLS").is_none_or(|value| value != "1"),
        "not installed: {missing:?}"
    );
    // Past the capture of the test harness, which would swallow it.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: not installed: {missing:?} (GUNYAHD_REQUIRE_TOOLS=1 makes this an error)"
    );
    false
}

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
