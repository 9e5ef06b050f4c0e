// SPDX-License-Identifier: Apache-2.0
//! Deflated bytes (RFC 1951), unpacked a piece at a time.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// How far back a copy may go.
const WINDOW: usize = 32 << 10;
/// Bytes at which a piece ends, those of before it included.
const FULL: usize = 2 * WINDOW;
/// Longest code in bits, and those of codes that are found in one step.
const LONGEST: usize = 15;
const SHORT: usize = 10;
/// Symbols of the largest code, and the one that ends a block.
const SYMBOLS: usize = 288;
const END: usize = 256;
/// The order in which the lengths of the lengths' own code are given.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Why it goes no further.
pub(super) enum Fault {
    /// The source ends too early.
    Cut,
    /// These are not deflated bytes.
    Damaged,
    /// The source cannot be read.
    Unreadable(io::Error),
}

/// A source, bit by bit.
pub(super) struct Bits<'a> {
    source: BufReader<Box<dyn Read + 'a>>,
    bits: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(source: impl Read + 'a, chunk: usize) -> Self {
        Self { source: BufReader::with_capacity(chunk, Box::new(source)), bits: 0, count: 0 }
    }

    /// Reads on until there are so many bits, 56 at most, or as many as the source has.
    #[inline]
    fn fill(&mut self, wanted: u32) -> Result<(), Fault> {
        match self.count < wanted {
            true => self.read(wanted),
            false => Ok(()),
        }
    }

    fn read(&mut self, wanted: u32) -> Result<(), Fault> {
        while self.count < wanted {
            if let Some(eight) = self.source.buffer().first_chunk() {
                // The bits of a byte that is not whole come once more.
                self.bits |= u64::from_le_bytes(*eight) << self.count;
                let bytes = (63 - self.count) / 8;
                self.source.consume(bytes as usize);
                self.count += bytes * 8;
                return Ok(());
            }
            match self.source.fill_buf() {
                Ok([]) => return Ok(()),
                Ok([byte, ..]) => self.bits |= u64::from(*byte) << self.count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Unreadable(error)),
            }
            self.source.consume(1);
            self.count += 8;
        }
        Ok(())
    }

    /// The next `count` bits, 16 at most, the first one lowest.
    pub fn take(&mut self, count: u32) -> Result<usize, Fault> {
        self.fill(count)?;
        let [low, high, ..] = (self.bits & ((1 << count) - 1)).to_le_bytes();
        self.pass(count)?;
        Ok(u16::from_le_bytes([low, high]).into())
    }

    fn pass(&mut self, count: u32) -> Result<(), Fault> {
        self.count = self.count.checked_sub(count).ok_or(Fault::Cut)?;
        self.bits >>= count;
        Ok(())
    }

    /// The next symbol of a code, after [`Bits::fill`].
    fn symbol(&mut self, code: &Code) -> Result<usize, Fault> {
        let [low, high, ..] = self.bits.to_le_bytes();
        let ahead = u16::from_le_bytes([low, high]);
        match code.find(ahead) {
            Some((symbol, length)) => self.pass(length.into()).map(|()| symbol.into()),
            // Bits that are not there are zeros.
            None if self.count < 15 => Err(Fault::Cut),
            None => Err(Fault::Damaged),
        }
    }

    /// A length or a distance: a symbol says its highest bits, 2 or 1 behind the first one, and how many follow.
    fn value(&mut self, symbol: usize, group: u32) -> Result<usize, Fault> {
        let size = 1 << group;
        if symbol < 2 * size {
            return Ok(symbol);
        }
        let more = u32::try_from((symbol >> group) - 1).unwrap_or(0);
        Ok(((size + symbol % size) << more) + self.take(more)?)
    }
}

/// A Huffman code.
struct Code {
    /// Symbols by the next bits, each with its length; 0: its code is longer.
    short: [u16; 1 << SHORT],
    /// How many codes have each length, and the symbols in the order of their codes.
    counts: [u16; LONGEST + 1],
    symbols: [u16; SYMBOLS],
}

impl Code {
    const NONE: Self =
        Self { short: [0; 1 << SHORT], counts: [0; LONGEST + 1], symbols: [0; SYMBOLS] };

    /// Takes the code whose symbols have these lengths. One that has bits over is none, but for one of a single bit.
    fn set(&mut self, lengths: &[u8], may_be_single: bool) -> Result<(), Fault> {
        self.counts = [0; LONGEST + 1];
        let mut symbols = self.symbols.iter_mut();
        let mut free = 1i32;
        let mut longest = 0;
        for length in 1..=LONGEST {
            free *= 2;
            for (symbol, _) in (0..).zip(lengths).filter(|(_, of)| usize::from(**of) == length) {
                if let Some(room) = symbols.next() {
                    *room = symbol;
                }
                self.counts[length] += 1;
                free -= 1;
                longest = length;
            }
            if free < 0 {
                return Err(Fault::Damaged);
            }
        }
        if free > 0 && !(may_be_single && longest <= 1) {
            return Err(Fault::Damaged);
        }
        self.short = [0; 1 << SHORT];
        for ahead in 0..1u16 << SHORT {
            let found = self.find_long(ahead).filter(|(_, length)| usize::from(*length) <= SHORT);
            self.short[usize::from(ahead)] =
                found.map_or(0, |(symbol, length)| symbol << 4 | length);
        }
        Ok(())
    }

    /// The symbol whose code comes next, and its length.
    fn find(&self, ahead: u16) -> Option<(u16, u16)> {
        match self.short[usize::from(ahead) % (1 << SHORT)] {
            0 => self.find_long(ahead),
            short => Some((short >> 4, short & 0xf)),
        }
    }

    /// The same bit by bit: codes of a length are numbers in a row, after those of the length before, doubled.
    fn find_long(&self, ahead: u16) -> Option<(u16, u16)> {
        let (mut above, mut first) = (0, 0);
        for (length, count) in (0..).zip(&self.counts).skip(1) {
            above = above * 2 + usize::from(ahead >> (length - 1) & 1);
            let count = usize::from(*count);
            if above < count {
                return Some((*self.symbols.get(first + above)?, length));
            }
            above -= count;
            first += count;
        }
        None
    }
}

/// What the bits are that come next.
enum Next {
    Block,
    /// So many bytes as they are.
    Stored(usize),
    Coded,
    Nothing,
}

/// Unpacks what [`Bits`] have.
pub(super) struct Inflater {
    next: Next,
    last: bool,
    literals: Code,
    distances: Code,
    /// What was unpacked last, and how much of it was given away.
    out: Vec<u8>,
    given: usize,
}

impl Inflater {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            next: Next::Block,
            last: false,
            literals: Code::NONE,
            distances: Code::NONE,
            out: Vec::with_capacity(FULL + 258),
            given: 0,
        })
    }

    /// What is unpacked and not given away.
    pub fn rest(&self) -> &[u8] {
        &self.out[self.given..]
    }

    /// The next bytes; none at the end.
    pub fn give(&mut self, room: &mut [u8], bits: &mut Bits<'_>) -> Result<usize, Fault> {
        if self.rest().is_empty() {
            let old = self.out.len().saturating_sub(WINDOW);
            self.out.copy_within(old.., 0);
            self.out.truncate(WINDOW);
            self.given = self.out.len();
            while self.out.len() < FULL && self.step(bits)? {}
        }
        let length = self.rest().len().min(room.len());
        room[..length].copy_from_slice(&self.rest()[..length]);
        self.given += length;
        Ok(length)
    }

    /// Unpacks some. False: that was all.
    fn step(&mut self, bits: &mut Bits<'_>) -> Result<bool, Fault> {
        match self.next {
            Next::Nothing => return Ok(false),
            Next::Block if self.last => {
                // What follows begins with a byte.
                bits.pass(bits.count % 8)?;
                self.next = Next::Nothing;
            }
            Next::Block => self.begin(bits)?,
            Next::Stored(0) => self.next = Next::Block,
            Next::Stored(left) => {
                let [byte, ..] = bits.take(8)?.to_le_bytes();
                self.out.push(byte);
                self.next = Next::Stored(left - 1);
            }
            Next::Coded => self.coded(bits)?,
        }
        Ok(true)
    }

    fn begin(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        self.last = bits.take(1)? == 1;
        self.next = Next::Coded;
        match bits.take(2)? {
            0 => {
                bits.pass(bits.count % 8)?;
                let (length, inverted) = (bits.take(16)?, bits.take(16)?);
                if length != inverted ^ 0xffff {
                    return Err(Fault::Damaged);
                }
                self.next = Next::Stored(length);
            }
            1 => {
                let mut lengths = [8; SYMBOLS];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                self.literals.set(&lengths, false)?;
                self.distances.set(&[5; 32], false)?;
            }
            2 => self.codes(bits)?,
            _ => return Err(Fault::Damaged),
        }
        Ok(())
    }

    /// Reads the codes of a block.
    fn codes(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let (literals, distances) = (bits.take(5)? + 257, bits.take(5)? + 1);
        let mut own = [0; ORDER.len()];
        for symbol in &ORDER[..bits.take(4)? + 4] {
            [own[*symbol], ..] = bits.take(3)?.to_le_bytes();
        }
        self.literals.set(&own, false)?;
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            bits.fill(16)?;
            let symbol = bits.symbol(&self.literals)?;
            let (length, times) = match symbol {
                16 => (*lengths.last().ok_or(Fault::Damaged)?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length.to_le_bytes()[0], 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        if lengths.len() > literals + distances || literals > 286 || distances > 30 {
            return Err(Fault::Damaged);
        }
        let (literals, distances) = lengths.split_at(literals);
        self.literals.set(literals, true)?;
        self.distances.set(distances, true)
    }

    /// Unpacks until the end of a block or of a piece.
    fn coded(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        while self.out.len() < FULL {
            // Both codes at their longest, with the bits that follow each.
            bits.fill(48)?;
            let symbol = bits.symbol(&self.literals)?;
            if symbol < END {
                self.out.push(symbol.to_le_bytes()[0]);
                continue;
            }
            let length = match symbol - END {
                0 => {
                    self.next = Next::Block;
                    return Ok(());
                }
                29 => 258,
                symbol @ 1..29 => 3 + bits.value(symbol - 1, 2)?,
                _ => return Err(Fault::Damaged),
            };
            let symbol = bits.symbol(&self.distances)?;
            let distance = match symbol {
                ..30 => 1 + bits.value(symbol, 1)?,
                _ => return Err(Fault::Damaged),
            };
            let from = self.out.len().checked_sub(distance).ok_or(Fault::Damaged)?;
            if distance >= length {
                self.out.extend_from_within(from..from + length);
            } else {
                for at in from..from + length {
                    self.out.push(self.out[at]);
                }
            }
        }
        Ok(())
    }
}
