// SPDX-License-Identifier: Apache-2.0
//! Devices behind a queue whose requests the bytes make up.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use gunyahd::config;
use gunyahd::config::ConsoleDevice;
use gunyahd::console::{LinePattern, Port, Ring};
use gunyahd::device::{Counters, Disk, Fault, Queue, QueueLayout, QueueRules, VirtioConsole};
use gunyahd::memory::{GuestMemory, Window};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 0x2_0000;
const BUFFERS: u64 = BASE + 0x1_0000;
/// Entries of the queue.
const ENTRIES: u16 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Bytes of the disk.
const DISK: usize = 64 << 10;
const STATUS_MAX: u8 = 2;

/// A driver that makes requests of bytes.
struct Driver {
    window: Window,
    queue: Queue,
    index: u16,
}

impl Driver {
    fn new() -> Self {
        let memory = GuestMemory::of(&[(BASE, SIZE)]).expect("memory");
        let window = memory.window(false, |_| true);
        let layout = QueueLayout {
            size: ENTRIES,
            descriptors: BASE,
            driver: BASE + 0x1000,
            device: BASE + 0x2000,
        };
        let queue = Queue::new(&window, 256, layout, QueueRules::default()).expect("it is inside");
        Self { window, queue, index: 0 }
    }

    /// Offers a request: pieces of `readable`, cut where `cuts` says, and rooms of these sizes.
    fn offer(&mut self, readable: &[u8], cut: usize, rooms: &[u16]) {
        self.window.write(BUFFERS, readable).expect("it is inside");
        let (first, second) = readable.split_at(cut.min(readable.len()));
        let mut buffers = Vec::new();
        let mut at = BUFFERS;
        for (len, flags) in [(first.len(), 0), (second.len(), 0)]
            .into_iter()
            .chain(rooms.iter().map(|room| (usize::from(*room), WRITE)))
            .filter(|(len, _)| *len > 0)
        {
            buffers.push((at, u32::try_from(len).expect("it is small"), flags));
            at += len as u64;
        }
        buffers.truncate(ENTRIES.into());
        let last = buffers.len().saturating_sub(1);
        for (index, (address, len, flags)) in buffers.into_iter().enumerate() {
            let next = if index < last { NEXT } else { 0 };
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend((flags | next).to_le_bytes());
            bytes.extend(u16::try_from(index + 1).expect("it is small").to_le_bytes());
            self.window.write(BASE + 16 * index as u64, &bytes).expect("it is inside");
        }
        self.index = self.index.wrapping_add(1);
        self.window.store_u16(BASE + 0x1002, self.index, Ordering::Release).expect("it is inside");
    }
}

/// Cuts bytes into requests: two bytes of length, a byte of where to cut, a byte of rooms, the request.
fn requests(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize, [u16; 3])> {
    std::iter::from_fn(move || {
        let ([low, high, cut, rooms], rest) = bytes.split_first_chunk()?;
        let len = usize::from(u16::from_le_bytes([*low, *high])) % 2048;
        let (request, rest) = rest.split_at(len.min(rest.len()));
        bytes = rest;
        let room = |bits: u8| [0u16, 1, 20, 512, 4096, 511, 2, 1024][usize::from(bits % 8)];
        let rooms = [room(*rooms), room(rooms >> 3), u16::from(rooms >> 7)];
        (!request.is_empty()).then_some((request, usize::from(*cut), rooms))
    })
}

/// Requests to a disk: a good one of each kind.
pub(crate) fn disk_seeds() -> Vec<Vec<u8>> {
    let request = |kind: u32, sector: u64, data: &[u8], rooms: u8| {
        let mut request = kind.to_le_bytes().to_vec();
        request.extend([0; 4]);
        request.extend(sector.to_le_bytes());
        request.extend(data);
        let [low, high, ..] = request.len().to_le_bytes();
        [vec![low, high, 16, rooms], request].concat()
    };
    let range = [8u64.to_le_bytes().to_vec(), 8u64.to_le_bytes().to_vec()].concat();
    vec![
        [request(1, 1, &[7; 512], 1), request(0, 1, &[], 3 | 1 << 3), request(4, 0, &[], 1)]
            .concat(),
        [request(8, 0, &[], 2 | 1 << 3), request(11, 0, &range, 1), request(13, 0, &range, 1)]
            .concat(),
    ]
}

thread_local! {
    static DISK_AND_DRIVER: RefCell<Option<(Disk, Driver)>> = const { RefCell::new(None) };
}

fn new_disk() -> Disk {
    let path =
        std::env::temp_dir().join(format!("gunyahd-fuzz-disk-{:?}", std::thread::current().id()));
    std::fs::write(&path, vec![0; DISK]).expect("a temporary file");
    let text = format!(
        r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "/Image"}},
            "disks": [{{"path": {path:?}, "id": "fuzz"}}]}}"#
    );
    let config = config::parse(Path::new("vm.json"), &text).expect("it is good");
    let disk = Disk::open(&config.disks[0]).expect("it is a disk");
    std::fs::remove_file(&path).expect("a temporary file");
    disk
}

/// Requests to a disk: each is answered once, within its rooms, and the file keeps its size.
pub fn disk(bytes: &[u8]) {
    DISK_AND_DRIVER.with_borrow_mut(|kept| {
        let (disk, driver) = kept.get_or_insert_with(|| (new_disk(), Driver::new()));
        let counters = Counters::default();
        for (request, cut, rooms) in requests(bytes) {
            driver.offer(request, cut, &rooms);
            let mut chain = match driver.queue.pop() {
                Ok(chain) => chain.expect("it was offered"),
                Err(fault) => panic!("{fault}: a good chain"),
            };
            let room = chain.writable.len();
            let at = chain.writable.segments().last();
            let warn = |warning| panic!("nothing of the host's fails: {warning}");
            let answered: Result<u32, Fault> = disk.answer(&mut chain, &counters, warn);
            let written = answered.expect("all is inside");
            assert!(written <= room);
            if let Some(last) = at {
                let mut status = [0xff];
                driver
                    .window
                    .read(last.address + u64::from(last.len) - 1, &mut status)
                    .expect("it is inside");
                assert!(status[0] <= STATUS_MAX);
            }
            driver.queue.push(0, written).expect("it is inside");
        }
    });
}

/// What a guest prints, and buffers for what is typed.
pub(crate) fn console_seeds() -> Vec<Vec<u8>> {
    let text = b"gunyah guest: init reached\n";
    let len = u8::try_from(text.len()).expect("it is short");
    let print = [&[len, 0, 7, 0][..], text].concat();
    let receive = [&[1, 0, 0, 0o31][..], b"x"].concat();
    vec![[print.clone(), receive, print].concat()]
}

/// Requests to a console: what is sent is printed, byte for byte, and nothing is written but what was typed.
pub fn console(bytes: &[u8]) {
    let ring = Arc::new(Ring::create("fuzz", 4096).expect("memory"));
    let pattern = Some(LinePattern::new("init * reached"));
    let port =
        Arc::new(Port::new(ConsoleDevice::Pl011, Arc::clone(&ring), pattern).expect("eventfds"));
    let device = VirtioConsole::new(Arc::clone(&port));
    port.open(true);
    CONSOLE_DRIVER.with_borrow_mut(|kept| {
        let driver = kept.get_or_insert_with(Driver::new);
        let counters = Counters::default();
        let mut printed = 0;
        for (request, cut, rooms) in requests(bytes) {
            driver.offer(request, cut, &rooms);
            let mut chain = driver.queue.pop().expect("a good chain").expect("it was offered");
            assert_eq!(device.print(&mut chain, &counters), Ok(0));
            printed += request.len() as u64;
            assert_eq!(ring.end(), printed);
            assert!(ring.tail().ends_with(request));
            assert_eq!(device.type_in(&mut chain, &counters), Ok(0), "nobody types");
            driver.queue.push(0, 0).expect("it is inside");
        }
        assert_eq!(counters.written.load(Ordering::Relaxed), printed);
    });
}

thread_local! {
    static CONSOLE_DRIVER: RefCell<Option<Driver>> = const { RefCell::new(None) };
}
