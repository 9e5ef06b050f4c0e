// SPDX-License-Identifier: Apache-2.0
//! The types of numbers with a unit: sizes, addresses, durations.

use std::fmt::Display;
use std::time::Duration;

use serde_json::{json, Value as Json};

use super::json::{Node, Value};
use super::types::{described, mismatch, outside, outside_cure, Description, Type};
use crate::diagnostic::Diagnostic;
use crate::layout;
use crate::text::{excerpt, Size, Span};

/// Longest duration.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Huge page sizes that arm64 kernels have for hugetlb and that serve a VM: 2 MiB, 32 MiB (16 KiB
/// pages), 512 MiB (64 KiB pages), 1 GiB.
const HUGE_PAGES: [u64; 4] = [2 << 20, 32 << 20, 512 << 20, 1 << 30];

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

impl Type for Bytes {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
        let value = bytes(node)?;
        let (min, max) = (Size(self.min), Size(self.max));
        if value < self.min || value > self.max {
            let found = Size(value);
            return Err(outside(format!("expected {min:#} to {max:#}, found {found:#}")));
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

/// The sizes as a file has them.
fn huge_pages() -> [String; 4] {
    HUGE_PAGES.map(|page| format!("{:#}", Size(page)))
}

/// The size of a huge page.
pub(super) struct HugePage;

impl Type for HugePage {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
        let value = bytes(node)?;
        if HUGE_PAGES.contains(&value) {
            return Ok(value);
        }
        let (value, pages) = (Size(value), huge_pages().join(", "));
        let what = format!("{value:#} is not a huge page size; use one of {pages}");
        Err(outside(what))
    }

    fn write(&self, value: &u64) -> Json {
        format!("{:#}", Size(*value)).into()
    }

    fn describe(&self) -> Description {
        let short = huge_pages();
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
    below: "is too low for memory",
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

impl Type for Address {
    type Value = u64;

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
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
        let Space { name, start, end, .. } = self.space;
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
        let Space { name, start, end, .. } = self.space;
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

impl Type for Time {
    type Value = Duration;

    fn parse(&self, node: &Node) -> Result<Duration, Diagnostic> {
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
            return Err(outside(format!("expected {min:#} to {max:#}, found {found}")));
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

/// `value`, if it is a multiple of `of`.
fn multiple_of(of: u64, value: u64) -> Result<u64, Diagnostic> {
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

fn too_large(found: impl Display) -> Diagnostic {
    outside(format!("is larger than 64 bits can hold, found {found}"))
}

/// An integer as the file has it.
fn unsigned(text: &str) -> Result<u64, Diagnostic> {
    let wrong = if text.starts_with('-') {
        "must not be negative"
    } else if text.contains(['.', 'e', 'E']) {
        "expected a whole number without fraction or exponent"
    } else {
        return text.parse().map_err(|_| too_large(excerpt(text)));
    };
    Err(outside(format!("{wrong}, found {}", excerpt(text))))
}

fn hexadecimal(text: &str, digits: &str) -> Result<u64, Diagnostic> {
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
fn bytes(node: &Node) -> Result<u64, Diagnostic> {
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

fn integer_or_string(min: u64, max: u64, pattern: &str) -> Json {
    json!({ "oneOf": [
        { "type": "integer", "minimum": min, "maximum": max },
        { "type": "string", "pattern": pattern },
    ] })
}
