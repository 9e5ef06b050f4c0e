// SPDX-License-Identifier: Apache-2.0
//! gzip'ed files (RFC 1952), unpacked straight into guest memory, bounded by what was planned.

use std::io::{self, Read};

use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{decompress, DecompressorOxide};
use miniz_oxide::inflate::TINFLStatus;
use thiserror::Error;

use super::FormatError;

/// Bytes of the trailer: CRC32 and ISIZE.
pub const TRAILER_SIZE: u64 = 8;
/// More than any header of a kernel (name and comment included); a bound on what is looked at.
pub const MAX_HEADER: usize = 4096;

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Whether `start` begins a gzip file.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(b"\x1f\x8b")
}

/// Bytes of the member header in `start`.
///
/// # Errors
/// Says what is not gzip's about it.
pub fn header_size(start: &[u8]) -> Result<usize, FormatError> {
    let short = || FormatError::Short(start.len() as u64, "the header of a gzip file");
    if !is_gzip(start) {
        let found = format!("it begins with {:02x?}", &start[..start.len().min(2)]);
        return Err(FormatError::Not {
            wanted: "a gzip file",
            found,
        });
    }
    let (Some(&method), Some(&flags)) = (start.get(2), start.get(3)) else {
        return Err(short());
    };
    if method != 8 {
        return Err(FormatError::Field {
            field: "CM",
            value: method.into(),
            problem: "not deflate (8)",
        });
    }
    if flags & RESERVED != 0 {
        return Err(FormatError::Field {
            field: "FLG",
            value: flags.into(),
            problem: "reserved bits are set",
        });
    }
    let mut at = 10;
    if flags & FEXTRA != 0 {
        let length = start.get(at..at + 2).ok_or_else(short)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for text in [FNAME, FCOMMENT] {
        if flags & text != 0 {
            let rest = start.get(at..).ok_or_else(short)?;
            at += rest.iter().position(|&byte| byte == 0).ok_or_else(short)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        at += 2;
    }
    if at < start.len() {
        Ok(at)
    } else {
        Err(short())
    }
}

/// Why unpacking stopped.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The packed bytes end too early.
    #[error("the gzip'ed file ends after {unpacked} unpacked bytes")]
    Truncated {
        /// Bytes so far.
        unpacked: usize,
    },
    /// The packed bytes make no sense.
    #[error("the gzip'ed file is damaged after {unpacked} unpacked bytes")]
    Damaged {
        /// Bytes so far.
        unpacked: usize,
    },
    /// There is more than `room`.
    #[error("the gzip'ed file unpacks to more than the {room} bytes that its own trailer says")]
    TooLarge {
        /// Bytes of room.
        room: usize,
    },
    /// Another sum than the trailer's.
    #[error("CRC32 is {found:08x}, the file's trailer says {wanted:08x}: the file is damaged")]
    Crc {
        /// Of the unpacked bytes.
        found: u32,
        /// Of the trailer.
        wanted: u32,
    },
    /// Another length than the trailer's.
    #[error("{found} bytes were unpacked, the file's trailer says {wanted}: the file is damaged")]
    Length {
        /// Unpacked bytes.
        found: usize,
        /// The trailer's, modulo 2^32.
        wanted: u32,
    },
}

/// Unpacks the deflate stream and the trailer that `source` stands at into `room`; returns how many
/// bytes of it were filled.
///
/// # Errors
/// A stream that is damaged, too long or too short, or that cannot be read.
pub fn unpack(source: &mut impl Read, room: &mut [u8]) -> Result<usize, UnpackError> {
    let mut inflate = Inflate::new(source);
    let unpacked = match inflate.fill(room)? {
        Filled::End(unpacked) => unpacked,
        Filled::Room => return Err(UnpackError::TooLarge { room: room.len() }),
    };
    inflate.check_trailer(unpacked, || crc32(&room[..unpacked]))?;
    Ok(unpacked)
}

/// Unpacks as [`unpack`] does, to nowhere: says whether that would succeed with `room` bytes of
/// room, without having them.
///
/// # Errors
/// As [`unpack`].
pub fn verify(source: &mut impl Read, room: usize) -> Result<usize, UnpackError> {
    let mut inflate = Inflate::new(source);
    let mut window = vec![0; WINDOW];
    let mut sum = u32::MAX;
    let mut unpacked = 0;
    loop {
        let (wrote, ended) = inflate.turn(&mut window, unpacked)?;
        sum = crc32_of(sum, &window[..wrote]);
        unpacked += wrote;
        if unpacked > room {
            return Err(UnpackError::TooLarge { room });
        }
        if ended {
            inflate.check_trailer(unpacked, || !sum)?;
            return Ok(unpacked);
        }
    }
}

/// The first bytes of the unpacked stream, as many as fit into `room` or as there are.
///
/// # Errors
/// A stream that is damaged from its start, or that cannot be read.
pub fn peek(source: &mut impl Read, room: &mut [u8]) -> Result<usize, UnpackError> {
    match Inflate::new(source).fill(room)? {
        Filled::End(unpacked) => Ok(unpacked),
        Filled::Room => Ok(room.len()),
    }
}

enum Filled {
    End(usize),
    Room,
}

/// Bytes read from the file at a time.
const CHUNK: usize = 64 << 10;

/// Bytes unpacked at a time where they are not kept: a power of two, no less than the 32 KiB that
/// deflate looks back.
const WINDOW: usize = 64 << 10;

struct Inflate<'a, R> {
    source: &'a mut R,
    state: Box<DecompressorOxide>,
    input: Box<[u8; CHUNK]>,
    begin: usize,
    end: usize,
    /// The file may have more than `input`.
    more: bool,
}

impl<'a, R: Read> Inflate<'a, R> {
    fn new(source: &'a mut R) -> Self {
        Self {
            source,
            state: Box::default(),
            input: Box::new([0; CHUNK]),
            begin: 0,
            end: 0,
            more: true,
        }
    }

    fn refill(&mut self) -> io::Result<bool> {
        (self.begin, self.end) = (0, read_some(self.source, &mut self.input[..])?);
        Ok(self.end > 0)
    }

    fn fill(&mut self, room: &mut [u8]) -> Result<Filled, UnpackError> {
        match self.go_on(room, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF)? {
            (unpacked, true) => Ok(Filled::End(unpacked)),
            (_, false) => Ok(Filled::Room),
        }
    }

    /// Fills `window` once more from its start, which deflate looks back into. Returns how many
    /// bytes that were, and whether they are the last.
    fn turn(&mut self, window: &mut [u8], before: usize) -> Result<(usize, bool), UnpackError> {
        self.go_on(window, before, 0)
    }

    /// Unpacks until `room` is full or the stream ends; `before` were unpacked already.
    fn go_on(
        &mut self,
        room: &mut [u8],
        before: usize,
        flags: u32,
    ) -> Result<(usize, bool), UnpackError> {
        let mut wrote = 0;
        loop {
            if self.begin == self.end && self.more {
                self.more = self.refill()?;
            }
            let more = self.more;
            let flags = flags | if more { TINFL_FLAG_HAS_MORE_INPUT } else { 0 };
            let input = &self.input[self.begin..self.end];
            let (status, read, new) = decompress(&mut self.state, input, room, wrote, flags);
            self.begin += read;
            wrote += new;
            let unpacked = before + wrote;
            match status {
                TINFLStatus::Done => return Ok((wrote, true)),
                TINFLStatus::HasMoreOutput => return Ok((wrote, false)),
                TINFLStatus::NeedsMoreInput if more => {}
                TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                    return Err(UnpackError::Truncated { unpacked })
                }
                _ => return Err(UnpackError::Damaged { unpacked }),
            }
        }
    }

    /// Holds the trailer against what was unpacked.
    fn check_trailer(
        &mut self,
        unpacked: usize,
        sum: impl FnOnce() -> u32,
    ) -> Result<(), UnpackError> {
        let trailer = self.trailer(unpacked)?;
        let wanted = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
        let length = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]);
        // ISIZE is the length modulo 2^32.
        if unpacked as u64 & u64::from(u32::MAX) != u64::from(length) {
            return Err(UnpackError::Length {
                found: unpacked,
                wanted: length,
            });
        }
        let found = sum();
        if found != wanted {
            return Err(UnpackError::Crc { found, wanted });
        }
        Ok(())
    }

    fn trailer(&mut self, unpacked: usize) -> Result<[u8; 8], UnpackError> {
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            if self.begin == self.end && !self.refill()? {
                return Err(UnpackError::Truncated { unpacked });
            }
            *byte = self.input[self.begin];
            self.begin += 1;
        }
        Ok(trailer)
    }
}

fn read_some(source: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// CRC32 of RFC 1952.
fn crc32(bytes: &[u8]) -> u32 {
    !crc32_of(u32::MAX, bytes)
}

/// The sum of `bytes` after those of `before`, a byte a step; not yet inverted.
fn crc32_of(before: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        let mut byte = 0;
        while index < 256 {
            let mut value: u32 = byte;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    POLYNOMIAL ^ (value >> 1)
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(before, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut packed = miniz_oxide::deflate::compress_to_vec(bytes, 6);
        packed.extend(crc32(bytes).to_le_bytes());
        packed.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn reads_headers_with_every_optional_part() {
        let mut bytes = vec![
            0x1f,
            0x8b,
            8,
            FEXTRA | FNAME | FCOMMENT | FHCRC,
            0,
            0,
            0,
            0,
            0,
            3,
        ];
        bytes.extend([2, 0, 9, 9]);
        bytes.extend(b"Image\0a comment\0");
        bytes.extend([7, 7]);
        let size = bytes.len();
        bytes.push(0);
        assert_eq!(header_size(&bytes), Ok(size));
        for cut in 2..size {
            assert!(header_size(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn tells_damage_apart() {
        let text: Vec<u8> = (0..200_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let good = pack(&text);
        let mut room = vec![0; text.len()];
        assert_eq!(unpack(&mut &good[..], &mut room).unwrap(), text.len());
        assert_eq!(room, text);
        let mut both = |bytes: &[u8], size: usize| {
            let error = unpack(&mut &bytes[..], &mut room[..size]).unwrap_err();
            let same = verify(&mut &bytes[..], size).unwrap_err();
            assert_eq!(error.to_string(), same.to_string());
            error
        };
        let size = text.len();
        let cut = |by: usize| &good[..good.len() - by];
        for cut in [cut(good.len() / 2), cut(20), cut(3)] {
            assert!(matches!(both(cut, size), UnpackError::Truncated { .. }));
        }
        let mut bad = good.clone();
        let at = bad.len() - 8;
        bad[at] ^= 1;
        assert!(matches!(both(&bad, size), UnpackError::Crc { .. }));
        let mut bad = good.clone();
        let at = bad.len() - 1;
        bad[at] ^= 1;
        assert!(matches!(both(&bad, size), UnpackError::Length { .. }));
        assert!(matches!(
            both(&good, size - 1),
            UnpackError::TooLarge { .. }
        ));
        assert_eq!(peek(&mut &good[..], &mut room[..64]).unwrap(), 64);
    }

    #[test]
    fn verifies_what_is_larger_than_its_window() {
        for length in [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 7] {
            let bytes: Vec<u8> = (0u32..)
                .flat_map(|n| (n / 5).wrapping_mul(0x9e37_79b9).to_le_bytes())
                .take(length)
                .collect();
            assert_eq!(verify(&mut &pack(&bytes)[..], length).unwrap(), length);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = header_size(&bytes);
            let unpacked = unpack(&mut &bytes[..], &mut [0; 1000]);
            prop_assert_eq!(unpacked.is_ok(), verify(&mut &bytes[..], 1000).is_ok());
        }

        #[test]
        fn gives_back_what_was_packed(bytes in prop::collection::vec(any::<u8>(), 0..3000), spare in 0usize..50) {
            let mut room = vec![0; bytes.len() + spare];
            prop_assert_eq!(unpack(&mut &pack(&bytes)[..], &mut room).unwrap(), bytes.len());
            prop_assert_eq!(&room[..bytes.len()], &bytes[..]);
            prop_assert_eq!(verify(&mut &pack(&bytes)[..], room.len()).unwrap(), bytes.len());
        }
    }
}
