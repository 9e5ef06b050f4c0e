// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask …`: set-up, demo, tests and release builds, a file each.

mod bench;
mod cpio;
mod cycles;
mod demo;
mod dist;
mod fuzz;
mod guest;
mod host_test;
mod hugepages;
mod keyguest;
mod packages;
mod poolguest;
mod rootdisk;
mod setup;
mod test;
mod tree;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup      install missing tools, fetch arm64 kernels and busybox for the guests, make root disks
  root-disk  make root disks for arm64 guests, and the initrd that boots from them
  key-guest  make an arm64 Linux that ends by its power key
  pool-guest build an arm64 Linux with CONFIG_DMA_RESTRICTED_POOL, which reaches its devices over lent memory
  demo       launch three arm64 Linux guests with gunyahd on the simulator, one of them a Debian on a root disk
             --programs DIR  with the programs in DIR, instead of building them
  test       run all tests: format, lints, unit tests, whole programs, real guests
             PART…    only these parts
             --list   show the parts
             --quick  format, lints, unit tests and one launch
  fuzz       run the parsers under libFuzzer for an hour (--seconds N, TARGET…)
  cycles     start and stop four VMs 1,000 times, crash them 200 times, look for what is left
  host-test  run the device programs on emulated arm64 hosts with 4 and 16 KiB pages, several drivers,
             and memory in pieces, and guests on an x86-64 one with vhost (HOST… only these)
  bench      time launches, compared with the memory, files and calls alone; what gunyahd costs at rest
             --brief  fewer sizes and rounds, in some three minutes
             PART…    only these: launch many restart status programs footprint calls
             --docs   make the chart of docs/performance.md from it
             devices: what virtio devices cost instead
  dist       build static programs for arm64 and x86-64, with manifest and tarballs
             --verify build them twice and compare
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["bench", "devices"] => bench::devices(),
        ["bench", words @ ..] => bench::run(words),
        ["cycles"] => cycles::run(),
        ["demo"] => demo::run(None),
        ["demo", "--programs", folder] => demo::run(Some(Path::new(folder))),
        ["key-guest"] => keyguest::run(),
        ["pool-guest"] => poolguest::run(),
        ["root-disk"] => rootdisk::run(),
        ["setup"] => setup::run(),
        ["test", words @ ..] => test::run(words),
        ["dist"] => dist::run(false),
        ["dist", "--verify"] => dist::run(true),
        ["host-test", hosts @ ..] => host_test::run(hosts),
        ["fuzz", words @ ..] => fuzz::run(words),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
