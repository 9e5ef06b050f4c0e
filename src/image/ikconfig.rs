// SPDX-License-Identifier: Apache-2.0
//! The configuration that a Linux has built in (CONFIG_IKCONFIG): its `.config`, gzip'ed, between two marks in
//! its read-only data (kernel/configs.c).

use std::io::Read;

use super::gzip;

/// What stands before it, with the first bytes of any gzip file: the mark alone may be in anything's strings.
const START: &[u8] = b"IKCFG_ST\x1f\x8b\x08";
/// The mark's own bytes.
const MARK: usize = 8;
const END: &[u8] = b"IKCFG_ED";

/// Bytes that it may have, packed and unpacked. One with everything set has 50 KiB and 300 KiB.
const PACKED_MAX: usize = 256 << 10;
const TEXT_MAX: u64 = 1 << 20;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// How an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `=y`.
    BuiltIn,
    /// `=m`.
    Module,
    /// Not set, or not known to this kernel.
    Absent,
}

/// A kernel's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltConfig(String);

impl BuiltConfig {
    /// Looks through a kernel's bytes for it. None: it has none, or one that is damaged or cannot be read.
    pub fn find(mut kernel: impl Read) -> Option<Self> {
        let packed = packed(&mut kernel)?;
        let text = gzip::unpacked(&packed, TEXT_MAX).ok()?;
        Some(Self(String::from_utf8(text).ok()?))
    }

    /// How the option `CONFIG_<name>` is set.
    pub fn setting(&self, name: &str) -> Setting {
        match self.value(name) {
            Some("y") => Setting::BuiltIn,
            Some("m") => Setting::Module,
            _ => Setting::Absent,
        }
    }

    /// It has an initial file system in itself.
    pub fn has_initramfs(&self) -> bool {
        self.value("INITRAMFS_SOURCE").is_some_and(|files| files != "\"\"")
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut options = self.0.lines().filter_map(|line| line.strip_prefix("CONFIG_"));
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The bytes between the marks.
fn packed(kernel: &mut dyn Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut inside = false;
    loop {
        let read = (&mut *kernel).take(CHUNK as u64).read_to_end(&mut bytes).ok()?;
        if !inside {
            let found = find(&bytes, START);
            inside = found.is_some();
            // The mark may begin in the last bytes.
            let before = bytes.len().saturating_sub(START.len() - 1);
            bytes.drain(..found.map_or(before, |at| at + MARK));
        }
        if let Some(end) = find(&bytes, END).filter(|_| inside) {
            bytes.truncate(end);
            return Some(bytes);
        }
        if read == 0 || bytes.len() > PACKED_MAX {
            return None;
        }
    }
}

/// Where `mark` stands first in `bytes` (Horspool's way: a kernel has 40 MB).
fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let (last, before) = mark.split_last()?;
    let mut at: usize = 0;
    loop {
        let window = bytes.get(at..at.checked_add(mark.len())?)?;
        if window == mark {
            return Some(at);
        }
        // To where the window's last byte stands in the mark before its end.
        let ends = window.last().unwrap_or(last);
        let back = before.iter().rev().position(|byte| byte == ends);
        at += back.map_or(mark.len(), |back| back + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const TEXT: &str = "# Linux/arm64 6.1.0 Kernel Configuration\n\
        CONFIG_VIRTIO=y\nCONFIG_VIRTIO_BLK=m\n# CONFIG_VIRTIO_MMIO is not set\n\
        CONFIG_INITRAMFS_SOURCE=\"\"\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// A kernel with this between the marks, behind so many bytes.
    fn kernel(before: usize, packed: &[u8]) -> Vec<u8> {
        [&vec![b'K'; before], &START[..MARK], packed, END, &[7; 100]].concat()
    }

    #[test]
    fn a_configuration_is_found_wherever_it_lies() {
        let packed = gzip(TEXT.as_bytes());
        for before in [0, 1, 100, CHUNK - 12, CHUNK - 11, CHUNK - 5, CHUNK - 1, CHUNK, 3 * CHUNK] {
            let found = BuiltConfig::find(&kernel(before, &packed)[..]).expect("it is there");
            assert_eq!(found.0, TEXT, "{before}");
        }
        // The mark alone is a string of anybody's.
        let twice = [&b"IKCFG_ST"[..], &kernel(5, &packed)].concat();
        let found = BuiltConfig::find(&twice[..]).expect("it is there");
        let settings = ["VIRTIO", "VIRTIO_BLK", "VIRTIO_MMIO", "VIRT"].map(|of| found.setting(of));
        use Setting::{Absent, BuiltIn, Module};
        assert_eq!(settings, [BuiltIn, Module, Absent, Absent]);
        assert!(!found.has_initramfs());
        let with = gzip(b"CONFIG_INITRAMFS_SOURCE=\"usr/root\"\n");
        assert!(BuiltConfig::find(&kernel(9, &with)[..]).expect("it is there").has_initramfs());
    }

    #[test]
    fn none_and_a_damaged_one_and_a_huge_one_are_none() {
        let packed = gzip(TEXT.as_bytes());
        let mut damaged = packed.clone();
        damaged[20] ^= 0x55;
        let cut = kernel(0, &packed);
        let endless = [&START[..MARK], &packed, &vec![0; 2 * PACKED_MAX], END].concat();
        let text = vec![b'#'; usize::try_from(TEXT_MAX).unwrap() + 1];
        for bytes in [
            vec![0; 3 * CHUNK],
            kernel(0, &damaged),
            cut[..cut.len() - 105].to_vec(),
            endless,
            kernel(0, &gzip(&text)),
            kernel(0, &gzip(&[0xff; 10])),
        ] {
            assert_eq!(BuiltConfig::find(&bytes[..]), None);
        }
    }

    proptest! {
        #[test]
        fn a_mark_is_found_where_it_stands_first(
            bytes in prop::collection::vec(prop::sample::select(b"IKCFG_STED".to_vec()), 0..200),
            length in 1..4usize,
        ) {
            let mark = &END[..length];
            let first = bytes.windows(length).position(|window| window == mark);
            prop_assert_eq!(find(&bytes, mark), first);
        }

        #[test]
        fn never_panics(
            before in prop::collection::vec(any::<u8>(), 0..50),
            packed in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut good = gzip(TEXT.as_bytes());
            let at = at.index(good.len());
            good[at] = byte;
            for inside in [&good, &packed] {
                let _ = BuiltConfig::find(&[&before, &kernel(0, inside)[..]].concat()[..]);
            }
        }
    }
}
