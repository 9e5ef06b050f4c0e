// SPDX-License-Identifier: Apache-2.0
//! Values to text: `{}` writes one line, `{:#}` indents.

use std::fmt::{Display, Formatter, Result, Write};

use super::{Node, Value};

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        print(self, f, 0)
    }
}

impl Display for Node<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        print(&self.value, f, 0)
    }
}

fn print(value: &Value<'_>, f: &mut Formatter<'_>, depth: usize) -> Result {
    match value {
        Value::Null => f.write_str("null"),
        Value::Bool(value) => f.write_str(if *value { "true" } else { "false" }),
        Value::Number(text) => f.write_str(text),
        Value::String(text) => string(text, f),
        Value::List(items) => {
            f.write_char('[')?;
            for (index, item) in items.iter().enumerate() {
                new_line(index > 0, f, depth + 1)?;
                print(&item.value, f, depth + 1)?;
            }
            end(items.is_empty(), f, depth)?;
            f.write_char(']')
        }
        Value::Object(members) => {
            f.write_char('{')?;
            for (index, member) in members.iter().enumerate() {
                new_line(index > 0, f, depth + 1)?;
                string(&member.key, f)?;
                f.write_str(if f.alternate() { ": " } else { ":" })?;
                print(&member.value.value, f, depth + 1)?;
            }
            end(members.is_empty(), f, depth)?;
            f.write_char('}')
        }
    }
}

fn new_line(comma: bool, f: &mut Formatter<'_>, depth: usize) -> Result {
    f.write_str(if comma { "," } else { "" })?;
    end(false, f, depth)
}

fn end(empty: bool, f: &mut Formatter<'_>, depth: usize) -> Result {
    if f.alternate() && !empty {
        f.write_char('\n')?;
        for _ in 0..depth {
            f.write_str("  ")?;
        }
    }
    Ok(())
}

fn string(text: &str, f: &mut Formatter<'_>) -> Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(c))?,
            _ => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
