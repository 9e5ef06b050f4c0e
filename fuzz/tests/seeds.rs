// SPDX-License-Identifier: Apache-2.0
//! Every target with its seeds, and with seeds that have been damaged: quick, and the same each time.

use gunyahd_fuzz::{seeds, TARGETS};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Damaged inputs a target. Coverage is what `cargo xtask fuzz` is for.
const ROUNDS: u32 = 300;

#[test]
fn every_target_takes_its_seeds_and_damaged_ones() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in &seeds {
            (target.feed)(seed);
        }
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(
            Config {
                cases: ROUNDS,
                failure_persistence: None,
                ..Config::default()
            },
            rng,
        );
        let damage = (
            0..seeds.len(),
            proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 0..6),
            proptest::num::usize::ANY,
        );
        let result = runner.run(&damage, |(index, bytes, cut)| {
            let mut input = seeds[index].clone();
            for (at, byte) in bytes {
                let at = at % input.len();
                input[at] = byte;
            }
            if cut % 4 == 0 {
                input.truncate(cut % (input.len() + 1));
            }
            (target.feed)(&input);
            Ok(())
        });
        assert!(result.is_ok(), "{}: {result:?}", target.name);
    }
}

#[test]
fn good_seeds_are_good() {
    use gunyahd::image::{arm64, elf, gzip};
    for packed in seeds("gzip") {
        let header = gzip::header_size(&packed).unwrap();
        let mut room = [0; 6];
        assert_eq!(gzip::unpack(&mut &packed[header..], &mut room).unwrap(), 6);
        assert_eq!(&room, b"gunyah");
    }
    assert!(arm64::Header::parse(&seeds("image")[0][8..], 4096).is_ok());
    let file = &seeds("elf")[0];
    let table = elf::header(file, file.len() as u64).unwrap();
    assert!(elf::program_headers(&table, &file[64..120], file.len() as u64).is_ok());
    assert!(!seeds("dtb").is_empty());
    let understood = |line: &Vec<u8>| gunyahd::status::control::parse_request(line).is_ok();
    assert!(seeds("control").iter().any(understood));
}
