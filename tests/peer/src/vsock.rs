// SPDX-License-Identifier: Apache-2.0
//! Socket devices.

use virtio_drivers::device::socket::{
    VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEventType, VMADDR_CID_HOST,
};
use virtio_drivers::transport::Transport;

use crate::hal::Memory;
use crate::{gic, say};

/// The port that it listens on, and that of the host that it calls.
const PORT: u32 = 9;
/// Its own port of such a call.
const CALLER: u32 = 10;

/// Sends everything back. `call` makes it call the host besides, and `end` is the last that it answers.
pub fn try_it<T: Transport>(index: usize, transport: T, irq: bool) {
    let socket = match VirtIOSocket::<Memory, T>::new(transport) {
        Ok(socket) => socket,
        Err(error) => return say!("vsock {index}: {error}"),
    };
    let mut sockets = VsockConnectionManager::new(socket);
    sockets.listen(PORT);
    say!("vsock {index}: CID {}", sockets.guest_cid());
    match serve(&mut sockets, irq) {
        Ok(()) => say!("vsock {index}: done"),
        Err(error) => say!("vsock {index}: {error}"),
    }
}

fn serve<T: Transport>(
    sockets: &mut VsockConnectionManager<Memory, T>,
    irq: bool,
) -> virtio_drivers::Result {
    let host = VsockAddr { cid: VMADDR_CID_HOST, port: PORT };
    loop {
        let seen = gic::taken();
        let Some(event) = sockets.poll()? else {
            if irq {
                gic::wait(seen);
            }
            continue;
        };
        let (from, port) = (event.source, event.destination.port);
        match event.event_type {
            VsockEventType::Connected => {
                sockets.send(host, CALLER, b"the guest calls")?;
                sockets.shutdown(host, CALLER)?;
            }
            VsockEventType::Received { .. } => {
                let mut text = [0; 512];
                let len = sockets.recv(from, port, &mut text)?;
                sockets.update_credit(from, port)?;
                sockets.send(from, port, &text[..len])?;
                match &text[..len] {
                    b"call" => sockets.connect(host, CALLER)?,
                    b"end" => return sockets.shutdown(from, port),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}
