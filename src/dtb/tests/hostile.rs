// SPDX-License-Identifier: Apache-2.0
//! Blobs that mean harm, each wrong in one place.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::parse::{DEPTH_MAX, NODES_MAX, PROPERTIES_MAX};
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
use crate::list::Listed;
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
        let mut bytes = self.header.iter().flat_map(|cell| cell.to_be_bytes()).listed();
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

/// What is wrong with it, in these words among others.
fn refused(parsed: Result<Tree, ParseError>, words: &str) {
    let error = parsed.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn headers_are_distrusted() {
    let good = Raw::new(&ROOT);
    assert!(good.parse().is_ok());
    let with = |field: usize, value: u32, words: &str| {
        let mut raw = Raw::new(&ROOT);
        raw.header[field] = value;
        refused(raw.parse(), words);
    };
    refused(Tree::parse(b""), "0 bytes are too few");
    refused(Tree::parse(&good.bytes()[..39]), "39 bytes are too few");
    with(0, 0xedfe_0dd0, "the magic number is 0xedfe0dd0");
    with(5, 16, "has version 16");
    with(6, 18, "compatible to 18");
    with(1, (2 << 20) + 1, "2097153 bytes, arm64 guests take at most 2097152");
    with(1, 20, "says it has 20 bytes");
    with(1, 2 << 20, "says it has 2097152 bytes, its file has 81");
    for field in [2, 9] {
        with(field, u32::MAX, "structure block");
        with(field, u32::MAX - 3, "structure block");
    }
    with(2, 57, "structure block");
    with(2, 36, "structure block");
    with(3, u32::MAX, "strings block");
    with(8, u32::MAX, "strings block");
    with(4, u32::MAX, "reservation block");
    with(4, 44, "reservation block");
}

#[test]
fn blocks_do_not_overlap() {
    let with = |field: usize, value: u32, words: &str| {
        let mut raw = Raw::new(&ROOT);
        raw.strings.resize(64, 0);
        raw.lay_out();
        raw.header[field] = value;
        refused(raw.parse(), words);
    };
    // The strings begin inside the structure block, or the structure inside the reservations.
    with(3, 60, "structure and strings blocks overlap");
    with(2, 48, "reservation and structure blocks overlap");
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
    refused(raw.parse(), "reservation at 0x80000000 has size 0");
}

#[test]
fn nodes_must_nest() {
    let nesting = |items: &[Item<'_>]| refused(parse(items), "nodes are not nested");
    nesting(&[Token(END)]);
    nesting(&[Token(CLOSE)]);
    nesting(&[Token(BEGIN), Text("root")]);
    nesting(&[Token(BEGIN), Text(""), Token(BEGIN), Text("")]);
    nesting(&[Token(BEGIN), Text(""), Token(CLOSE), Token(CLOSE)]);
    nesting(&[Token(BEGIN), Text(""), Token(CLOSE), Token(BEGIN), Text("")]);
    nesting(&[Token(BEGIN), Text(""), Token(END)]);
    let cut = |items: &[Item<'_>]| refused(parse(items), "ends inside the item");
    cut(&[]);
    cut(&[Token(BEGIN)]);
    cut(&[Token(BEGIN), Bytes(b"name")]);
    cut(&[Token(BEGIN), Text(""), Token(CLOSE)]);
    cut(&[Token(BEGIN), Text(""), Token(PROP), Token(1)]);
    cut(&[Token(BEGIN), Text(""), Token(PROP), Token(u32::MAX), Token(0)]);
    cut(&[Token(BEGIN), Text(""), Token(PROP), Token(8), Token(0), Token(0)]);
    refused(parse(&[Token(BEGIN), Text(""), Token(7)]), "unknown token 0x7 at 0x8");
}

#[test]
fn names_are_checked_and_given_once() {
    let property = |offset| [Token(PROP), Token(0), Token(offset)];
    refused(nested(&[property(0), property(0)].concat_items()), "/: property reg is there twice");
    let child = |name| [Token(BEGIN), Text(name), Token(CLOSE)];
    assert!(nested(&[child("a@1"), child("a@2")].concat_items()).is_ok());
    refused(nested(&[child("a"), property(0)].concat_items()), "reg comes after a child node");
    refused(nested(&property(1000)), "name at 0x3e8");
    // Offset 3 is the NUL of "reg": an empty name.
    refused(nested(&property(3)), "a property has no name");
    for name in ["a b", "a/b", "..\u{7f}", "caf\u{e9}", "a{"] {
        refused(nested(&child(name)), "is not a devicetree name");
    }
    refused(nested(&child(&"n".repeat(256))), "is not a devicetree name");
    let mut raw = Raw::new(&[Token(BEGIN), Text(""), Token(PROP), Token(0), Token(0)]);
    raw.strings = b"unended".to_vec();
    raw.lay_out();
    refused(raw.parse(), "name at 0x0");
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
            .listed()
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
    let blob = tree.to_blob().unwrap();
    assert_eq!(Tree::parse(&blob).unwrap(), tree);
    assert!(tree.to_source().len() > DEPTH_MAX);
    let faults = built(&fixture::config(), Some(&blob)).unwrap_err();
    assert!(names(&faults).contains(&"dtb-depth"), "{faults:#?}");
    refused(deep(DEPTH_MAX + 1, "n"), "more than 64 deep");
    refused(deep(10_000, "n"), "more than 64 deep");
    refused(deep(10, &"n".repeat(255)), "longer than 2048 bytes");

    let names = (0..NODES_MAX).map(|number| format!("n{number}")).listed();
    let items = names.iter().flat_map(|name| [Token(BEGIN), Text(name), Token(CLOSE)]).listed();
    refused(nested(&items), "more than 16384 nodes");
    assert!(nested(&items[3..]).is_ok());

    let mut raw = Raw::new(&[]);
    let mut structure = [BEGIN, 0].to_vec();
    raw.strings.clear();
    for number in 0..=PROPERTIES_MAX {
        structure.extend([PROP, 0, u32::try_from(raw.strings.len()).unwrap()]);
        raw.strings.extend(format!("{number}\0").bytes());
    }
    raw.structure = structure.iter().flat_map(|cell| cell.to_be_bytes()).listed();
    raw.lay_out();
    refused(raw.parse(), "more than 65536 properties");
}

#[test]
fn hostile_values_break_nothing() {
    let config = fixture::proxy();
    let plan = fixture::plan(&config, 0x8100_0000, 0x1000);
    let good = generated(&config);
    let paths = good.walk().iter().map(|at| at.path().to_owned()).listed();
    let values: [&[u8]; 4] = [b"", b"\0\0\0\x01", &[0xff; 4], &[0xff; 33]];
    for path in &paths {
        // Every property, and those that lead elsewhere: cells, phandles that point at themselves.
        let names = good
            .at(path)
            .unwrap()
            .properties
            .iter()
            .map(|property| property.name.clone())
            .chain(
                ["#address-cells", "#size-cells", "interrupt-parent", "phandle", "config"]
                    .map(String::from),
            )
            .listed();
        for name in &names {
            for value in values {
                let mut tree = good.clone();
                tree.find_mut(path).unwrap().set(name, value.to_vec());
                let _ = rules::check(&tree, &config, &plan);
            }
        }
    }
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut tree = Tree::default();
    tree.root.push(Node::new("__symbols__"));
    let unwritable = |tree: &Tree, words: &str| {
        let error = tree.to_blob().unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    };
    unwritable(&tree, "/__symbols__: ");
    let mut tree = Tree::default();
    tree.root.ensure_child("a").set_u32(&"p".repeat(32), 1);
    unwritable(&tree, "/a: property pppp");
    let mut tree = Tree::default();
    tree.root.set("big", vec![0; 2 << 20]);
    unwritable(&tree, "the blob has 2097240 bytes, arm64 guests take at most");
    for reservations in [vec![(0, 0)], vec![(u64::MAX, 2)], vec![(0, 2), (1, 2)]] {
        let tree = Tree { reservations, ..Tree::default() };
        unwritable(&tree, "/memreserve/");
    }
    let config = fixture::config();
    let mut tree = generated(&config);
    tree.root.push(Node::new(&"n".repeat(32)));
    tree.find_mut("/psci").unwrap().name = "9".to_owned();
    let faults = built(&config, Some(&by_hand(&tree))).unwrap_err();
    assert_eq!(names(&faults), ["dtb-unwritable"]);
    let faults = built(&config, Some(b"text")).unwrap_err();
    assert_eq!(names(&faults), ["dtb-unreadable"]);
}

/// A blob of names that `vm-fdt` does not write.
fn by_hand(tree: &Tree) -> Vec<u8> {
    fn write(raw: &mut Raw, node: &Node) {
        let mut put = |bytes: &[u8]| {
            raw.structure.extend(bytes);
            raw.structure.resize(raw.structure.len().next_multiple_of(4), 0);
        };
        put(&BEGIN.to_be_bytes());
        put(format!("{}\0", node.name).as_bytes());
        for property in &node.properties {
            put(&PROP.to_be_bytes());
            put(&u32::try_from(property.value.len()).unwrap().to_be_bytes());
            put(&u32::try_from(raw.strings.len()).unwrap().to_be_bytes());
            put(&property.value);
            raw.strings.extend(format!("{}\0", property.name).bytes());
        }
        node.children.iter().for_each(|child| write(raw, child));
        raw.structure.extend(CLOSE.to_be_bytes());
    }
    let mut raw = Raw::new(&[]);
    write(&mut raw, &tree.root);
    raw.structure.extend(END.to_be_bytes());
    raw.lay_out();
    raw.bytes()
}

/// Names that share bytes, as `dtc` lets them, need more room when they are written again.
#[test]
fn shared_names_are_counted_apart() {
    let mut items = vec![Token(BEGIN), Text("")];
    items.extend((0..30).flat_map(|offset| [Token(PROP), Token(0), Token(offset)]));
    items.extend([Token(CLOSE), Token(END)]);
    let mut raw = Raw::new(&items);
    raw.strings = b"abcdefghijklmnopqrstuvwxyz-abc\0".to_vec();
    raw.lay_out();
    let rewritten = raw.parse().unwrap().to_blob().unwrap();
    assert!(rewritten.len() > raw.bytes().len() + 400);
    let len_max = parse::rewritten_len_max(&raw.bytes()).unwrap();
    assert_eq!(rewritten.len(), len_max);
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
