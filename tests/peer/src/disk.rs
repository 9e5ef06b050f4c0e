// SPDX-License-Identifier: Apache-2.0
//! Block devices.

use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk, SECTOR_SIZE};
use virtio_drivers::transport::Transport;

use crate::hal::Memory;
use crate::{fdt, gic, say};

/// Sectors of the long request.
const LONG: usize = 128;

static mut BUFFER: [u8; LONG * SECTOR_SIZE] = [0; LONG * SECTOR_SIZE];

/// Reads its first sector, writes others, flushes, reads them back.
pub fn try_it<T: Transport>(index: usize, transport: T, irq: bool) {
    let mut disk = match VirtIOBlk::<Memory, T>::new(transport) {
        Ok(disk) => disk,
        Err(error) => return say!("disk {index}: {error}"),
    };
    let (sectors, readonly) = (disk.capacity(), disk.readonly());
    let mut id = [0; 20];
    let length = disk.device_id(&mut id);
    say!("disk {index}: {sectors} sectors, readonly {readonly}, id {length:?} {}", fdt::text(&id));
    let mut sector = [0; SECTOR_SIZE];
    match disk.read_blocks(0, &mut sector) {
        Ok(()) => say!("disk {index}: begins with {}", fdt::text(&sector[..32])),
        Err(error) => return say!("disk {index}: reading: {error}"),
    }
    if irq {
        by_interrupt(index, &mut disk);
    }
    let end = disk.read_blocks(sectors as usize, &mut sector);
    say!("disk {index}: beyond its end {end:?}");
    sector.fill(0);
    sector[..19].copy_from_slice(b"written by the peer");
    say!("disk {index}: writing {:?}", disk.write_blocks(1, &sector));
    say!("disk {index}: flushing {:?}", disk.flush());
    if !readonly {
        long(index, &mut disk);
    }
}

/// Requests that sleep until they are answered.
fn by_interrupt<T: Transport>(index: usize, disk: &mut VirtIOBlk<Memory, T>) {
    let mut sector = [0; SECTOR_SIZE];
    for _ in 0..8 {
        let seen = gic::taken();
        let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
        // SAFETY: nothing is touched before it is complete.
        let token = unsafe { disk.read_blocks_nb(0, &mut request, &mut sector, &mut answer) };
        let Ok(token) = token else { return say!("disk {index}: no token") };
        gic::wait(seen);
        if !disk
            .ack_interrupt()
            .contains(virtio_drivers::transport::InterruptStatus::QUEUE_INTERRUPT)
        {
            return say!("disk {index}: an interrupt without a reason");
        }
        // SAFETY: the same buffers.
        let done = unsafe { disk.complete_read_blocks(token, &request, &mut sector, &mut answer) };
        if let Err(error) = done {
            return say!("disk {index}: by interrupt: {error}");
        }
    }
    say!("disk {index}: by interrupt {}", fdt::text(&sector[..32]));
}

/// One request of many sectors.
fn long<T: Transport>(index: usize, disk: &mut VirtIOBlk<Memory, T>) {
    // SAFETY: one CPU, and interrupts do not touch it.
    let buffer = unsafe { &mut *&raw mut BUFFER };
    for (at, byte) in buffer.iter_mut().enumerate() {
        *byte = (at / 7) as u8;
    }
    let written = disk.write_blocks(8, buffer);
    buffer.fill(0);
    let read = disk.read_blocks(8, buffer);
    let wrong = buffer.iter().enumerate().find(|(at, byte)| **byte != (at / 7) as u8);
    say!("disk {index}: long {written:?} {read:?}, wrong {wrong:?}");
}
