// SPDX-License-Identifier: Apache-2.0
//! JSON text to a tree in which every key and value knows its position (RFC 8259).

use std::borrow::Cow;

use super::{Member, Node, Position, Value, MAX_DEPTH};

/// Where and why a text is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Byte of the text.
    pub offset: usize,
    /// Why: "expected a value".
    pub what: String,
}

/// Reads a whole text.
///
/// # Errors
/// The first fault of its syntax.
pub fn read(text: &str) -> Result<Node<'_>, Wrong> {
    let mut reader = Reader { text, at: 0, counted: 0, position: Position::START };
    let node = reader.node(0)?;
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.wrong("more text follows the value")),
    }
}

/// The position of the byte at `offset`.
pub fn position_of(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The byte that is looked at; always the first of a character.
    at: usize,
    /// The position of the byte at `counted`, which is not behind `at`.
    position: Position,
    counted: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong { offset: self.at, what: what.into() }
    }

    fn expected(&self, what: &str) -> Wrong {
        match self.at < self.text.len() {
            true => self.wrong(format!("expected {what}")),
            false => self.wrong(format!("the text ends where {what} is expected")),
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.byte()
    }

    /// Whether `byte` is next; then it is passed.
    fn take(&mut self, byte: u8) -> bool {
        let taken = self.byte() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// The position of what is looked at.
    fn position(&mut self) -> Position {
        for character in self.text.get(self.counted..self.at).unwrap_or("").chars() {
            if character == '\n' {
                self.position.line += 1;
                self.position.column = 1;
            } else {
                self.position.column += 1;
            }
        }
        self.counted = self.at;
        self.position
    }

    fn node(&mut self, depth: usize) -> Result<Node<'a>, Wrong> {
        let next = self.peek();
        let position = self.position();
        if depth > MAX_DEPTH {
            return Err(self.wrong(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let value = match next {
            Some(b'{') => Value::Object(self.members(depth)?),
            Some(b'[') => Value::List(self.items(depth)?),
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?.into()),
            _ => self.word()?,
        };
        Ok(Node { position, value })
    }

    fn members(&mut self, depth: usize) -> Result<Vec<Member<'a>>, Wrong> {
        self.at += 1;
        let mut members = Vec::new();
        while members.is_empty() || !self.ends(b'}', "`,` or `}`")? {
            match self.peek() {
                Some(b'"') => {}
                Some(b'}') if members.is_empty() => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.expected("a key in double quotes")),
            }
            let position = self.position();
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.expected("`:`"));
            }
            self.at += 1;
            members.push(Member { key, position, value: self.node(depth + 1)? });
        }
        Ok(members)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node<'a>>, Wrong> {
        self.at += 1;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(items);
        }
        loop {
            items.push(self.node(depth + 1)?);
            if self.ends(b']', "`,` or `]`")? {
                return Ok(items);
            }
        }
    }

    /// Passes the comma or the bracket behind an item; whether it was the bracket.
    fn ends(&mut self, bracket: u8, either: &str) -> Result<bool, Wrong> {
        let next = self.peek();
        if next != Some(b',') && next != Some(bracket) {
            return Err(self.expected(either));
        }
        self.at += 1;
        Ok(next == Some(bracket))
    }

    fn word(&mut self) -> Result<Value<'a>, Wrong> {
        let rest = self.text.get(self.at..).unwrap_or("");
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }

    fn number(&mut self) -> Result<&'a str, Wrong> {
        let begin = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(self.text.get(begin..self.at).unwrap_or(""))
    }

    fn digits(&mut self) -> Result<(), Wrong> {
        let begin = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        match self.at > begin {
            true => Ok(()),
            false => Err(self.expected("a digit")),
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Wrong> {
        let text = self.text;
        self.at += 1;
        let mut begin = self.at;
        // What an escape stands for is never nothing.
        let mut out = String::new();
        loop {
            let part = text.get(begin..self.at).unwrap_or("");
            match self.byte() {
                Some(b'"') if out.is_empty() => {
                    self.at += 1;
                    return Ok(part.into());
                }
                Some(b'"') => {
                    self.at += 1;
                    return Ok((out + part).into());
                }
                Some(b'\\') => {
                    out.push_str(part);
                    out.push(self.escape()?);
                    begin = self.at;
                }
                Some(0..=0x1f) => {
                    return Err(self.wrong("the string has a control character that is not escaped"))
                }
                Some(_) => self.at += 1,
                None => return Err(self.expected("`\"`")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Wrong> {
        let begin = self.at;
        self.at += 2;
        let escape = match self.text.as_bytes().get(begin + 1) {
            Some(b'u') => self.unicode(),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(byte @ (b'"' | b'\\' | b'/')) => Some(char::from(*byte)),
            _ => None,
        };
        escape.ok_or_else(|| Wrong {
            offset: begin,
            what: "the string has an escape that is not a character".to_owned(),
        })
    }

    /// What stands behind `\u`; of a character beyond 16 bits both halves.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hexadecimal()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        if !(self.take(b'\\') && self.take(b'u')) {
            return None;
        }
        let low = self.hexadecimal()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        // from_str_radix takes a sign, too.
        u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    }
}
