// SPDX-License-Identifier: Apache-2.0
//! Blobs that mean harm, each wrong in one place.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A blob made by hand, so that everything in it can be wrong.
struct Raw {
    header: [u32; 10],
    reservations: Vec<u8>,
    structure: Vec<u8>,
    strings: Vec<u8>,
}

const BEGIN: u32 = 1;
const CLOSE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Tokens and what follows them, padded to cells.
enum Item<'a> {
    Token(u32),
    Text(&'a str),
    Bytes(&'a [u8]),
}
use Item::{Bytes, Text, Token};

impl Raw {
    fn new(items: &[Item<'_>]) -> Self {
        let mut structure = Vec::new();
        for item in items {
            match item {
                Token(token) => structure.extend(token.to_be_bytes()),
                Text(text) => {
                    structure.extend(text.as_bytes());
                    structure.push(0);
                }
                Bytes(bytes) => structure.extend(*bytes),
            }
            structure.resize(structure.len().next_multiple_of(4), 0);
        }
        let mut raw = Self {
            header: [0xd00d_feed, 0, 0, 0, 40, 17, 16, 0, 0, 0],
            reservations: vec![0; 16],
            structure,
            strings: b"reg\0name\0".to_vec(),
        };
        raw.lay_out();
        raw
    }

    fn lay_out(&mut self) {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let at = 40 + len(&self.reservations);
        self.header[2] = at;
        self.header[3] = at + len(&self.structure);
        self.header[1] = self.header[3] + len(&self.strings);
        self.header[8] = len(&self.strings);
        self.header[9] = len(&self.structure);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .header
            .iter()
            .flat_map(|cell| cell.to_be_bytes())
            .collect();
        bytes.extend(&self.reservations);
        bytes.extend(&self.structure);
        bytes.extend(&self.strings);
        bytes
    }

    fn parse(&self) -> Result<Tree, ParseError> {
        Tree::parse(&self.bytes())
    }
}

fn parse(items: &[Item<'_>]) -> Result<Tree, ParseError> {
    Raw::new(items).parse()
}

fn nested(inner: &[Item<'_>]) -> Result<Tree, ParseError> {
    let mut items = vec![Token(BEGIN), Text("")];
    items.extend(inner.iter().map(|item| match item {
        Token(token) => Token(*token),
        Text(text) => Text(text),
        Bytes(bytes) => Bytes(bytes),
    }));
    items.extend([Token(CLOSE), Token(END)]);
    parse(&items)
}

const ROOT: [Item<'static>; 4] = [Token(BEGIN), Text(""), Token(CLOSE), Token(END)];

#[test]
fn nops_are_stepped_over_and_bytes_behind_are_ignored() {
    let tree = nested(&[
        Token(NOP),
        Token(PROP),
        Token(5),
        Token(4),
        Bytes(b"abcd\0"),
        Token(NOP),
        Token(BEGIN),
        Text("a@1"),
        Token(CLOSE),
        Token(NOP),
    ])
    .unwrap();
    assert_eq!(tree.root.value("name"), Some(&b"abcd\0"[..]));
    assert_eq!(tree.root.children[0].name, "a@1");
    let mut longer = Raw::new(&ROOT).bytes();
    longer.extend([0xff; 100]);
    assert_eq!(Tree::parse(&longer).unwrap(), Tree::default());
}

#[test]
fn headers_are_distrusted() {
    let good = Raw::new(&ROOT);
    assert!(good.parse().is_ok());
    let with = |field: usize, value: u32| {
        let mut raw = Raw::new(&ROOT);
        raw.header[field] = value;
        raw.parse().unwrap_err()
    };
    assert_eq!(Tree::parse(b"").unwrap_err(), ParseError::Short(0));
    assert_eq!(
        Tree::parse(&good.bytes()[..39]).unwrap_err(),
        ParseError::Short(39)
    );
    assert_eq!(with(0, 0xedfe_0dd0), ParseError::Magic(0xedfe_0dd0));
    assert!(matches!(
        with(5, 16),
        ParseError::Version { version: 16, .. }
    ));
    assert!(matches!(
        with(6, 18),
        ParseError::Version { compatible: 18, .. }
    ));
    assert_eq!(with(1, (2 << 20) + 1), ParseError::Big((2 << 20) + 1));
    assert!(matches!(
        with(1, 20),
        ParseError::Truncated { total: 20, .. }
    ));
    let total = good.bytes().len();
    assert!(matches!(with(1, 2 << 20), ParseError::Truncated { got, .. } if got == total));
    let block = |error, name| matches!(error, ParseError::Block { block, .. } if block == name);
    for field in [2, 9] {
        assert!(block(with(field, u32::MAX), "structure"));
        assert!(block(with(field, u32::MAX - 3), "structure"));
    }
    assert!(block(with(2, 57), "structure"));
    assert!(block(with(2, 36), "structure"));
    assert!(block(with(3, u32::MAX), "strings"));
    assert!(block(with(8, u32::MAX), "strings"));
    assert!(block(with(4, u32::MAX), "reservation"));
    assert!(block(with(4, 44), "reservation"));
}

#[test]
fn blocks_do_not_overlap() {
    let with = |field: usize, value: u32| {
        let mut raw = Raw::new(&ROOT);
        raw.strings.resize(64, 0);
        raw.lay_out();
        raw.header[field] = value;
        raw.parse().unwrap_err()
    };
    // The strings begin inside the structure block, or the structure inside the reservations.
    assert_eq!(with(3, 60), ParseError::Overlap("structure", "strings"));
    assert_eq!(with(2, 48), ParseError::Overlap("reservation", "structure"));
}

#[test]
fn reservations_end_with_an_empty_one() {
    let mut raw = Raw::new(&ROOT);
    let entry = |address: u64, size: u64| [address.to_be_bytes(), size.to_be_bytes()].concat();
    raw.reservations = [entry(0x8000_0000, 0x1000), entry(0, 0)].concat();
    raw.lay_out();
    assert_eq!(raw.parse().unwrap().reservations, [(0x8000_0000, 0x1000)]);
    raw.reservations = [entry(0x8000_0000, 0), entry(0, 0)].concat();
    raw.lay_out();
    assert_eq!(
        raw.parse().unwrap_err(),
        ParseError::EmptyReservation(0x8000_0000)
    );
}

#[test]
fn nodes_must_nest() {
    let nesting = |items: &[Item<'_>]| {
        let error = parse(items).unwrap_err();
        assert!(matches!(error, ParseError::Nesting(_)), "{error:?}");
    };
    nesting(&[Token(END)]);
    nesting(&[Token(CLOSE)]);
    nesting(&[Token(BEGIN), Text(""), Token(END)]);
    nesting(&[Token(BEGIN), Text("root"), Token(CLOSE), Token(END)]);
    nesting(&[
        Token(BEGIN),
        Text(""),
        Token(CLOSE),
        Token(CLOSE),
        Token(END),
    ]);
    nesting(&[Token(BEGIN), Text(""), Token(BEGIN), Text(""), Token(END)]);
    let cut = |items: &[Item<'_>]| {
        let error = parse(items).unwrap_err();
        assert!(matches!(error, ParseError::Cut(_)), "{error:?}");
    };
    cut(&[]);
    cut(&[Token(BEGIN)]);
    cut(&[Token(BEGIN), Bytes(b"name")]);
    cut(&[Token(BEGIN), Text(""), Token(CLOSE)]);
    cut(&[Token(BEGIN), Text(""), Token(PROP), Token(1)]);
    cut(&[
        Token(BEGIN),
        Text(""),
        Token(PROP),
        Token(u32::MAX),
        Token(0),
    ]);
    cut(&[
        Token(BEGIN),
        Text(""),
        Token(PROP),
        Token(8),
        Token(0),
        Token(0),
    ]);
    assert_eq!(
        parse(&[Token(BEGIN), Text(""), Token(7)]).unwrap_err(),
        ParseError::Token {
            token: 7,
            offset: 8
        }
    );
}

#[test]
fn names_are_checked_and_given_once() {
    let property = |offset| [Token(PROP), Token(0), Token(offset)];
    assert_eq!(
        nested(&[property(0), property(0)].concat_items()).unwrap_err(),
        ParseError::DuplicateProperty {
            path: "/".into(),
            name: "reg".into()
        }
    );
    let child = |name| [Token(BEGIN), Text(name), Token(CLOSE)];
    assert_eq!(
        nested(&[child("a"), child("a")].concat_items()).unwrap_err(),
        ParseError::DuplicateNode("/a".into())
    );
    assert!(nested(&[child("a@1"), child("a@2")].concat_items()).is_ok());
    assert!(matches!(
        nested(&[child("a"), property(0)].concat_items()).unwrap_err(),
        ParseError::PropertyPlace { .. }
    ));
    assert!(matches!(
        nested(&property(1000)).unwrap_err(),
        ParseError::NameOffset { offset: 1000, .. }
    ));
    // Offset 3 is the NUL of "reg": an empty name.
    assert!(matches!(
        nested(&property(3)).unwrap_err(),
        ParseError::Name { .. }
    ));
    for name in ["a b", "a/b", "..\u{7f}", "caf\u{e9}", "a{"] {
        let error = nested(&child(name)).unwrap_err();
        assert!(matches!(error, ParseError::Name { .. }), "{error:?}");
    }
    assert!(matches!(
        nested(&child(&"n".repeat(256))).unwrap_err(),
        ParseError::Name { .. }
    ));
    let mut raw = Raw::new(&[Token(BEGIN), Text(""), Token(PROP), Token(0), Token(0)]);
    raw.strings = b"unended".to_vec();
    raw.lay_out();
    assert!(matches!(
        raw.parse().unwrap_err(),
        ParseError::NameOffset { offset: 0, .. }
    ));
}

/// Items of several pieces in a row.
trait Concat<'a> {
    fn concat_items(self) -> Vec<Item<'a>>;
}

impl<'a, const N: usize, const M: usize> Concat<'a> for &'a [[Item<'a>; N]; M] {
    fn concat_items(self) -> Vec<Item<'a>> {
        self.iter()
            .flatten()
            .map(|item| match item {
                Token(token) => Token(*token),
                Text(text) => Text(text),
                Bytes(bytes) => Bytes(bytes),
            })
            .collect()
    }
}

#[test]
fn depth_paths_and_counts_are_bounded() {
    let deep = |levels: usize, name: &str| {
        let mut items = vec![Token(BEGIN), Text("")];
        for _ in 1..levels {
            items.extend([Token(BEGIN), Text(name)]);
        }
        items.extend((0..levels).map(|_| Token(CLOSE)));
        items.push(Token(END));
        parse(&items)
    };
    let tree = deep(DEPTH_MAX, "n").unwrap();
    // The deepest that is read can be written, printed and judged too.
    assert_eq!(Tree::parse(&tree.to_blob().unwrap()).unwrap(), tree);
    assert!(tree.to_source().len() > DEPTH_MAX);
    assert!(check(&tree, None)
        .iter()
        .any(|problem| problem.rule() == "depth"));
    assert!(matches!(
        deep(DEPTH_MAX + 1, "n").unwrap_err(),
        ParseError::Deep(_)
    ));
    assert!(matches!(
        deep(10_000, "n").unwrap_err(),
        ParseError::Deep(_)
    ));
    assert!(matches!(
        deep(10, &"n".repeat(255)).unwrap_err(),
        ParseError::Deep(_)
    ));

    let names: Vec<String> = (0..NODES_MAX).map(|number| format!("n{number}")).collect();
    let items: Vec<_> = names
        .iter()
        .flat_map(|name| [Token(BEGIN), Text(name), Token(CLOSE)])
        .collect();
    assert!(matches!(
        nested(&items).unwrap_err(),
        ParseError::Many { what: "nodes", .. }
    ));
    assert!(nested(&items[3..]).is_ok());

    let mut raw = Raw::new(&[]);
    let mut structure = [BEGIN, 0].to_vec();
    raw.strings.clear();
    for number in 0..=PROPERTIES_MAX {
        structure.extend([PROP, 0, u32::try_from(raw.strings.len()).unwrap()]);
        raw.strings.extend(format!("{number}\0").bytes());
    }
    raw.structure = structure
        .iter()
        .flat_map(|cell| cell.to_be_bytes())
        .collect();
    raw.lay_out();
    assert!(matches!(
        raw.parse().unwrap_err(),
        ParseError::Many {
            what: "properties",
            ..
        }
    ));
}

#[test]
fn hostile_values_break_nothing() {
    let config = fixture::proxy();
    let plan = fixture::plan(&config, 0x8100_0000, 1);
    let done = Draft::generated(&config)
        .unwrap()
        .finish(&plan, &Seeds::PLACEHOLDER)
        .unwrap();
    let expected = Expected::of_config(&config);
    let paths: Vec<String> = done
        .tree
        .walk()
        .iter()
        .map(|at| at.path().to_owned())
        .collect();
    let values: [&[u8]; 4] = [b"", b"\0\0\0\x01", &[0xff; 4], &[0xff; 33]];
    for path in &paths {
        // Every property, and those that lead elsewhere: cells, phandles that point at themselves.
        let names: Vec<String> = done
            .tree
            .find(path)
            .unwrap()
            .properties
            .iter()
            .map(|property| property.name.clone())
            .chain(
                [
                    "#address-cells",
                    "#size-cells",
                    "interrupt-parent",
                    "phandle",
                    "config",
                ]
                .map(String::from),
            )
            .collect();
        for name in &names {
            for value in values {
                let mut tree = done.tree.clone();
                tree.find_mut(path).unwrap().set(name, value.to_vec());
                let _ = check(&tree, Some(&expected));
            }
        }
    }
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut tree = Tree::default();
    tree.root.push(Node::new("__symbols__"));
    assert_eq!(tree.to_blob().unwrap_err().place, "/__symbols__");
    let mut tree = Tree::default();
    tree.root
        .ensure_child("a", Position::Last)
        .set_u32(&"p".repeat(32), 1);
    let error = tree.to_blob().unwrap_err().to_string();
    assert!(error.starts_with("/a: property pppp"), "{error}");
    let mut tree = Tree::default();
    tree.root.set("big", vec![0; BLOB_MAX]);
    assert!(tree
        .to_blob()
        .unwrap_err()
        .fault
        .contains("at most 2097152"));
    for reservations in [vec![(0, 0)], vec![(u64::MAX, 2)], vec![(0, 2), (1, 2)]] {
        let tree = Tree {
            reservations,
            ..Tree::default()
        };
        assert!(tree.to_blob().unwrap_err().place.starts_with("reservation"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_break_nothing(bytes in vec(any::<u8>(), 0..512)) {
        use_it(&bytes);
        let mut raw = Raw::new(&[]);
        raw.structure = bytes;
        raw.structure.truncate(raw.structure.len() / 4 * 4);
        raw.lay_out();
        use_it(&raw.bytes());
    }
}
