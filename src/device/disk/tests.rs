// SPDX-License-Identifier: Apache-2.0
//! A disk, request by request, by a driver of a test's.

use super::*;
use crate::config::{parse, VmConfig};
use crate::device::fixture::{Driver, BUFFERS};
use crate::device::{Queue, QueueRules};
use std::cell::RefCell;
use std::path::PathBuf;

/// A file that is gone with the test.
struct Image(PathBuf);

impl Image {
    fn new(bytes: &[u8]) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("gunyahd-disk-{id}-{count}"));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn config(&self, more: &str) -> DiskConfig {
        disk(&self.0, more)
    }

    fn open(&self, more: &str) -> Disk {
        Disk::open(&self.config(more)).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn disk(path: &Path, more: &str) -> DiskConfig {
    let text = format!(
        r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "/Image"}},
            "disks": [{{"path": "{}"{more}}}]}}"#,
        path.display()
    );
    let config: VmConfig = parse(Path::new("vm.json"), &text).unwrap();
    config.disks[0].clone()
}

struct Guest {
    driver: Driver,
    queue: Queue,
    counters: Counters,
    warnings: RefCell<Vec<Diagnostic>>,
}

fn guest() -> Guest {
    let driver = Driver::new(8);
    let queue = driver.queue(QueueRules { indirect: true, event_idx: true });
    Guest { driver, queue, counters: Counters::default(), warnings: RefCell::default() }
}

impl Guest {
    /// Sends a request with the data `out` and room for `room` bytes; the status, the bytes that the used ring
    /// names, and what stands in the room.
    fn send(
        &mut self,
        disk: &mut Disk,
        kind: u32,
        sector: u64,
        out: &[u8],
        room: usize,
    ) -> (u8, u32, Vec<u8>) {
        let mut head = kind.to_le_bytes().to_vec();
        head.extend([0; 4]);
        head.extend(sector.to_le_bytes());
        let head = Segment { address: BUFFERS - 64, len: self.put(BUFFERS - 64, &head) };
        let mut readable = vec![head];
        if !out.is_empty() {
            readable.push(Segment { address: BUFFERS, len: self.put(BUFFERS, out) });
        }
        let back = BUFFERS + 0x8_0000;
        let status = Segment { address: BUFFERS - 32, len: self.put(BUFFERS - 32, &[0xff]) };
        let mut writable = Vec::new();
        if room > 0 {
            writable.push(Segment { address: back, len: self.put(back, &vec![0xee; room]) });
        }
        writable.push(status);
        self.driver.request(&readable, &writable);
        let written = self.serve(disk);
        let status = self.driver.bytes(BUFFERS - 32, 1)[0];
        (status, written, self.driver.bytes(back, room))
    }

    fn put(&self, address: u64, bytes: &[u8]) -> u32 {
        self.driver.window.write(address, bytes).unwrap();
        u32::try_from(bytes.len()).unwrap()
    }

    fn serve(&mut self, disk: &mut Disk) -> u32 {
        let mut chain = self.queue.pop().unwrap().unwrap();
        let warn = |warning| self.warnings.borrow_mut().push(warning);
        let written = disk.answer(&mut chain, &self.counters, warn).unwrap();
        let head = chain.head;
        self.queue.push(head, written).unwrap();
        self.driver.taken().pop().unwrap().1
    }

    fn errors(&self) -> u64 {
        self.counters.errors.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn what_is_written_is_read_and_is_in_the_file() {
    let image = Image::new(&[b'.'; 8192]);
    for direct in ["", r#", "direct": true"#] {
        let (mut disk, mut guest) = (image.open(direct), guest());
        for len in [512, 4096] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let sector = if len == 512 { 3 } else { 8 };
            assert_eq!(guest.send(&mut disk, OUT, sector, &bytes, 0), (OK, 1, vec![]));
            let (status, written, read) = guest.send(&mut disk, IN, sector, &[], len);
            assert_eq!((status, written), (OK, u32::try_from(len).unwrap() + 1));
            assert!(read == bytes);
            let file = std::fs::read(&image.0).unwrap();
            let at = usize::try_from(sector).unwrap() * 512;
            assert!(file[at..at + len] == bytes && file[at - 1] == b'.');
        }
        assert_eq!((guest.errors(), guest.warnings.borrow().len()), (0, 0));
        let count = |counter: &std::sync::atomic::AtomicU64| {
            counter.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!((count(&guest.counters.read), count(&guest.counters.written)), (4608, 4608));
    }
}

#[test]
fn its_face_has_what_the_driver_needs() {
    let image = Image::new(&[0; 10_000]);
    let face = image.open("").face();
    assert_eq!((face.number, face.queues), (2, vec![256]));
    assert_eq!(face.config.len(), 60);
    let word = |at: usize| u32::from_le_bytes(face.config[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4)), (19, 0), "whole sectors");
    assert_eq!((word(8), word(12)), (256 << 10, 254));
    assert_eq!([36, 40, 44, 48, 52, 56].map(word), [0x8000, 1, 1, 0x8000, 1, 1]);
    assert_eq!(face.features, 1 << 1 | 1 << 2 | 1 << 9 | 1 << 13 | 1 << 14);
    let readonly = image.open(r#", "readonly": true"#).face();
    assert_eq!(readonly.features, 1 << 1 | 1 << 2 | 1 << 5 | 1 << 9);
}

#[test]
fn what_is_beyond_the_disk_is_refused() {
    let image = Image::new(&[b'.'; 8192]);
    let (mut disk, mut guest) = (image.open(""), guest());
    for (kind, sector, out, room) in [
        (OUT, 16, 512, 0),
        (OUT, 15, 1024, 0),
        (OUT, u64::MAX, 512, 0),
        (OUT, u64::MAX / 512, 1024, 0),
        (OUT, 0, 511, 0),
        (OUT, 0, 1, 0),
        (IN, 16, 0, 512),
        (IN, 1 << 55, 0, 512),
        (IN, 0, 0, 100),
    ] {
        let (status, written, _) = guest.send(&mut disk, kind, sector, &vec![1; out], room);
        assert_eq!(
            (status, written),
            (IOERR, u32::from(room == 0)),
            "{kind} {sector} {out} {room}"
        );
    }
    assert_eq!(std::fs::read(&image.0).unwrap(), [b'.'; 8192]);
    assert_eq!((guest.errors(), guest.warnings.borrow().len()), (9, 0), "the guest's own fault");
    // Nothing at the end is something.
    assert_eq!(guest.send(&mut disk, IN, 16, &[], 0).0, OK);
}

#[test]
fn a_request_is_not_larger_than_agreed_on() {
    let image = Image::new(&[]);
    std::fs::File::options().write(true).open(&image.0).unwrap().set_len(1 << 30).unwrap();
    let (mut disk, mut guest) = (image.open(""), guest());
    // The same megabyte a hundred times: more than SEGMENTS of SEGMENT bytes.
    let table = BUFFERS - 0x4000;
    let mut head = IN.to_le_bytes().to_vec();
    head.extend([0; 12]);
    guest.put(BUFFERS - 64, &head);
    guest.driver.describe_in(table, 0, BUFFERS - 64, 16, 1, 1);
    for index in 1..=100 {
        guest.driver.describe_in(table, index, BUFFERS, 0xe_0000, 3, index + 1);
    }
    guest.driver.describe_in(table, 101, BUFFERS - 32, 1, 2, 0);
    guest.driver.describe(0, table, 102 * 16, 4, 0);
    guest.driver.offer(0);
    assert_eq!(guest.serve(&mut disk), 0);
    assert_eq!(guest.driver.bytes(BUFFERS - 32, 1), [IOERR]);
}

#[test]
fn requests_that_are_none_are_answered() {
    let image = Image::new(&[b'.'; 8192]);
    let (mut disk, mut guest) = (image.open(""), guest());
    for kind in [2, 3, 5, 14, 100, u32::MAX] {
        assert_eq!(guest.send(&mut disk, kind, 0, &[], 0), (UNSUPP, 1, vec![]), "{kind}");
    }
    // No room for a status; a head that is cut.
    guest.driver.request(&[Segment { address: BUFFERS, len: 16 }], &[]);
    assert_eq!(guest.serve(&mut disk), 0);
    let status = Segment { address: BUFFERS, len: 1 };
    guest.driver.request(&[Segment { address: BUFFERS, len: 15 }], &[status]);
    assert_eq!((guest.serve(&mut disk), guest.driver.bytes(BUFFERS, 1)), (1, vec![IOERR]));
    guest.driver.request(&[], &[status]);
    assert_eq!((guest.serve(&mut disk), guest.driver.bytes(BUFFERS, 1)), (1, vec![IOERR]));
    assert_eq!(guest.errors(), 9);
}

#[test]
fn its_id_is_told() {
    let image = Image::new(&[0; 512]);
    let (mut disk, mut guest) = (image.open(r#", "id": "root""#), guest());
    let (status, written, id) = guest.send(&mut disk, GET_ID, 0, &[], 20);
    assert_eq!((status, written, &id[..]), (OK, 21, &b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    let (status, written, id) = guest.send(&mut disk, GET_ID, 0, &[], 21);
    assert_eq!((status, written, id[20]), (OK, 20, 0xee));
}

#[test]
fn a_readonly_disk_is_never_written() {
    let image = Image::new(&[b'.'; 8192]);
    let (mut disk, mut guest) = (image.open(r#", "readonly": true"#), guest());
    assert_eq!(guest.send(&mut disk, OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(guest.send(&mut disk, TRIM, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(guest.send(&mut disk, ZERO, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(guest.send(&mut disk, SYNC, 0, &[], 0).0, OK);
    assert_eq!(guest.send(&mut disk, IN, 0, &[], 512).2, [b'.'; 512]);
    assert_eq!(std::fs::read(&image.0).unwrap(), [b'.'; 8192]);
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let image = Image::new(&[b'.'; 64 << 10]);
    let (mut disk, mut guest) = (image.open(""), guest());
    assert_eq!(guest.send(&mut disk, TRIM, 0, &range(8, 8, 0), 0), (OK, 1, vec![]));
    assert_eq!(guest.send(&mut disk, ZERO, 0, &range(33, 2, 0), 0).0, OK);
    assert_eq!(guest.send(&mut disk, ZERO, 0, &range(64, 16, UNMAP), 0).0, OK);
    assert_eq!(guest.send(&mut disk, ZERO, 0, &range(128, 0, 0), 0).0, OK, "none at the end");
    assert_eq!(guest.send(&mut disk, SYNC, 0, &[], 0).0, OK);
    let file = std::fs::read(&image.0).unwrap();
    assert_eq!(file.len(), 64 << 10);
    for (at, sector) in file.chunks(512).enumerate() {
        let zero = matches!(at, 33 | 34 | 64..80);
        // A hole is a hint; here every file system makes one.
        let byte = if zero || (8..16).contains(&at) { 0 } else { b'.' };
        assert!(sector.iter().all(|found| *found == byte), "sector {at}");
    }
    for (kind, bytes, status) in [
        (TRIM, range(0, 1, UNMAP), UNSUPP),
        (ZERO, range(0, 1, 2), UNSUPP),
        (ZERO, range(128, 1, 0), IOERR),
        (ZERO, range(u64::MAX, 2, 0), IOERR),
        (ZERO, range(0, 0x8001, 0), IOERR),
        (TRIM, range(0, 1, 0)[..15].to_vec(), IOERR),
        (TRIM, [range(0, 1, 0), range(1, 1, 0)].concat(), IOERR),
        (TRIM, vec![], IOERR),
    ] {
        assert_eq!(guest.send(&mut disk, kind, 0, &bytes, 0).0, status, "{kind} {bytes:?}");
    }
    assert_eq!(std::fs::read(&image.0).unwrap(), file);
    assert_eq!(guest.warnings.borrow().len(), 0);
}

#[test]
fn what_the_host_fails_is_the_guests_error_and_a_warning() {
    let image = Image::new(&[b'.'; 8192]);
    let (mut disk, mut guest) = (image.open(""), guest());
    std::fs::File::options().write(true).open(&image.0).unwrap().set_len(512).unwrap();
    assert_eq!(guest.send(&mut disk, IN, 0, &[], 512).0, OK);
    let (status, written, _) = guest.send(&mut disk, IN, 1, &[], 512);
    assert_eq!((status, written), (IOERR, 0));
    // The kernel refuses to write where it opened for reading.
    disk.file = File::open(&image.0).unwrap();
    assert_eq!(guest.send(&mut disk, OUT, 0, &[0; 512], 0).0, IOERR);
    assert_eq!(guest.send(&mut disk, ZERO, 0, &range(0, 1, 0), 0).0, IOERR);
    let warnings = guest.warnings.borrow();
    assert!(warnings.iter().all(|warning| warning.name == "disk-io"));
    let errnos: Vec<_> = warnings.iter().map(|warning| warning.errno).collect();
    assert_eq!(errnos, [None, Some(libc::EBADF), Some(libc::EBADF)]);
    assert!(warnings[0].what.contains("ends before"), "{}", warnings[0]);
}

#[test]
fn direct_io_that_the_host_refuses_goes_through_the_page_cache() {
    let image = Image::new(&[b'.'; 8192]);
    let (mut disk, mut guest) = (image.open(""), guest());
    // A file that answers EINVAL to what is no number.
    disk.direct = File::options().write(true).open("/proc/self/oom_score_adj").ok();
    assert!(disk.direct.is_some());
    assert_eq!(guest.send(&mut disk, OUT, 0, &[b'x'; 512], 0).0, OK);
    assert!(disk.direct.is_some(), "not aligned: not tried");
    assert_eq!(guest.send(&mut disk, OUT, 8, &[b'x'; 4096], 0).0, OK);
    assert!(disk.direct.is_none());
    let warning = disk.not_direct.unwrap();
    assert_eq!((&*warning.name, warning.errno), ("disk-not-direct", Some(libc::EINVAL)));
    let file = std::fs::read(&image.0).unwrap();
    assert!(file[4096..] == [b'x'; 4096] && file[..512] == [b'x'; 512]);
    assert_eq!(guest.errors(), 0);
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let refused = |path: &Path, more: &str| match Disk::open(&disk(path, more)) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    };
    let missing = refused(Path::new("/nowhere/disk.img"), "");
    assert_eq!((&*missing.name, missing.errno), ("disk-open", Some(libc::ENOENT)));
    for path in ["/dev/null", "/proc"] {
        let error = refused(Path::new(path), r#", "readonly": true"#);
        assert_eq!(error.name, "disk-no-image", "{error}");
    }
    for (bytes, word) in
        [(&b"QFI\xfb"[..], "qemu-img"), (b"\x3a\xff\x26\xed", "simg2img"), (b"short", "raw image")]
    {
        let mut whole = bytes.to_vec();
        whole.resize(if word == "raw image" { 511 } else { 4096 }, 0);
        let image = Image::new(&whole);
        let error = refused(&image.0, "");
        assert!(error.name == "disk-no-image" && error.cure.contains(word), "{error}");
    }
}

#[test]
fn a_disk_is_one_vms_unless_all_only_read() {
    let image = Image::new(&[0; 512]);
    let readonly = r#", "readonly": true"#;
    let locked = |more: &str| {
        let error = Disk::open(&image.config(more)).map(drop).unwrap_err();
        assert_eq!((&*error.name, error.errno), ("disk-locked", Some(libc::EWOULDBLOCK)));
    };
    let writer = image.open("");
    locked("");
    locked(readonly);
    drop(writer);
    let _readers = [image.open(readonly), image.open(readonly)];
    locked("");
}
