// SPDX-License-Identifier: Apache-2.0
//! Readers of one value each. A reader tells what it found, what it wants, and returns `None`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::nearest;
use super::json::{Node, Value};
use super::limits::{self, GIB, KIB, MIB};
use super::problem::Report;
use super::words::Words;

/// A number of bytes, shown as it is written in a config: `256M`, `4K`, `100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, letter) in [(GIB, 'G'), (MIB, 'M'), (KIB, 'K')] {
            if self.0 >= unit && self.0 % unit == 0 {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Text of a file made fit for a message: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 48;
    let mut short: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

/// What a value is, for messages.
pub(super) fn found(node: &Node) -> String {
    match &node.value {
        Value::Null => "null (leave the key out to get its default)".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(text) => format!("the number {}", shown(text)),
        Value::String(text) => format!("the string \"{}\"", shown(text)),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn wants<T>(node: &Node, key: &str, report: &mut Report, what: &str) -> Option<T> {
    report.problem(key, format!("wants {what}, found {}", found(node)));
    None
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node, key: &str, report: &mut Report) -> Option<bool> {
    match node.value {
        Value::Bool(value) => Some(value),
        _ => wants(node, key, report, "true or false"),
    }
}

/// A string of one line, not empty, of at most `most` bytes.
pub(super) fn line<'a>(most: usize) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<&'a str> {
    move |node, key, report| {
        let text = line_or_empty(most)(node, key, report)?;
        if text.is_empty() {
            report.problem(key, "must not be empty");
            return None;
        }
        Some(text)
    }
}

/// A string of one line, of at most `most` bytes.
pub(super) fn line_or_empty<'a>(
    most: usize,
) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<&'a str> {
    move |node, key, report| {
        let Value::String(text) = &node.value else {
            return wants(node, key, report, "a string");
        };
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            report.problem(
                key,
                format!("has the control character {control:?}, which is not allowed"),
            );
            return None;
        }
        if text.len() > most {
            report.problem(
                key,
                format!("has {} bytes, at most {most} are possible", text.len()),
            );
            return None;
        }
        Some(text)
    }
}

/// An absolute path.
pub(super) fn path(node: &Node, key: &str, report: &mut Report) -> Option<PathBuf> {
    let Value::String(text) = &node.value else {
        return wants(node, key, report, "a path as a string");
    };
    let wrong = if text.is_empty() {
        "must not be empty"
    } else if text.contains('\0') {
        "has a NUL, which no path can have"
    } else if text.chars().any(char::is_control) {
        "has a control character, which is not allowed"
    } else if !text.starts_with('/') {
        "wants an absolute path, one that begins with /"
    } else if text.split('/').any(|part| part == "..") {
        "must not have `..` in it"
    } else if text.ends_with('/') {
        "wants a file, not a directory"
    } else if text.len() > limits::PATH {
        "is longer than 4095 bytes"
    } else {
        let path = PathBuf::from(text);
        report.read.files.insert(key.to_owned(), path.clone());
        return Some(path);
    };
    report.problem(key, format!("{wrong}, found \"{}\"", shown(text)));
    None
}

/// One of some words.
pub(super) fn word<'a, T: Copy + 'static>(
    words: Words<T>,
) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T> {
    move |node, key, report| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let list = all.join("\", \"");
        let Value::String(text) = &node.value else {
            return wants(node, key, report, &format!("one of \"{list}\""));
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        let message = format!("wants one of \"{list}\", found \"{}\"", shown(text));
        match nearest(text, all.into_iter()) {
            Some(near) => report.problem_hint(key, message, format!("did you mean \"{near}\"?")),
            None => report.problem(key, message),
        }
        None
    }
}

/// A whole number from `min` to `max`.
pub(super) fn whole<'a, T>(min: T, max: T) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T>
where
    T: Copy + fmt::Display + Into<i128> + TryFrom<i128>,
{
    move |node, key, report| {
        let what = format!("a whole number from {min} to {max}");
        let Value::Number(text) = node.value else {
            return wants(node, key, report, &what);
        };
        let value = text
            .parse::<i128>()
            .ok()
            .filter(|value| (min.into()..=max.into()).contains(value))
            .and_then(|value| T::try_from(value).ok());
        match value {
            Some(value) => Some(value),
            None => wants(node, key, report, &what),
        }
    }
}

/// A guest address: an integer or `"0x80000000"`.
pub(super) fn address(node: &Node, key: &str, report: &mut Report) -> Option<u64> {
    const WHAT: &str = "an address, an integer or a string like \"0x80000000\"";
    let text = match &node.value {
        Value::Number(text) => return unsigned(text, key, report),
        Value::String(text) => text.as_str(),
        _ => return wants(node, key, report, WHAT),
    };
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return hex(text, digits, key, report);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let hint = format!("write {text} or \"0x{text}\", whichever it is");
        let message = format!("\"{}\" may be meant decimal or hexadecimal", shown(text));
        report.problem_hint(key, message, hint);
        return None;
    }
    wants(node, key, report, WHAT)
}

/// What a size must keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeRule {
    pub min: u64,
    pub max: u64,
    pub multiple: u64,
}

/// A number of bytes: an integer, `"256M"` or `"0x1000"`.
pub(super) fn size<'a>(rule: SizeRule) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<u64> {
    move |node, key, report| {
        let value = match &node.value {
            Value::Number(text) => unsigned(text, key, report)?,
            Value::String(text) => match text.strip_prefix("0x") {
                Some(digits) => hex(text, digits, key, report)?,
                None => with_unit(text, key, report)?,
            },
            _ => {
                return wants(
                    node,
                    key,
                    report,
                    "a size, an integer or a string like \"256M\"",
                )
            }
        };
        if value < rule.min || value > rule.max {
            let (min, max) = (Bytes(rule.min), Bytes(rule.max));
            report.problem(key, format!("wants {min} to {max}, found {}", Bytes(value)));
            return None;
        }
        multiple(value, rule.multiple, key, report)
    }
}

/// `value`, if it is a multiple of `of`.
pub(super) fn multiple(value: u64, of: u64, key: &str, report: &mut Report) -> Option<u64> {
    let over = value % of;
    if over == 0 {
        return Some(value);
    }
    let below = value - over;
    let above = below.saturating_add(of);
    let hint = match below {
        0 => format!("the nearest is {above:#x}"),
        // Sizes are bounded before, so it is an address.
        _ if below >= limits::ADDRESS_END => {
            format!("and guest addresses end at {:#x}", limits::ADDRESS_END)
        }
        _ => format!("the nearest are {below:#x} and {above:#x}"),
    };
    report.problem_hint(
        key,
        format!("{value:#x} is not a multiple of {}", Bytes(of)),
        hint,
    );
    None
}

fn unsigned(text: &str, key: &str, report: &mut Report) -> Option<u64> {
    let wrong = if text.starts_with('-') {
        "must not be negative"
    } else if text.contains(['.', 'e', 'E']) {
        "wants a whole number without fraction or exponent"
    } else {
        match text.parse() {
            Ok(value) => return Some(value),
            Err(_) => "is larger than 64 bits can hold",
        }
    };
    report.problem(key, format!("{wrong}, found {}", shown(text)));
    None
}

fn hex(text: &str, digits: &str, key: &str, report: &mut Report) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let wrong = if !valid {
        "wants hexadecimal digits after 0x"
    } else {
        match u64::from_str_radix(digits, 16) {
            Ok(value) => return Some(value),
            Err(_) => "is larger than 64 bits can hold",
        }
    };
    report.problem(key, format!("{wrong}, found \"{}\"", shown(text)));
    None
}

/// Splits "256M" into its digits and its unit.
fn split_unit(text: &str) -> (&str, &str) {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(digits)
}

fn with_unit(text: &str, key: &str, report: &mut Report) -> Option<u64> {
    const WHAT: &str = "wants a size, an integer or a string like \"256M\"";
    let (digits, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        "K" | "KiB" => KIB,
        "M" | "MiB" => MIB,
        "G" | "GiB" => GIB,
        _ => {
            let hint = match unit.trim().chars().next().map(|c| c.to_ascii_uppercase()) {
                Some(letter @ ('K' | 'M' | 'G')) if !digits.is_empty() => {
                    format!("units are binary: write \"{}{letter}\"", shown(digits))
                }
                _ if text.starts_with('-') => "a size is not negative".to_owned(),
                _ if unit.starts_with(['.', 'e', 'E']) => {
                    "write it whole, in a smaller unit".to_owned()
                }
                _ => "units are K, M and G, or KiB, MiB and GiB".to_owned(),
            };
            report.problem_hint(key, format!("{WHAT}, found \"{}\"", shown(text)), hint);
            return None;
        }
    };
    if digits.is_empty() {
        report.problem(key, format!("{WHAT}, found \"{}\"", shown(text)));
        return None;
    }
    let value = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    if value.is_none() {
        report.problem(
            key,
            format!("is larger than 64 bits can hold, found \"{}\"", shown(text)),
        );
    }
    value
}

/// A duration from `min` to a day: milliseconds as an integer, or `"500ms"`, `"10s"`, `"5m"`, `"1h"`.
pub(super) fn duration<'a>(
    min: Duration,
) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<Duration> {
    const WHAT: &str = "a duration, milliseconds or a string like \"500ms\", \"10s\", \"5m\"";
    move |node, key, report| {
        let milliseconds = match &node.value {
            Value::Number(text) => unsigned(text, key, report)?,
            Value::String(text) => {
                let (digits, unit) = split_unit(text);
                let factor = match unit {
                    "ms" => 1,
                    "s" => 1000,
                    "m" => 60_000,
                    "h" => 3_600_000,
                    _ => return wants(node, key, report, WHAT),
                };
                if digits.is_empty() {
                    return wants(node, key, report, WHAT);
                }
                // Too many digits are too long as well.
                digits
                    .parse::<u64>()
                    .ok()
                    .and_then(|number| number.checked_mul(factor))
                    .unwrap_or(u64::MAX)
            }
            _ => return wants(node, key, report, WHAT),
        };
        let value = Duration::from_millis(milliseconds);
        if value < min || value > limits::LONGEST {
            let (min, max) = (duration_text(min), duration_text(limits::LONGEST));
            report.problem(key, format!("wants {min} to {max}, found {}", found(node)));
            return None;
        }
        Some(value)
    }
}

/// A duration as it is written in a config.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if milliseconds >= unit && milliseconds % unit == 0 {
            return format!("{}{name}", milliseconds / unit);
        }
    }
    format!("{milliseconds}ms")
}

/// A list of at most `most` items, each by `read`. Wrong items are told, all of them.
pub(super) fn list<'a, T>(
    most: usize,
    read: impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T>,
) -> impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<Vec<T>> {
    move |node, key, report| {
        let items = items(node, key, most, report)?;
        let values: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| read(item, &item_key(key, index), report))
            .collect();
        values.into_iter().collect()
    }
}

/// The items of a list, their places noted.
pub(super) fn items<'a>(
    node: &'a Node<'a>,
    key: &str,
    most: usize,
    report: &mut Report,
) -> Option<&'a [Node<'a>]> {
    let Value::List(items) = &node.value else {
        return wants(node, key, report, "a list […]");
    };
    if items.len() > most {
        report.problem(
            key,
            format!("has {} items, at most {most} are possible", items.len()),
        );
        return None;
    }
    for (index, item) in items.iter().enumerate() {
        report
            .read
            .places
            .0
            .insert(item_key(key, index), item.place);
    }
    Some(items)
}

/// The path of a list's item.
pub(super) fn item_key(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}
