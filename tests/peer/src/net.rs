// SPDX-License-Identifier: Apache-2.0
//! Network devices.

use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use virtio_drivers::transport::Transport;

use crate::hal::Memory;
use crate::{gic, say};

/// Entries of a queue, and bytes of a buffer.
const ENTRIES: usize = 8;
const BUFFER: usize = 2048;
/// Bytes of Ethernet's, IPv4's and UDP's headers.
const HEADERS: usize = 14 + 20 + 8;

/// Sends every UDP packet back, until one says `end`.
pub fn try_it<T: Transport>(index: usize, transport: T, irq: bool) {
    let mut net = match VirtIONet::<Memory, T, ENTRIES>::new(transport, BUFFER) {
        Ok(net) => net,
        Err(error) => return say!("net {index}: {error}"),
    };
    let mac = net.mac_address();
    say!("net {index}: address {mac:02x?}");
    loop {
        let seen = gic::taken();
        let received = match net.receive() {
            Ok(received) => received,
            Err(virtio_drivers::Error::NotReady) => {
                if irq {
                    gic::wait(seen);
                    let _ = net.ack_interrupt();
                }
                continue;
            }
            Err(error) => return say!("net {index}: {error}"),
        };
        let packet = received.packet();
        // UDP over IPv4 to this address; the host's kernel sends more on its own.
        let mine = packet.len() >= HEADERS && packet[..6] == mac;
        if mine && packet[12..14] == [8, 0] && packet[23] == 17 {
            let len = 14 + usize::from(u16::from_be_bytes([packet[16], packet[17]]));
            let Some(packet) = packet.get(..len) else { return say!("net {index}: a cut packet") };
            let end = packet.ends_with(b"end");
            let mut answer = TxBuffer::from(packet);
            let bytes = answer.packet_mut();
            // Sums do not change where two parts of what they cover are swapped.
            for (from, to, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
                for at in 0..len {
                    bytes.swap(from + at, to + at);
                }
            }
            if let Err(error) = net.send(answer) {
                return say!("net {index}: sending: {error}");
            }
            if end {
                return say!("net {index}: done");
            }
        }
        if let Err(error) = net.recycle_rx_buffer(received) {
            return say!("net {index}: {error}");
        }
    }
}
