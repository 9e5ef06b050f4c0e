// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask setup`: gets everything that demo and tests need, once.

use anyhow::Result;

use crate::guest::{self, Assets};
use crate::keyguest;
use crate::packages::{self, ENGINE_TOOLS, GUEST_TOOLS, TEST_TOOLS};
use crate::rootdisk;

/// Runs the command.
pub fn run() -> Result<()> {
    for_guests()?;
    for disk in rootdisk::ensure()? {
        println!("  root disk     {}", disk.display());
    }
    println!("  key guest     {}", keyguest::ensure()?.display());
    println!("  test tools    {}", for_tests()?);
    Ok(())
}

/// What a guest needs.
pub fn for_guests() -> Result<Assets> {
    println!("  guest tools   {}", packages::ensure(GUEST_TOOLS)?);
    let assets = guest::ensure()?;
    let how = if assets.fetched { "fetched" } else { "present" };
    println!("  guest system  {how}: {}", assets.origin);
    Ok(assets)
}

/// What the tests need besides.
pub fn for_tests() -> Result<String> {
    packages::ensure(&[TEST_TOOLS, ENGINE_TOOLS].concat())
}
