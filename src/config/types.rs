// SPDX-License-Identifier: Apache-2.0
//! The types of values: how each is read from a file, written back, and described.

use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{json, Value as Json};

use super::json::{Node, Value};
use super::keys::{nearest, Keys, TWICE};
use super::report::{Report, Wrong};
use super::table::{Row, Section, Sections};
use super::words::Words;
use crate::diagnostic::kinds;
use crate::layout;
use crate::text::{excerpt, Size, Span};

kinds! {
    TYPE: Error "config-type" in Config {
        "a value has the wrong type",
        cause: "",
        cure: "see the type of the key in docs/config.md",
    }
    VALUE: Error "config-value" in Config {
        "a value is outside the limits of its key",
        cause: "",
        cure: "see the limits of the key in docs/config.md",
    }
}

/// Huge page sizes that arm64 kernels have for hugetlb and that serve a VM: 2 MiB, 32 MiB (16 KiB
/// pages), 512 MiB (64 KiB pages), 1 GiB.
const HUGE_PAGES: [u64; 4] = [2 << 20, 32 << 20, 512 << 20, 1 << 30];

/// Longest path in bytes: PATH_MAX is 4096 with the final NUL.
const PATH_MAX: usize = 4095;

/// Longest duration.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the reference and the schema say of a type.
pub struct Description {
    /// Its name in the reference.
    pub name: String,
    /// What its values must keep; may be empty.
    pub limits: String,
    /// Its JSON Schema.
    pub schema: Json,
    /// The keys of a section, or of each item in a list of sections.
    pub rows: Vec<Row>,
}

fn described(name: impl Into<String>, limits: impl Into<String>, schema: Json) -> Description {
    Description {
        name: name.into(),
        limits: limits.into(),
        schema,
        rows: Vec::new(),
    }
}

fn integer_or_string(min: u64, max: u64, pattern: &str) -> Json {
    json!({ "oneOf": [
        { "type": "integer", "minimum": min, "maximum": max },
        { "type": "string", "pattern": pattern },
    ] })
}

/// A type of values.
pub(super) trait Type: Sized {
    type Value;

    /// Reads the value of `key`; notes what is wrong with it and returns `None`.
    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value>;

    /// The value as a file has it.
    fn write(&self, value: &Self::Value) -> Json;

    fn describe(&self) -> Description;

    /// Adds the sections at `path` and below, with their keys.
    fn sections(&self, _path: &str, _found: &mut Sections) {}
}

/// A type whose values have no keys and items inside.
pub(super) trait Leaf {
    type Value;

    fn parse(&self, node: &Node) -> Result<Self::Value, Wrong>;

    fn write(&self, value: &Self::Value) -> Json;

    fn describe(&self) -> Description;
}

impl<T: Leaf> Type for T {
    type Value = T::Value;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<T::Value> {
        self.parse(node)
            .map_err(|wrong| report.add(key, *wrong))
            .ok()
    }

    fn write(&self, value: &T::Value) -> Json {
        Leaf::write(self, value)
    }

    fn describe(&self) -> Description {
        Leaf::describe(self)
    }
}

/// A value of another type than `expected`.
pub(super) fn mismatch(expected: &str, found: &Node) -> Wrong {
    let found = match &found.value {
        Value::Null => "null (leave the key out to get its default)".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(text) => format!("the number {}", excerpt(text)),
        Value::String(text) => format!("the string \"{}\"", excerpt(text)),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    };
    Box::new(TYPE.case(format!("expected {expected}, found {found}")))
}

fn outside(what: impl Into<String>) -> Wrong {
    Box::new(VALUE.case(what))
}

fn outside_cure(what: impl Into<String>, cure: impl Into<String>) -> Wrong {
    Box::new(VALUE.case(what).cure(cure.into()))
}

/// `true` or `false`.
pub(super) struct Boolean;

impl Leaf for Boolean {
    type Value = bool;

    fn parse(&self, node: &Node) -> Result<bool, Wrong> {
        match node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(mismatch("true or false", node)),
        }
    }

    fn write(&self, value: &bool) -> Json {
        (*value).into()
    }

    fn describe(&self) -> Description {
        described("boolean", "", json!({ "type": "boolean" }))
    }
}

/// A whole number.
pub(super) struct Whole<T> {
    min: T,
    max: T,
}

/// A whole number from `min` to `max`.
pub(super) fn whole<T>(min: T, max: T) -> Whole<T> {
    Whole { min, max }
}

impl<T> Leaf for Whole<T>
where
    T: Copy + Display + Into<i128> + TryFrom<i128> + Into<Json>,
{
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Wrong> {
        let Self { min, max } = *self;
        let expected = format!("a whole number from {min} to {max}");
        match node.value {
            Value::Number(text) => text
                .parse::<i128>()
                .ok()
                .filter(|value| (min.into()..=max.into()).contains(value))
                .and_then(|value| T::try_from(value).ok())
                .ok_or_else(|| outside(format!("expected {expected}, found {}", excerpt(text)))),
            _ => Err(mismatch(&expected, node)),
        }
    }

    fn write(&self, value: &T) -> Json {
        (*value).into()
    }

    fn describe(&self) -> Description {
        let (min, max): (Json, Json) = (self.min.into(), self.max.into());
        let limits = format!("{min} to {max}");
        let schema = json!({ "type": "integer", "minimum": min, "maximum": max });
        described("integer", limits, schema)
    }
}

/// A number of bytes: an integer, `"256M"` or `"0x1000"`.
pub(super) struct Bytes {
    min: u64,
    max: u64,
    multiple: u64,
}

/// A size from `min` to `max`, a multiple of `multiple`.
pub(super) fn size(min: u64, max: u64, multiple: u64) -> Bytes {
    Bytes { min, max, multiple }
}

const SIZE: &str = "a size, which is an integer or a string like \"256M\"";
const SIZE_PATTERN: &str = "^([0-9]+([KMG](iB)?)?|0x[0-9a-fA-F]+)$";

impl Leaf for Bytes {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Wrong> {
        let value = bytes(node)?;
        let (min, max) = (Size(self.min), Size(self.max));
        if value < self.min || value > self.max {
            let found = Size(value);
            return Err(outside(format!(
                "expected {min:#} to {max:#}, found {found:#}"
            )));
        }
        multiple_of(self.multiple, value)
    }

    fn write(&self, value: &u64) -> Json {
        format!("{:#}", Size(*value)).into()
    }

    fn describe(&self) -> Description {
        let Self { min, max, multiple } = *self;
        let from = match min {
            0 => "at most".to_owned(),
            _ => format!("{} to", Size(min)),
        };
        let limits = format!("{from} {}, a multiple of {}", Size(max), Size(multiple));
        let schema = integer_or_string(min, max, SIZE_PATTERN);
        described("size", limits, schema)
    }
}

/// The size of a huge page.
pub(super) struct HugePage;

impl Leaf for HugePage {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Wrong> {
        bytes(node).and_then(|value| match HUGE_PAGES.contains(&value) {
            true => Ok(value),
            false => Err(outside(format!(
                "{:#} is not a huge page size; use one of {}",
                Size(value),
                HUGE_PAGES
                    .map(|page| format!("{:#}", Size(page)))
                    .join(", ")
            ))),
        })
    }

    fn write(&self, value: &u64) -> Json {
        format!("{:#}", Size(*value)).into()
    }

    fn describe(&self) -> Description {
        let short = HUGE_PAGES.map(|page| format!("{:#}", Size(page)));
        let limits = format!("`{}`", short.join("`, `"));
        let mut values: Vec<Json> = Vec::new();
        for (page, short) in HUGE_PAGES.iter().zip(short) {
            values.extend([json!(*page), json!(format!("{short}iB")), json!(short)]);
        }
        described("size", limits, json!({ "enum": values }))
    }
}

/// A part of the guest's address space.
pub(super) struct Space {
    name: &'static str,
    /// What is wrong with addresses below and above.
    below: &'static str,
    above: &'static str,
    start: u64,
    end: u64,
}

/// Where memory may be.
pub(super) const GUEST_MEMORY: Space = Space {
    name: "guest memory",
    below: "is device space",
    above: "is beyond the 36 bits of guest addresses",
    start: layout::MEMORY_START,
    end: layout::ADDRESS_END,
};

/// Where accesses come to the host.
pub(super) const DEVICE_SPACE: Space = Space {
    name: "device space",
    below: "",
    above: "is not in device space",
    start: 0,
    end: layout::DEVICE_SPACE_END,
};

/// A guest address: an integer or `"0x80000000"`.
pub(super) struct Address {
    space: Space,
    multiple: u64,
}

/// An address in `space`, a multiple of `multiple`.
pub(super) fn address(space: Space, multiple: u64) -> Address {
    Address { space, multiple }
}

const ADDRESS: &str = "an address, which is an integer or a string like \"0x80000000\"";

impl Leaf for Address {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Wrong> {
        let value = match &node.value {
            Value::Number(text) => unsigned(text)?,
            Value::String(text) => match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
                Some(digits) => hexadecimal(text, digits)?,
                None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                    let text = excerpt(text);
                    let what = format!("\"{text}\" may be meant as decimal or as hexadecimal");
                    let cure = format!("write {text} or \"0x{text}\", whichever it is");
                    return Err(outside_cure(what, cure));
                }
                None => {
                    let text = excerpt(text);
                    return Err(outside(format!("expected {ADDRESS}, found \"{text}\"")));
                }
            },
            _ => return Err(mismatch(ADDRESS, node)),
        };
        let Space {
            name, start, end, ..
        } = self.space;
        if !(start..end).contains(&value) {
            let wrong = match value < start {
                true => self.space.below,
                false => self.space.above,
            };
            let last = end - 1;
            let what = format!("{value:#x} {wrong}; {name} is {start:#x} to {last:#x}");
            return Err(outside(what));
        }
        multiple_of(self.multiple, value)
    }

    fn write(&self, value: &u64) -> Json {
        format!("{value:#x}").into()
    }

    fn describe(&self) -> Description {
        let Space {
            name, start, end, ..
        } = self.space;
        let last = end - 1;
        let multiple = Size(self.multiple);
        let limits = format!("in {name}, {start:#x} to {last:#x}; a multiple of {multiple}");
        let schema = integer_or_string(start, last, "^0[xX][0-9a-fA-F]+$");
        described("address", limits, schema)
    }
}

/// A duration: milliseconds as an integer, or `"500ms"`, `"10s"`, `"5m"`, `"1h"`.
pub(super) struct Time {
    min: Duration,
}

/// A duration from `min` to a day.
pub(super) fn duration(min: Duration) -> Time {
    Time { min }
}

impl Leaf for Time {
    type Value = Duration;

    fn parse(&self, node: &Node) -> Result<Duration, Wrong> {
        const EXPECTED: &str =
            "a duration, which is a number of milliseconds or a string like \"500ms\", \"10s\", \"5m\"";
        let (millis, found) = match &node.value {
            Value::Number(text) => (unsigned(text)?, excerpt(text)),
            Value::String(text) => {
                let (digits, unit) = split_unit(text);
                let factor: u64 = match unit {
                    "ms" => 1,
                    "s" => 1000,
                    "m" => 60_000,
                    "h" => 3_600_000,
                    _ => 0,
                };
                let found = format!("\"{}\"", excerpt(text));
                if factor == 0 || digits.is_empty() {
                    return Err(outside(format!("expected {EXPECTED}, found {found}")));
                }
                // A number with too many digits is too long a duration as well.
                let number = digits.parse::<u64>().ok();
                let millis = number.and_then(|number| number.checked_mul(factor));
                (millis.unwrap_or(u64::MAX), found)
            }
            _ => return Err(mismatch(EXPECTED, node)),
        };
        let value = Duration::from_millis(millis);
        if value < self.min || value > DAY {
            let (min, max) = (Span(self.min), Span(DAY));
            return Err(outside(format!(
                "expected {min:#} to {max:#}, found {found}"
            )));
        }
        Ok(value)
    }

    fn write(&self, value: &Duration) -> Json {
        format!("{:#}", Span(*value)).into()
    }

    fn describe(&self) -> Description {
        let limits = match self.min.is_zero() {
            true => String::new(),
            false => format!("at least {}", Span(self.min)),
        };
        let schema = integer_or_string(millis(self.min), millis(DAY), "^[0-9]+(ms|s|m|h)$");
        described("duration", limits, schema)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One word of a list.
pub(super) struct Word<T>(PhantomData<T>);

/// One of the words of `T`.
pub(super) fn word<T: Words>() -> Word<T> {
    Word(PhantomData)
}

impl<T: Words> Leaf for Word<T> {
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Wrong> {
        let all = || T::WORDS.iter().map(|(word, _)| *word);
        let expected = format!("one of \"{}\"", all().collect::<Vec<_>>().join("\", \""));
        match &node.value {
            Value::String(text) => match T::WORDS.iter().find(|(word, _)| word == text) {
                Some((_, value)) => Ok(*value),
                None => {
                    let what = format!("expected {expected}, found \"{}\"", excerpt(text));
                    Err(match nearest(text, all()) {
                        Some(near) => outside_cure(what, format!("did you mean \"{near}\"?")),
                        None => outside(what),
                    })
                }
            },
            _ => Err(mismatch(&expected, node)),
        }
    }

    fn write(&self, value: &T) -> Json {
        value.word().into()
    }

    fn describe(&self) -> Description {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let limits = format!("`{}`", words.join("`, `"));
        described("word", limits, json!({ "enum": words }))
    }
}

/// A string of one line, read as a `T`.
pub(super) struct Text<T> {
    pub name: &'static str,
    /// For the reference; empty: the number of bytes.
    pub limits: &'static str,
    /// Fewest and most bytes.
    pub bytes: (usize, usize),
    /// For the schema.
    pub pattern: &'static str,
    /// The value, or why the text is not one.
    pub parse: fn(&str) -> Result<T, String>,
    pub show: fn(&T) -> String,
}

/// Any text of `min` to `max` bytes.
pub(super) fn line(min: usize, max: usize) -> Text<String> {
    Text {
        name: "text",
        limits: "",
        bytes: (min, max),
        pattern: "",
        parse: |text| Ok(text.to_owned()),
        show: String::clone,
    }
}

/// An absolute path to a file.
pub(super) fn path() -> Text<PathBuf> {
    fn parse(text: &str) -> Result<PathBuf, String> {
        let wrong = if !text.starts_with('/') {
            "expected an absolute path, which begins with /"
        } else if text.split('/').any(|part| part == "..") {
            "a path must not have `..` in it"
        } else if text.ends_with('/') {
            "expected a file, not a directory"
        } else {
            return Ok(PathBuf::from(text));
        };
        Err(wrong.to_owned())
    }
    Text {
        name: "path",
        limits: " ",
        bytes: (1, PATH_MAX),
        pattern: "^/",
        parse,
        show: |path| path.to_string_lossy().into_owned(),
    }
}

impl<T> Leaf for Text<T> {
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Wrong> {
        let Value::String(text) = &node.value else {
            return Err(mismatch("a string", node));
        };
        let (min, max) = self.bytes;
        let wrong = if text.len() < min {
            "must not be empty".to_owned()
        } else if let Some(control) = text.chars().find(|c| c.is_control()) {
            format!("must not have the control character {control:?}")
        } else if text.len() > max {
            format!("has {} bytes; at most {max} are possible", text.len())
        } else {
            match (self.parse)(text) {
                Ok(value) => return Ok(value),
                Err(wrong) => wrong,
            }
        };
        Err(outside(format!("{wrong}, found \"{}\"", excerpt(text))))
    }

    fn write(&self, value: &T) -> Json {
        (self.show)(value).into()
    }

    fn describe(&self) -> Description {
        let (min, max) = self.bytes;
        let limits = match (self.limits, min) {
            ("", 0) => format!("at most {max} bytes"),
            ("", _) => format!("{min} to {max} bytes"),
            (limits, _) => limits.trim().to_owned(),
        };
        let mut schema = json!({ "type": "string", "minLength": min, "maxLength": max });
        if !self.pattern.is_empty() {
            schema["pattern"] = self.pattern.into();
        }
        described(self.name, limits, schema)
    }
}

/// A list.
pub(super) struct List<T> {
    most: usize,
    item: T,
}

/// A list of at most `most` items.
pub(super) fn list<T: Type>(most: usize, item: T) -> List<T> {
    List { most, item }
}

impl<T: Type> List<T> {
    /// Every wrong item is reported.
    fn items(&self, items: &[Node], key: &str, report: &mut Report) -> Option<Vec<T::Value>> {
        if items.len() > self.most {
            let (found, most) = (items.len(), self.most);
            let what = format!("has {found} items; at most {most} are possible");
            report.add(key, *outside(what));
            return None;
        }
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = item_key(key, index);
            report.found(key.clone(), item.position);
            values.push(self.item.read(item, &key, report));
        }
        values.into_iter().collect()
    }
}

impl<T: Type> Type for List<T> {
    type Value = Vec<T::Value>;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let Value::List(items) = &node.value else {
            report.add(key, *mismatch("a list […]", node));
            return None;
        };
        self.items(items, key, report)
    }

    fn write(&self, value: &Self::Value) -> Json {
        value.iter().map(|value| self.item.write(value)).collect()
    }

    fn describe(&self) -> Description {
        let item = self.item.describe();
        let limits = match (item.limits.as_str(), item.rows.is_empty()) {
            ("", _) | (_, false) => format!("at most {}", self.most),
            (limits, true) => format!("at most {}; {limits}", self.most),
        };
        Description {
            name: match item.name.contains(' ') {
                true => "list".to_owned(),
                false => format!("list of {}s", item.name),
            },
            limits,
            schema: json!({ "type": "array", "maxItems": self.most, "items": item.schema }),
            rows: item.rows,
        }
    }

    fn sections(&self, path: &str, found: &mut Sections) {
        self.item.sections(&format!("{path}[]"), found);
    }
}

/// The path of a list's item.
pub(super) fn item_key(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}

/// One item, or a list of at least one.
pub(super) struct OneOrList<T> {
    list: List<T>,
    /// No item twice.
    distinct: bool,
}

/// An item or a list of 1 to `most`.
pub(super) fn one_or_list<T: Type>(most: usize, item: T) -> OneOrList<T> {
    OneOrList {
        list: list(most, item),
        distinct: false,
    }
}

impl<T> OneOrList<T> {
    pub fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }
}

impl<T: Type> Type for OneOrList<T>
where
    T::Value: PartialEq,
{
    type Value = Vec<T::Value>;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let Value::List(items) = &node.value else {
            return Some(vec![self.list.item.read(node, key, report)?]);
        };
        let values = self.list.items(items, key, report)?;
        if values.is_empty() {
            report.add(
                key,
                *outside("expected at least one item, found an empty list"),
            );
            return None;
        }
        for (index, value) in values.iter().enumerate() {
            if self.distinct && values[..index].contains(value) {
                let what = format!("names {} twice", self.list.item.write(value));
                report.add(&item_key(key, index), TWICE.case(what));
                return None;
            }
        }
        Some(values)
    }

    fn write(&self, value: &Self::Value) -> Json {
        self.list.write(value)
    }

    fn describe(&self) -> Description {
        let item = self.list.item.describe();
        let mut list = self.list.describe().schema;
        list["minItems"] = 1.into();
        if self.distinct {
            list["uniqueItems"] = true.into();
        }
        Description {
            name: format!("{} or list", item.name),
            limits: match self.distinct {
                true => format!("{}, each once", item.limits),
                false => item.limits,
            },
            schema: json!({ "oneOf": [item.schema, list] }),
            rows: Vec::new(),
        }
    }
}

/// A section.
pub(super) struct Object<S>(PhantomData<S>);

/// The section whose keys are those of `S`.
pub(super) fn section<S: Section>() -> Object<S> {
    Object(PhantomData)
}

impl<S: Section> Type for Object<S> {
    type Value = S;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<S> {
        let keys = Keys::of(node, key, S::KEYS, report)?;
        S::read(&keys, report)
    }

    fn write(&self, value: &S) -> Json {
        value.write().into()
    }

    fn describe(&self) -> Description {
        let rows = S::rows();
        let mut properties = serde_json::Map::new();
        for row in &rows {
            properties.insert(row.key.into(), row.schema());
        }
        let required = rows.iter().filter(|row| row.required);
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": required.map(|row| row.key).collect::<Vec<_>>(),
            "properties": properties,
        });
        Description {
            rows,
            ..described("object", "", schema)
        }
    }

    fn sections(&self, path: &str, found: &mut Sections) {
        found.push((path.to_owned(), S::KEYS));
        S::sections(path, found);
    }
}

/// `value`, if it is a multiple of `of`.
fn multiple_of(of: u64, value: u64) -> Result<u64, Wrong> {
    let over = value % of;
    if over == 0 {
        return Ok(value);
    }
    let below = value - over;
    let above = below.saturating_add(of);
    let what = format!("{value:#x} is not a multiple of {:#}", Size(of));
    Err(outside_cure(
        what,
        match below {
            0 => format!("the nearest is {above:#x}"),
            _ => format!("the nearest are {below:#x} and {above:#x}"),
        },
    ))
}

fn too_large(found: impl Display) -> Wrong {
    outside(format!("is larger than 64 bits can hold, found {found}"))
}

/// An integer as the file has it.
fn unsigned(text: &str) -> Result<u64, Wrong> {
    let wrong = if text.starts_with('-') {
        "must not be negative"
    } else if text.contains(['.', 'e', 'E']) {
        "expected a whole number without fraction or exponent"
    } else {
        return text.parse().map_err(|_| too_large(excerpt(text)));
    };
    Err(outside(format!("{wrong}, found {}", excerpt(text))))
}

fn hexadecimal(text: &str, digits: &str) -> Result<u64, Wrong> {
    let found = format!("\"{}\"", excerpt(text));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let what = format!("expected hexadecimal digits after 0x, found {found}");
        return Err(outside(what));
    }
    u64::from_str_radix(digits, 16).map_err(|_| too_large(found))
}

/// Splits `256M` into its digits and its unit.
fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(digits.unwrap_or(text.len()))
}

/// A number of bytes of any size.
fn bytes(node: &Node) -> Result<u64, Wrong> {
    let text = match &node.value {
        Value::Number(text) => return unsigned(text),
        Value::String(text) => text,
        _ => return Err(mismatch(SIZE, node)),
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return hexadecimal(text, digits);
    }
    let (digits, unit) = split_unit(text);
    let found = format!("\"{}\"", excerpt(text));
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => {
            let what = format!("expected {SIZE}, found {found}");
            return Err(outside_cure(what, unit_cure(text, digits, unit)));
        }
    };
    if digits.is_empty() {
        return Err(outside(format!("expected {SIZE}, found {found}")));
    }
    let number = digits.parse::<u64>().ok();
    let value = number.and_then(|number| number.checked_mul(1 << shift));
    value.ok_or_else(|| too_large(found))
}

/// What to write in place of a unit that does not exist.
fn unit_cure(text: &str, digits: &str, unit: &str) -> String {
    match unit.trim().chars().next().map(|c| c.to_ascii_uppercase()) {
        Some(letter @ ('K' | 'M' | 'G')) if !digits.is_empty() => {
            format!("units are binary: write \"{}{letter}\"", excerpt(digits))
        }
        _ if text.starts_with('-') => "a size is not negative".to_owned(),
        _ if unit.starts_with(['.', 'e', 'E']) => "write it whole, in a smaller unit".to_owned(),
        _ => "units are K, M and G, or KiB, MiB and GiB".to_owned(),
    }
}
