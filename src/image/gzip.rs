// SPDX-License-Identifier: Apache-2.0
//! gzip'ed kernels (RFC 1952), unpacked straight to where they belong and no further than their own
//! trailer says.

use std::io::Read;

use super::file::UNREADABLE;
use super::inflate::{Bits, Fault, Inflater};
use crate::diagnostic::{kinds, Diagnostic};
use crate::text::errno_of;

/// Bytes of the trailer: CRC32, and the length modulo 2^32.
pub(super) const TRAILER_SIZE: u64 = 8;

/// Bytes read from the file at a time, and unpacked at a time where they are not kept.
const CHUNK: usize = 64 << 10;

kinds! {
    CUT: Error "image-gzip-cut" in Images {
        "a gzip'ed kernel ends too early",
        cause: "it was not copied to its end",
        cure: "copy it again, or pack it again: gzip -k Image",
    }
    DAMAGED: Error "image-gzip-damaged" in Images {
        "a gzip'ed kernel cannot be unpacked, or not to the bytes that were packed",
        cause: "some of its bytes have changed, are missing or were added",
        cure: "copy it again, or pack it again: gzip -k Image",
    }
}

/// Whether `start` begins a gzip file.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(b"\x1f\x8b")
}

/// Unpacks a file that is in memory, of at most `most` bytes when it is unpacked.
pub fn unpacked(packed: &[u8], most: u64) -> Result<Vec<u8>, Diagnostic> {
    let size = packed.last_chunk().map_or(0, |size| u32::from_le_bytes(*size).into());
    if size > most {
        return Err(DAMAGED.case(format!(
            "the gzip'ed file unpacks to {size} bytes by its trailer, more than {most}"
        )));
    }
    let mut room = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut unpacker = Unpacker::new(packed, size);
    unpacker.fill(&mut room)?;
    unpacker.end().map(|()| room)
}

/// Unpacks a file piece by piece. Its faults do not name the file.
pub struct Unpacker<'a> {
    bits: Bits<'a>,
    next: Next,
    inflater: Box<Inflater>,
    sum: Sum,
    /// Bytes that it unpacks to, by the trailer.
    size: u64,
    unpacked: u64,
}

/// What of the file is read next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Header,
    Deflated,
    Trailer,
    Nothing,
}

impl<'a> Unpacker<'a> {
    /// `source` stands at the file's first byte, and `size` is what its trailer says.
    pub fn new(source: impl Read + 'a, size: u64) -> Self {
        Self {
            bits: Bits::new(source, CHUNK),
            next: Next::Header,
            inflater: Inflater::new(),
            sum: Sum::new(),
            size,
            unpacked: 0,
        }
    }

    /// Fills all of `room` with the next bytes.
    pub fn fill(&mut self, mut room: &mut [u8]) -> Result<(), Diagnostic> {
        while !room.is_empty() {
            let length = self.next_bytes(room)?;
            if length == 0 {
                let (unpacked, size) = (self.unpacked, self.size);
                return Err(DAMAGED.case(format!(
                    "the gzip'ed file unpacks to {unpacked} bytes, its trailer says {size}"
                )));
            }
            room = &mut room[length..];
        }
        Ok(())
    }

    /// Checks that this is the end, and the sum of all bytes.
    pub fn end(mut self) -> Result<(), Diagnostic> {
        let size = self.size;
        if self.next_bytes(&mut [0])? == 0 {
            return Ok(());
        }
        Err(DAMAGED.case(format!(
            "the gzip'ed file unpacks to more than the {size} bytes that its trailer says"
        )))
    }

    /// Unpacks all of it to nowhere.
    pub fn verify(mut self) -> Result<(), Diagnostic> {
        let mut room = vec![0; CHUNK];
        while self.unpacked < self.size {
            let rest = usize::try_from(self.size - self.unpacked).unwrap_or(CHUNK);
            self.fill(&mut room[..rest.min(CHUNK)])?;
        }
        self.end()
    }

    /// The next bytes; none at the end.
    fn next_bytes(&mut self, room: &mut [u8]) -> Result<usize, Diagnostic> {
        loop {
            match self.next {
                _ if room.is_empty() => return Ok(0),
                Next::Header => self.header()?,
                Next::Deflated => match self.inflate(room)? {
                    0 => {}
                    length => return Ok(length),
                },
                Next::Trailer => self.trailer()?,
                Next::Nothing => return Ok(0),
            }
        }
    }

    fn header(&mut self) -> Result<(), Diagnostic> {
        const SUM: u8 = 2;
        const EXTRA: u8 = 4;
        const TEXTS: [u8; 2] = [8, 16];
        const RESERVED: u8 = 0xe0;
        let invalid = || DAMAGED.case("the gzip'ed file has no valid header");
        let start: [u8; 10] = self.bytes()?;
        let flags = start[3];
        if !start.starts_with(b"\x1f\x8b\x08") || flags & RESERVED != 0 {
            return Err(invalid());
        }
        if flags & EXTRA != 0 {
            for _ in 0..u16::from_le_bytes(self.bytes()?) {
                let _: [u8; 1] = self.bytes()?;
            }
        }
        for text in TEXTS {
            while flags & text != 0 && self.bytes()? != [0] {}
        }
        if flags & SUM != 0 {
            let [low, high, ..] = self.sum.value().to_le_bytes();
            if self.bytes()? != [low, high] {
                return Err(invalid());
            }
        }
        self.sum.restart();
        self.next = Next::Deflated;
        Ok(())
    }

    fn inflate(&mut self, room: &mut [u8]) -> Result<usize, Diagnostic> {
        let length = self.inflater.give(room, &mut self.bits).map_err(|fault| self.fault(fault))?;
        if length == 0 {
            self.next = Next::Trailer;
        }
        self.sum.add(&room[..length]);
        self.unpacked += length as u64;
        Ok(length)
    }

    fn trailer(&mut self) -> Result<(), Diagnostic> {
        let expected = self.sum.value();
        let [sum, length] = [(); 2].map(|()| self.bytes().map(u32::from_le_bytes));
        if sum? != expected {
            return Err(DAMAGED.case(
                "the CRC32 of the unpacked bytes is not the one in the gzip'ed file's trailer",
            ));
        }
        let (unpacked, length) = (self.unpacked, length?);
        if unpacked & u64::from(u32::MAX) != u64::from(length) {
            return Err(DAMAGED.case(format!(
                "the gzip'ed file unpacks to {unpacked} bytes, its trailer says {length}"
            )));
        }
        self.next = Next::Nothing;
        Ok(())
    }

    /// The next bytes of header or trailer. The header's have a sum, too.
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Diagnostic> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            [*byte, ..] = self.bits.take(8).map_err(|fault| self.fault(fault))?.to_le_bytes();
        }
        self.sum.add(&bytes);
        Ok(bytes)
    }

    fn fault(&self, fault: Fault) -> Diagnostic {
        let unpacked = self.unpacked + self.inflater.rest().len() as u64;
        match fault {
            Fault::Cut => {
                CUT.case(format!("the gzip'ed file ends after {unpacked} unpacked bytes"))
            }
            Fault::Damaged => {
                DAMAGED.case(format!("the gzip'ed file is damaged after {unpacked} unpacked bytes"))
            }
            Fault::Unreadable(error) => {
                let what =
                    format!("the gzip'ed file cannot be read after {unpacked} unpacked bytes");
                UNREADABLE.case(what).errno(errno_of(&error))
            }
        }
    }
}

/// Without the check of what follows the end, and without saying what is wrong.
impl Read for Unpacker<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        self.next_bytes(room).map_err(|_| std::io::ErrorKind::InvalidData.into())
    }
}

/// CRC-32 as gzip has it, eight bytes at a time. Its tables are made when they are needed: in the program
/// they would be as large as the decoder.
struct Sum {
    /// What a byte adds that this many more bytes follow.
    tables: Box<[[u32; 256]; 8]>,
    inverted: u32,
}

impl Sum {
    fn new() -> Self {
        // The polynomial, its highest power in the lowest bit.
        const POLYNOMIAL: u32 = 0xedb8_8320;
        let step = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
        let mut tables = Box::new([[0; 256]; 8]);
        let mut last = [0; 256];
        for (byte, sum) in (0..).zip(&mut last) {
            *sum = (0..8).fold(byte, |sum, _| step(sum));
        }
        let first = last;
        for table in tables.iter_mut() {
            *table = last;
            last = last.map(|sum| (sum >> 8) ^ first[usize::from(sum.to_le_bytes()[0])]);
        }
        Self { tables, inverted: u32::MAX }
    }

    fn restart(&mut self) {
        self.inverted = u32::MAX;
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut sum = self.inverted;
        let mut eights = bytes.chunks_exact(8);
        for eight in &mut eights {
            let eight = u64::from_le_bytes(eight.try_into().unwrap_or_default());
            let mixed = (eight ^ u64::from(sum)).to_le_bytes();
            let parts = mixed.iter().zip(self.tables.iter().rev());
            sum = parts.fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
        }
        for byte in eights.remainder() {
            let [low, ..] = sum.to_le_bytes();
            sum = (sum >> 8) ^ self.tables[0][usize::from(low ^ byte)];
        }
        self.inverted = sum;
    }

    fn value(&self) -> u32 {
        !self.inverted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use flate2::write::GzEncoder;
    use flate2::GzBuilder;
    use proptest::prelude::*;
    use std::io::{self, Write};

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8], size: usize) -> Result<Vec<u8>, Diagnostic> {
        let mut room = vec![0; size];
        let mut unpacker = Unpacker::new(packed, size as u64);
        unpacker.fill(&mut room)?;
        unpacker.end().map(|()| room)
    }

    /// What is wrong, however it is unpacked.
    fn refused(packed: &[u8], size: usize) -> Diagnostic {
        let verified = Unpacker::new(packed, size as u64).verify();
        match (unpack(packed, size), verified) {
            (Err(one), Err(other)) => {
                assert_eq!(one, other);
                one
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_damage_apart() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let good = pack(&text);
        let size = text.len();
        assert_eq!(unpack(&good, size).unwrap(), text);
        for cut in [5, good.len() / 2, good.len() - 20, good.len() - 3] {
            assert_eq!(refused(&good[..cut], size).name, "image-gzip-cut");
        }
        let with = |at: usize, bits: u8| {
            let mut bad = good.clone();
            bad[at] ^= bits;
            bad
        };
        for (bad, size, words) in [
            (with(2, 1), size, "no valid header"),
            (with(3, 0x80), size, "no valid header"),
            (with(good.len() - 8, 1), size, "the CRC32 of"),
            (with(10, 6), size, "is damaged after "),
            (good.clone(), size - 1, "more than the 799999 bytes"),
            (good.clone(), size + 1, "800000 bytes, its trailer says 800001"),
        ] {
            let wrong = refused(&bad, size);
            assert_eq!(wrong.name, "image-gzip-damaged");
            assert!(wrong.what.contains(words), "{wrong}");
        }
    }

    #[test]
    fn a_header_may_have_every_optional_part() {
        let mut encoder = GzBuilder::new()
            .filename("Image")
            .comment("a comment")
            .extra([9, 9])
            .write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"kernel").unwrap();
        assert_eq!(unpack(&encoder.finish().unwrap(), 6).unwrap(), b"kernel");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_called_damaged() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        let error = Unpacker::new(Broken, 10).verify().unwrap_err();
        assert_eq!(error.name, "image-unreadable");
        assert_eq!(error.errno, Some(libc::EIO));
    }

    #[test]
    fn the_sum_is_the_one_of_gzip() {
        let mut sum = Sum::new();
        sum.add(b"1234");
        sum.add(b"56789");
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(sum.value(), 0xcbf4_3926);
    }

    /// A file with the sum of its header, which no packer here makes.
    #[test]
    fn the_sum_of_a_header_is_checked() {
        let packed = pack(b"kernel");
        let mut header = packed[..10].to_vec();
        header[3] = 2;
        let mut sum = Sum::new();
        sum.add(&header);
        let [low, high, ..] = sum.value().to_le_bytes();
        let with = |sum: [u8; 2]| [&header[..], &sum, &packed[10..]].concat();
        assert_eq!(unpack(&with([low, high]), 6).unwrap(), b"kernel");
        assert!(refused(&with([!low, high]), 6).what.contains("no valid header"));
    }

    proptest! {
        /// As another reader of gzip does it, damaged or not.
        #[test]
        fn agrees_with_another_reader(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3000),
                prop::collection::vec(0u8..3, 0..3000),
            ],
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut packed = pack(&bytes);
            for (at, bits) in damage {
                *at.get_mut(&mut packed) ^= bits;
            }
            if let Some(cut) = cut {
                packed.truncate(cut.index(packed.len()));
            }
            let mut theirs = Vec::new();
            let good = GzDecoder::new(&packed[..]).read_to_end(&mut theirs).is_ok();
            let ours = unpack(&packed, theirs.len());
            prop_assert_eq!(ours.is_ok(), good, "{:?}", ours);
            if let Ok(ours) = ours {
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 0usize..1000) {
            let unpacked = unpack(&bytes, size);
            prop_assert_eq!(unpacked.is_ok(), Unpacker::new(&bytes[..], size as u64).verify().is_ok());
        }

        /// By every kind of block, with copies from near and far.
        #[test]
        fn gives_back_what_was_packed(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 1..20),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
            level in 0u32..10,
        ) {
            let bytes: Vec<u8> = order.iter().flat_map(|word| word.get(&words).clone()).collect();
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(&bytes).unwrap();
            let packed = encoder.finish().unwrap();
            prop_assert_eq!(unpack(&packed, bytes.len()).unwrap(), &bytes[..]);
            Unpacker::new(&packed[..], bytes.len() as u64).verify().unwrap();
        }
    }
}
