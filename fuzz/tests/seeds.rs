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
            Config { cases: ROUNDS, failure_persistence: None, ..Config::default() },
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
    use gunyahd::image::{arm64, elf, gzip, BuiltConfig, Setting};
    for packed in seeds("gzip") {
        let mut room = [0; 6];
        let mut unpacker = gzip::Unpacker::new(&packed[..], 6);
        unpacker.fill(&mut room).unwrap();
        unpacker.end().unwrap();
        assert_eq!(&room, b"gunyah");
    }
    let start = seeds("image")[0][8..].first_chunk().copied().unwrap();
    assert!(arm64::Header::parse(&start, 4096).is_ok());
    let config = BuiltConfig::find(&seeds("image")[0][..]).unwrap();
    assert_eq!(config.setting("VIRTIO"), Setting::BuiltIn);
    let file = &seeds("elf")[0];
    let read = |offset, room: &mut [u8]| {
        let from = usize::try_from(offset).unwrap();
        room.copy_from_slice(&file[from..from + room.len()]);
        Ok(())
    };
    let start = file.first_chunk().unwrap();
    assert!(elf::Executable::parse(start, file.len() as u64, read).is_ok());
    assert!(!seeds("dtb").is_empty());
    let understood = |line: &Vec<u8>| gunyahd::status::control::parse_request(line).is_ok();
    assert!(seeds("control").iter().any(understood));
}
