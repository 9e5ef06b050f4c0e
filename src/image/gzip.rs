// SPDX-License-Identifier: Apache-2.0
//! gzip'ed kernels (RFC 1952), unpacked straight to where they belong and no further than their own
//! trailer says.

use std::io::{self, BufReader, Read};

use flate2::bufread::GzDecoder;
use nix::errno::Errno;

use super::file::UNREADABLE;
use crate::diagnostic::{kinds, Diagnostic};

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

/// Unpacks a file piece by piece. Its faults do not name the file.
pub struct Unpacker<R> {
    decoder: GzDecoder<BufReader<R>>,
    /// Bytes that it unpacks to, by the trailer.
    size: u64,
    unpacked: u64,
}

impl<R: Read> Unpacker<R> {
    /// `source` stands at the file's first byte, and `size` is what its trailer says.
    pub fn new(source: R, size: u64) -> Self {
        Self { decoder: GzDecoder::new(BufReader::with_capacity(CHUNK, source)), size, unpacked: 0 }
    }

    /// Fills all of `room` with the next bytes.
    pub fn fill(&mut self, mut room: &mut [u8]) -> Result<(), Diagnostic> {
        while !room.is_empty() {
            let length = self.read(room)?;
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
        if self.read(&mut [0])? == 0 {
            return Ok(());
        }
        Err(DAMAGED.case(format!(
            "the gzip'ed file unpacks to more than the {size} bytes that its trailer says"
        )))
    }

    fn read(&mut self, room: &mut [u8]) -> Result<usize, Diagnostic> {
        loop {
            match self.decoder.read(room) {
                Ok(length) => {
                    self.unpacked += length as u64;
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(error)),
            }
        }
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

    fn fault(&self, error: io::Error) -> Diagnostic {
        let unpacked = self.unpacked;
        if let Some(raw) = error.raw_os_error() {
            let what = format!("the gzip'ed file cannot be read after {unpacked} unpacked bytes");
            return UNREADABLE.case(what).errno(Errno::from_raw(raw));
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                CUT.case(format!("the gzip'ed file ends after {unpacked} unpacked bytes"))
            }
            _ if self.decoder.header().is_none() => {
                DAMAGED.case("the gzip'ed file has no valid header")
            }
            _ if unpacked == self.size => DAMAGED.case(
                "the CRC32 of the unpacked bytes is not the one in the gzip'ed file's trailer",
            ),
            _ => {
                DAMAGED.case(format!("the gzip'ed file is damaged after {unpacked} unpacked bytes"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use flate2::GzBuilder;
    use proptest::prelude::*;
    use std::io::Write;

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
            (with(10, 6), size, "is damaged after 0 unpacked bytes"),
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

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 0usize..1000) {
            let unpacked = unpack(&bytes, size);
            prop_assert_eq!(unpacked.is_ok(), Unpacker::new(&bytes[..], size as u64).verify().is_ok());
        }

        #[test]
        fn gives_back_what_was_packed(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(unpack(&pack(&bytes), bytes.len()).unwrap(), bytes);
        }
    }
}
