// SPDX-License-Identifier: Apache-2.0
//! Entropy devices.

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::Transport;

use crate::hal::Memory;
use crate::say;

/// Two draws that differ.
pub fn try_it<T: Transport>(index: usize, transport: T) {
    let mut entropy = match VirtIORng::<Memory, T>::new(transport) {
        Ok(entropy) => entropy,
        Err(error) => return say!("entropy {index}: {error}"),
    };
    let (mut first, mut second) = ([0u8; 32], [0u8; 32]);
    let lengths = (entropy.request_entropy(&mut first), entropy.request_entropy(&mut second));
    say!("entropy {index}: {lengths:?}, differ {}", first != second);
}
