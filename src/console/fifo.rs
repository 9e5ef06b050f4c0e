// SPDX-License-Identifier: Apache-2.0
//! A queue of bytes in a fixed place: no allocation, whatever the guest does.

/// A queue of at most `N` bytes.
#[derive(Debug)]
pub struct Fifo<const N: usize> {
    bytes: [u8; N],
    head: usize,
    len: usize,
}

impl<const N: usize> Default for Fifo<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            head: 0,
            len: 0,
        }
    }
}

impl<const N: usize> Fifo<N> {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        N - self.len
    }

    /// Adds `byte`; false where it is full.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.len == N {
            return false;
        }
        self.bytes[(self.head + self.len) % N] = byte;
        self.len += 1;
        true
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes[self.head];
        self.head = (self.head + 1) % N;
        self.len -= 1;
        Some(byte)
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_across_the_wrap() {
        let mut fifo = Fifo::<3>::default();
        assert_eq!(fifo.pop(), None);
        for round in 0..10u8 {
            assert!(fifo.push(round) && fifo.push(round + 100));
            assert_eq!(fifo.room(), 1);
            assert_eq!(
                (fifo.pop(), fifo.pop(), fifo.pop()),
                (Some(round), Some(round + 100), None)
            );
        }
        assert!(fifo.push(1) && fifo.push(2) && fifo.push(3) && !fifo.push(4));
        fifo.clear();
        assert!(fifo.is_empty());
    }
}
