// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask …`: set-up, demo, tests and release builds. One file a command.

mod bench;
mod cpio;
mod cycles;
mod demo;
mod dist;
mod fuzz;
mod guest;
mod host_test;
mod hugepages;
mod packages;
mod setup;
mod test;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup    install what is missing, fetch an arm64 kernel and busybox for the guests
  bench    launches timed, against the floor
  cycles   1,000 lives of four VMs and 200 crashes, and nothing left of them
  demo     two arm64 Linux guests, launched by gunyahd on the simulator
  test     everything: format, lints, unit tests, whole-program tests, real guests
  dist     static device binaries for arm64 and x86-64, with manifest and tarballs
           (--verify: built twice, and the same)
  host-test  those binaries on arm64 hosts with 4 and 16 KiB pages, under QEMU
  fuzz     the parsers under libFuzzer, an hour in all (--seconds N, TARGET…)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["bench"] => bench::run(),
        ["cycles"] => cycles::run(),
        ["demo"] => demo::run(),
        ["setup"] => setup::run(),
        ["test"] => test::run(),
        ["dist"] => dist::run(false),
        ["dist", "--verify"] => dist::run(true),
        ["host-test"] => host_test::run(),
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

#[cfg(test)]
mod tests {
    use super::tree;

    #[test]
    fn the_readmes_links_lead_somewhere() {
        let text = std::fs::read_to_string(tree::root().join("README.md")).expect("README.md");
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let local: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
        assert!(local.len() > 5, "{local:?}");
        for link in local {
            assert!(
                tree::root().join(link).exists(),
                "README.md links to {link}"
            );
        }
    }
}
