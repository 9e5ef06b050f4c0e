// SPDX-License-Identifier: Apache-2.0
//! The types of numbers with a unit: sizes, addresses, durations.

use std::fmt::Display;
use std::time::Duration;

use super::types::{mismatch, Form, Type, VALUE};
use crate::diagnostic::Diagnostic;
use crate::json::{Node, Value};
use crate::layout;
use crate::text::{excerpt, Size, Span};

/// Longest duration.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Huge page sizes that arm64 kernels have for hugetlb and that serve a VM: 2 MiB, 32 MiB (16 KiB
/// pages), 512 MiB (64 KiB pages), 1 GiB.
const HUGE_PAGES: [u64; 4] = [2 << 20, 32 << 20, 512 << 20, 1 << 30];

/// How a number is written in a file: as an integer, as a string of digits and a unit, or, where there
/// is no unit of time, as a string of `0x` and hexadecimal digits.
struct Notation {
    expected: &'static str,
    hexadecimal: bool,
    /// Each unit and its factor. `""`: a string may have digits alone.
    units: &'static [(&'static str, u64)],
    /// What to write in place of these digits with a unit that does not exist.
    cure: fn(digits: &str, unit: &str) -> Option<String>,
}

const SIZE: Notation = Notation {
    expected: "a size, which is an integer or a string like \"256M\"",
    hexadecimal: true,
    units: &[
        ("", 1),
        ("K", 1 << 10),
        ("KiB", 1 << 10),
        ("M", 1 << 20),
        ("MiB", 1 << 20),
        ("G", 1 << 30),
        ("GiB", 1 << 30),
    ],
    cure: |digits, unit| {
        let letter = unit.trim_ascii().chars().next().map(|c| c.to_ascii_uppercase());
        Some(match letter {
            Some(letter @ ('K' | 'M' | 'G')) if !digits.is_empty() => {
                format!("units are binary: write \"{}{letter}\"", excerpt(digits))
            }
            Some('-') if digits.is_empty() => "a size is not negative".to_owned(),
            Some('.' | 'E') => "write it whole, in a smaller unit".to_owned(),
            _ => "units are K, M and G, or KiB, MiB and GiB".to_owned(),
        })
    },
};

const ADDRESS: Notation = Notation {
    expected: "an address, which is an integer or a string like \"0x80000000\"",
    hexadecimal: true,
    units: &[],
    cure: |digits, unit| {
        let digits = excerpt(digits);
        (unit.is_empty() && !digits.is_empty())
            .then(|| format!("write {digits} if it is decimal, \"0x{digits}\" if hexadecimal"))
    },
};

const DURATION: Notation = Notation {
    expected:
        "a duration, which is a number of milliseconds or a string like \"500ms\", \"10s\", \"5m\"",
    hexadecimal: false,
    units: &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)],
    cure: |_, _| None,
};

impl Notation {
    fn read(&self, node: &Node) -> Result<u64, Diagnostic> {
        match &node.value {
            Value::Number(text) => integer(text),
            Value::String(text) => self.read_text(text),
            _ => Err(mismatch(self.expected, node)),
        }
    }

    fn read_text(&self, text: &str) -> Result<u64, Diagnostic> {
        let prefixed = text.strip_prefix("0x").or(text.strip_prefix("0X"));
        if let Some(digits) = prefixed.filter(|_| self.hexadecimal) {
            return hexadecimal(text, digits);
        }
        let end_of_digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end_of_digits);
        let found = format!("\"{}\"", excerpt(text));
        match self.units.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) if !digits.is_empty() => {
                let number = digits.parse::<u64>().ok();
                let value = number.and_then(|number| number.checked_mul(*factor));
                value.ok_or_else(|| too_large(found))
            }
            _ => {
                let wrong = VALUE.case(format!("expected {}, found {found}", self.expected));
                Err(wrong.cure_if((self.cure)(digits, unit)))
            }
        }
    }
}

/// A number of bytes as a command line has it, which is as in a file: `256M`.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, Diagnostic> {
    SIZE.read_text(text)
}

/// An integer as the file has it.
fn integer(text: &str) -> Result<u64, Diagnostic> {
    let wrong = if text.starts_with('-') {
        "must not be negative"
    } else if text.contains(['.', 'e', 'E']) {
        "expected a whole number without fraction or exponent"
    } else {
        return text.parse().map_err(|_| too_large(excerpt(text)));
    };
    Err(VALUE.case(format!("{wrong}, found {}", excerpt(text))))
}

fn hexadecimal(text: &str, digits: &str) -> Result<u64, Diagnostic> {
    let found = format!("\"{}\"", excerpt(text));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(VALUE.case(format!("expected hexadecimal digits after 0x, found {found}")));
    }
    u64::from_str_radix(digits, 16).map_err(|_| too_large(found))
}

fn too_large(found: impl Display) -> Diagnostic {
    VALUE.case(format!("is larger than 64 bits can hold, found {found}"))
}

fn out_of_range(min: impl Display, max: impl Display, found: impl Display) -> Diagnostic {
    VALUE.case(format!("expected {min:#} to {max:#}, found {found:#}"))
}

/// `value`, if it is a multiple of `of`.
fn multiple_of(of: u64, value: u64) -> Result<u64, Diagnostic> {
    let over = value % of;
    if over == 0 {
        return Ok(value);
    }
    let below = value - over;
    let above = below.saturating_add(of);
    let wrong = VALUE.case(format!("{value:#x} is not a multiple of {:#}", Size(of)));
    Err(wrong.cure(match below {
        0 => format!("the nearest is {above:#x}"),
        _ => format!("the nearest are {below:#x} and {above:#x}"),
    }))
}

/// A number of bytes: an integer, `"256M"` or `"0x1000"`.
pub(super) struct Bytes {
    min: u64,
    max: u64,
    multiple: u64,
}

/// A size from `min` to `max`, a multiple of `multiple`.
pub(super) const fn size(min: u64, max: u64, multiple: u64) -> Bytes {
    Bytes { min, max, multiple }
}

impl Type for Bytes {
    type Value = u64;

    fn blank(&self) -> u64 {
        0
    }

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
        let value = SIZE.read(node)?;
        if !(self.min..=self.max).contains(&value) {
            return Err(out_of_range(Size(self.min), Size(self.max), Size(value)));
        }
        multiple_of(self.multiple, value)
    }

    fn write(&self, value: &u64) -> Value<'static> {
        format!("{:#}", Size(*value)).into()
    }

    fn form(&self) -> Form {
        let Self { min, max, multiple } = *self;
        Form::Size { min, max, multiple }
    }
}

/// The size of a huge page.
pub(super) struct HugePage;

impl Type for HugePage {
    type Value = u64;

    fn blank(&self) -> u64 {
        0
    }

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
        let value = SIZE.read(node)?;
        if HUGE_PAGES.contains(&value) {
            return Ok(value);
        }
        let (value, pages) = (Size(value), HUGE_PAGES.map(|page| format!("{:#}", Size(page))));
        let what = format!("{value:#} is not a huge page size; use one of {}", pages.join(", "));
        Err(VALUE.case(what))
    }

    fn write(&self, value: &u64) -> Value<'static> {
        format!("{:#}", Size(*value)).into()
    }

    fn form(&self) -> Form {
        Form::OneSize(&HUGE_PAGES)
    }
}

/// A part of the guest's address space.
#[derive(Clone, Copy)]
pub struct Space {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with addresses below and above.
    below: &'static str,
    above: &'static str,
    /// Its first address.
    pub start: u64,
    /// The address after it.
    pub end: u64,
}

/// Where memory may be.
pub(super) static GUEST_MEMORY: Space = Space {
    name: "guest memory",
    below: "is too low for memory",
    above: "is beyond the 36 bits of guest addresses",
    start: layout::MEMORY_START,
    end: layout::ADDRESS_END,
};

/// Where accesses come to the host.
pub(super) static DEVICE_SPACE: Space = Space {
    name: "device space",
    below: "",
    above: "is not in device space",
    start: 0,
    end: layout::DEVICE_SPACE_END,
};

/// A guest address: an integer or `"0x80000000"`.
pub(super) struct Address {
    space: &'static Space,
    multiple: u64,
}

/// An address in `space`, a multiple of `multiple`.
pub(super) const fn address(space: &'static Space, multiple: u64) -> Address {
    Address { space, multiple }
}

impl Type for Address {
    type Value = u64;

    fn blank(&self) -> u64 {
        0
    }

    fn parse(&self, node: &Node) -> Result<u64, Diagnostic> {
        let value = ADDRESS.read(node)?;
        let Space { name, below, above, start, end } = *self.space;
        if (start..end).contains(&value) {
            return multiple_of(self.multiple, value);
        }
        let wrong = if value < start { below } else { above };
        let last = end - 1;
        Err(VALUE.case(format!("{value:#x} {wrong}; {name} is {start:#x} to {last:#x}")))
    }

    fn write(&self, value: &u64) -> Value<'static> {
        format!("{value:#x}").into()
    }

    fn form(&self) -> Form {
        let Self { space, multiple } = *self;
        Form::Address { space: *space, multiple }
    }
}

/// A duration: milliseconds as an integer, or `"500ms"`, `"10s"`, `"5m"`, `"1h"`.
pub(super) struct Time {
    min: Duration,
}

/// A duration from `min` to a day.
pub(super) const fn duration(min: Duration) -> Time {
    Time { min }
}

impl Type for Time {
    type Value = Duration;

    fn blank(&self) -> Duration {
        self.min
    }

    fn parse(&self, node: &Node) -> Result<Duration, Diagnostic> {
        let value = Duration::from_millis(DURATION.read(node)?);
        if !(self.min..=DAY).contains(&value) {
            return Err(out_of_range(Span(self.min), Span(DAY), Span(value)));
        }
        Ok(value)
    }

    fn write(&self, value: &Duration) -> Value<'static> {
        format!("{:#}", Span(*value)).into()
    }

    fn form(&self) -> Form {
        Form::Duration { min: self.min, max: DAY }
    }
}
