// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

fn wrong(text: &str) -> (usize, String) {
    let Wrong { offset, what } = read(text).unwrap_err();
    (offset, what)
}

#[test]
fn positions_count_lines_and_characters() {
    let at = |line, column| Position { line, column };
    let root = read("{ \"ä\": 1,\r\n  \"b\": [true, null] }").unwrap();
    let members = root.members();
    assert_eq!(members[0].position, at(1, 3));
    assert_eq!(members[0].value.position, at(1, 8));
    assert_eq!(members[1].position, at(2, 3));
    let Value::List(items) = &members[1].value.value else { panic!("{members:?}") };
    assert_eq!(items[1].position, at(2, 15));
    assert_eq!(items[1].value, Value::Null);
}

#[test]
fn faults_have_a_place_and_a_reason() {
    for (text, offset, what) in [
        ("", 0, "the text ends where a value is expected"),
        ("nul", 0, "expected a value"),
        ("[1 2]", 3, "expected `,` or `]`"),
        ("[1,]", 3, "expected a value"),
        ("{\"a\" 1}", 5, "expected `:`"),
        ("{\"a\":1,}", 7, "expected a key in double quotes"),
        ("{\"a\":1", 6, "the text ends where `,` or `}` is expected"),
        ("01", 1, "more text follows the value"),
        ("-", 1, "the text ends where a digit is expected"),
        ("1.e3", 2, "expected a digit"),
        ("\"a", 2, "the text ends where `\"` is expected"),
        ("\"a\nb\"", 2, "the string has a control character that is not escaped"),
        (r#""a\x""#, 2, "the string has an escape that is not a character"),
        (r#""\ud800""#, 1, "the string has an escape that is not a character"),
        (r#""\ud800\u0041""#, 1, "the string has an escape that is not a character"),
        (r#""\u+041""#, 1, "the string has an escape that is not a character"),
    ] {
        assert_eq!(wrong(text), (offset, what.to_owned()), "{text}");
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(wrong(&deep).1.contains("nested deeper"));
}

#[test]
fn values_are_written_in_a_line_or_indented() {
    let value = object(vec![
        ("a", vec![1u32.into(), Value::Null].into()),
        ("b", "\"\\\n\u{1}ü".into()),
        ("c", object(vec![])),
    ]);
    assert_eq!(value.to_string(), r#"{"a":[1,null],"b":"\"\\\n\u0001ü","c":{}}"#);
    let lines = ["{", "  \"a\": [", "    1,", "    null", "  ],"];
    assert!(format!("{value:#}").starts_with(&lines.join("\n")), "{value:#}");
    assert!(format!("{value:#}").ends_with("  \"c\": {}\n}"), "{value:#}");
}

record! {
    /// Of every kind of field.
    Row {
        name: String,
        count: u32 = 1,
        parent: Option<Box<Row>>,
        kind: Kind,
    }
}

choice! {
    /// Of every kind of variant.
    Kind {
        Plain = "plain",
        Of(row: Vec<String>) = "of",
        With { size: u64, } = "with",
    }
}

#[test]
fn what_is_declared_comes_back() {
    let plain = Row { name: "a".into(), count: 1, parent: None, kind: Kind::Plain };
    let whole = Row {
        name: "b".into(),
        count: 2,
        parent: Some(Box::new(plain.clone())),
        kind: Kind::With { size: u64::MAX },
    };
    let list = Row { kind: Kind::Of(vec!["x".into()]), ..plain.clone() };
    for (row, text) in [
        (&plain, r#"{"name":"a","kind":"plain"}"#),
        (&list, r#"{"name":"a","kind":{"of":["x"]}}"#),
        (
            &whole,
            r#"{"name":"b","count":2,"parent":{"name":"a","kind":"plain"},"kind":{"with":{"size":18446744073709551615}}}"#,
        ),
    ] {
        assert_eq!(row.to_json().to_string(), text);
        assert_eq!(&from_bytes::<Row>(text.as_bytes()).unwrap(), row);
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (text, what) in [
        ("[]", "expected an object, found a list"),
        (r#"{"name":"a"}"#, "`kind` is missing"),
        (r#"{"name":"a","kind":"other"}"#, "`kind`: \"other\" is not known"),
        (r#"{"name":"a","kind":{"with":{"size":-1}}}"#, "`kind`: `size`: expected a number"),
        (r#"{"name":7,"kind":"plain"}"#, "`name`: expected a string, found a number"),
    ] {
        let wrong = from_bytes::<Row>(text.as_bytes()).unwrap_err();
        assert!(wrong.starts_with(what), "{text}: {wrong}");
    }
    assert_eq!(from_bytes::<Row>(b"\xff").unwrap_err(), "not UTF-8");
}

/// Text that is nearly JSON.
fn near() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"",
        "\\",
        "\\u0041",
        "\\ud83d\\ude00",
        "1",
        "-0",
        "0.5",
        "1e+9",
        "true",
        "null",
        " ",
        "\n",
        "ü",
    ]);
    prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

proptest! {
    /// As another reader has it.
    #[test]
    fn agrees_with_another_reader(text in prop_oneof![near(), any::<String>()]) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match read(&text) {
            Ok(ours) => {
                // Theirs has floats, which have an end.
                let far = |wrong: serde_json::Error| wrong.to_string().starts_with("number out of");
                prop_assert!(theirs.map_or_else(far, |_| true), "{text:?}");
                let written = ours.to_string();
                prop_assert_eq!(read(&written).unwrap().to_string(), written);
            }
            Err(wrong) => prop_assert!(theirs.is_err(), "{text:?}: {wrong:?}"),
        }
    }

    #[test]
    fn strings_are_read_as_another_reader_does(text in any::<String>()) {
        let written = Value::from(text.as_str()).to_string();
        prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), &*text);
        let theirs = serde_json::to_string(&text).unwrap();
        let ours = read(&theirs).unwrap();
        prop_assert_eq!(ours.text(), Ok(&*text));
    }
}
