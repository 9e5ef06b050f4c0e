// SPDX-License-Identifier: Apache-2.0
//! The queue against the crate `virtio-queue`, under any order of what driver and device do.

use gunyahd_fuzz::breaks;
use proptest::prelude::*;

/// A step of a driver that keeps the rules, of the device, or of one that does not.
fn step(hostile: bool) -> BoxedStrategy<Vec<u8>> {
    let any = any::<u8>();
    let places = proptest::collection::vec(any, 5);
    let request = (0..5u8, places).prop_map(|(more, places)| [vec![0, more], places].concat());
    let good = prop_oneof![
        4 => request,
        2 => any.prop_map(|more| vec![1, more]),
        6 => Just(vec![6]),
        4 => any.prop_map(|len| vec![7, len]),
        2 => Just(vec![9]),
        2 => Just(vec![10]),
        1 => Just(vec![13]),
        1 => (any, any).prop_map(|(low, high)| vec![11, low, high]),
        1 => any.prop_map(|flags| vec![12, flags]),
        1 => any.prop_map(|count| vec![15, count]),
    ];
    if !hostile {
        return good.boxed();
    }
    prop_oneof![
        12 => good,
        1 => proptest::collection::vec(any, 6).prop_map(|words| [vec![2], words].concat()),
        1 => (any, any).prop_map(|(low, high)| vec![3, low, high]),
        1 => (any, any).prop_map(|(low, high)| vec![4, low, high]),
        1 => (any, any, any).prop_map(|(low, high, byte)| vec![5, low, high, byte]),
    ]
    .boxed()
}

fn program(hostile: bool) -> impl Strategy<Value = Vec<u8>> {
    let steps = proptest::collection::vec(step(hostile), 0..80);
    (any::<u8>(), steps).prop_map(|(rules, steps)| [vec![rules], steps.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn drivers_that_keep_the_rules(program in program(false)) {
        // The feature for tables is one of the rules.
        let program = [&[program[0] | 1], &program[1..]].concat();
        prop_assert_eq!(breaks(&program), None);
    }

    #[test]
    fn drivers_that_do_not(program in program(true)) {
        let _ = breaks(&program);
    }

    #[test]
    fn anything(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = breaks(&bytes);
    }
}

#[test]
fn indices_wrap() {
    for rules in [0x01, 0x30, 0x33, 0x82] {
        let mut program = vec![rules];
        for round in 0..4 {
            program.extend([14; 16]);
            program.extend([11, round, round << 6, 9, 10, 15, 3, 9, 10]);
        }
        assert_eq!(breaks(&program), None);
    }
}
