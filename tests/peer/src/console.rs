// SPDX-License-Identifier: Apache-2.0
//! Virtio consoles.

use core::fmt::Write;

use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::Transport;

use crate::hal::Memory;
use crate::{gic, say};

/// Says a line, then echoes one that is typed.
pub fn try_it<T: Transport>(index: usize, transport: T, irq: bool) {
    let mut console = match VirtIOConsole::<Memory, T>::new(transport) {
        Ok(console) => console,
        Err(error) => return say!("console {index}: {error}"),
    };
    let _ = writeln!(console, "peer: console {index} speaks");
    let (mut line, mut len) = ([0u8; 64], 0);
    loop {
        let seen = gic::taken();
        match console.recv(true) {
            Ok(Some(b'\r')) => break,
            Ok(Some(byte)) if len < line.len() => {
                line[len] = byte;
                len += 1;
            }
            Ok(Some(_)) => {}
            Ok(None) if irq => {
                gic::wait(seen);
                let _ = console.ack_interrupt();
            }
            Ok(None) => {}
            Err(error) => return say!("console {index}: {error}"),
        }
    }
    let heard = core::str::from_utf8(&line[..len]).unwrap_or("?");
    let _ = writeln!(console, "peer: console {index} heard {heard}");
}
