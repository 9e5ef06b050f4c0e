// SPDX-License-Identifier: Apache-2.0
//! Texts in fewer bytes: packed when the program is compiled, and unpacked where one is shown.
//!
//! A text is made of [`WORDS`], and packed it is their numbers: one byte for a number below [`ONE_BYTE`], two for
//! any other. A word is a character or two other words, and that is all that the program keeps of it.

mod words;

#[cfg(test)]
mod test;

use std::fmt::{self, Write};

use self::words::WORDS;

/// Words with numbers below this have one byte. First bytes from here on begin two.
const ONE_BYTE: u16 = 253;

/// As many words as two bytes can tell.
const MOST: usize = ONE_BYTE as usize + (0x100 - ONE_BYTE as usize) * 0x100;

/// Bytes of the longest text that can be packed.
const LONGEST: usize = 2048;

/// A text, packed by [`packed!`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) &'static [u8]);

/// Packs texts that are known when the program is compiled, with a NUL between them.
macro_rules! packed {
    ($($text:expr),*) => {{
        const PACKED: $crate::packed::Room =
            $crate::packed::pack(&$crate::packed::joined(&[$($text),*]));
        const BYTES: &[u8] = &PACKED.exactly::<{ PACKED.len() }>();
        $crate::packed::Packed(BYTES)
    }};
}
pub(crate) use packed;

impl fmt::Display for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.iter().copied().map(u16::from);
        while let Some(first) = bytes.next() {
            let number = match first.checked_sub(ONE_BYTE) {
                None => first,
                Some(high) => ONE_BYTE + (high << 8) + bytes.next().unwrap_or_default(),
            };
            write_word(number, f)?;
        }
        Ok(())
    }
}

fn write_word(number: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match PARTS.get(usize::from(number)).copied() {
        Some([code, ALONE]) => f.write_char(char::from_u32(code.into()).unwrap_or_default()),
        Some([first, second]) => {
            write_word(first, f)?;
            write_word(second, f)
        }
        None => Ok(()),
    }
}

/// Of each word, the numbers of the two that it is made of; or a character's code, and [`ALONE`].
static PARTS: [[u16; 2]; WORDS.len()] = parts();

const ALONE: u16 = u16::MAX;

const fn parts() -> [[u16; 2]; WORDS.len()] {
    assert!(WORDS.len() <= MOST, "more words than two bytes can tell");
    let mut parts = [[0; 2]; WORDS.len()];
    let mut number = 0;
    while number < WORDS.len() {
        parts[number] = match *WORDS[number].as_bytes() {
            [one] => [one as u16, ALONE],
            // A character of two bytes in UTF-8, and one of three.
            [one @ 0xc0..=0xdf, two] => [(one as u16 & 0x1f) << 6 | two as u16 & 0x3f, ALONE],
            [one @ 0xe0..=0xef, two, three] => {
                [(one as u16) << 12 | (two as u16 & 0x3f) << 6 | three as u16 & 0x3f, ALONE]
            }
            ref word => halves(word),
        };
        number += 1;
    }
    parts
}

/// Two words that are `word` together.
const fn halves(word: &[u8]) -> [u16; 2] {
    let mut at = 1;
    while at < word.len() {
        let (first, second) = word.split_at(at);
        if let (Some(first), Some(second)) = (number(first), number(second)) {
            return [first, second];
        }
        at += 1;
    }
    panic!("a word of src/packed/words.rs is not two others");
}

const fn number(word: &[u8]) -> Option<u16> {
    let (mut branch, mut at) = (0, 0);
    while at < word.len() {
        branch = TREE[branch].longer[word[at] as usize] as usize;
        if branch == 0 {
            return None;
        }
        at += 1;
    }
    TREE[branch].word
}

/// Everything that a word begins with. The first is the empty beginning.
const TREE: &[Branch] = &tree();

#[derive(Clone, Copy)]
struct Branch {
    /// The number, if it is a whole word.
    word: Option<u16>,
    /// The branch that is longer by this byte; 0 if there is none.
    longer: [u16; 0x100],
}

/// The branches have no more.
const BRANCHES: usize = 4096;

const fn tree() -> [Branch; BRANCHES] {
    let mut tree = [Branch { word: None, longer: [0; 0x100] }; BRANCHES];
    let mut used = 1;
    let mut number: u16 = 0;
    while (number as usize) < WORDS.len() {
        let word = WORDS[number as usize].as_bytes();
        let (mut branch, mut at) = (0, 0);
        while at < word.len() {
            let next = &mut tree[branch].longer[word[at] as usize];
            if *next == 0 {
                assert!((used as usize) < BRANCHES, "more words than src/packed has room for");
                *next = used;
                used += 1;
            }
            branch = *next as usize;
            at += 1;
        }
        assert!(tree[branch].word.is_none(), "a word stands twice in src/packed/words.rs");
        tree[branch].word = Some(number);
        number += 1;
    }
    tree
}

/// A text, packed or not, and room for a longer one.
pub(crate) struct Room {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Room {
    const EMPTY: Self = Self { bytes: [0; LONGEST], len: 0 };

    const fn push(&mut self, byte: u8) {
        assert!(self.len < LONGEST, "a text is longer than src/packed has room for");
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn exactly<const LEN: usize>(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut at = 0;
        while at < LEN {
            bytes[at] = self.bytes[at];
            at += 1;
        }
        bytes
    }
}

pub(crate) const fn joined(texts: &[&str]) -> Room {
    let mut room = Room::EMPTY;
    let mut index = 0;
    while index < texts.len() {
        if index > 0 {
            room.push(0);
        }
        let text = texts[index].as_bytes();
        let mut at = 0;
        while at < text.len() {
            room.push(text[at]);
            at += 1;
        }
        index += 1;
    }
    room
}

/// Of all ways to make a text of words, one with the fewest bytes.
pub(crate) const fn pack(text: &Room) -> Room {
    const NO_WAY: usize = usize::MAX / 2;
    // From each place to the end: the fewest bytes, and the word and the place that come next.
    let mut ways = [(NO_WAY, 0, 0); LONGEST + 1];
    ways[text.len] = (0, 0, 0);
    let mut from = text.len;
    let tree = TREE;
    while from > 0 {
        from -= 1;
        let (mut branch, mut to) = (0, from);
        while to < text.len {
            branch = tree[branch].longer[text.bytes[to] as usize] as usize;
            if branch == 0 {
                break;
            }
            to += 1;
            if let Some(word) = tree[branch].word {
                let bytes = ways[to].0 + if word < ONE_BYTE { 1 } else { 2 };
                if bytes < ways[from].0 {
                    ways[from] = (bytes, word, to);
                }
            }
        }
    }
    assert!(ways[0].0 < NO_WAY, "a text has a character that src/packed/words.rs has not");
    let mut packed = Room::EMPTY;
    let mut at = 0;
    while at < text.len {
        let (_, word, next) = ways[at];
        match word.checked_sub(ONE_BYTE) {
            None => packed.push(word.to_le_bytes()[0]),
            Some(rest) => {
                let [low, high] = rest.to_le_bytes();
                packed.push(ONE_BYTE.to_le_bytes()[0] + high);
                packed.push(low);
            }
        }
        at = next;
    }
    packed
}
