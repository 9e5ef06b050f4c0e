// SPDX-License-Identifier: Apache-2.0
//! What goes over a console's socket once it is open: towards the guest plain bytes, from the guest
//! frames, so that what is said about the console never mixes with what the guest says.
//!
//! A frame: a byte of kind, two bytes of length (little endian), and so many bytes.

use std::fmt;

/// Largest payload of a frame in bytes.
pub const MAX_PAYLOAD: usize = 4096;

/// What a frame carries; the number is its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest's output.
    Output = b'o',
    /// A word about the console, for a person: UTF-8, no line end.
    Notice = b'n',
    /// What the client sends is typed from here on. The first word of every console is this or
    /// [`Kind::ReadOnly`]. The payload is a notice, or empty.
    Keyboard = b'k',
    /// What the client sends is thrown away, and why: a notice.
    ReadOnly = b'r',
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        let kinds = [Self::Output, Self::Notice, Self::Keyboard, Self::ReadOnly];
        kinds.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// Adds a frame to `out`; what is over [`MAX_PAYLOAD`] is cut.
pub fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let len = u16::try_from(payload.len()).unwrap_or(0);
    out.push(kind as u8);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Bytes that are no frame.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side does not speak the console's protocol (byte {0:#04x} where a frame begins)"
)]
pub struct NotAFrame(pub u8);

// An io::Error of it takes this along, and a derived one is larger.
impl fmt::Debug for NotAFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes to frames.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes `bytes` and gives every frame that they complete to `frame`.
    ///
    /// # Errors
    /// Bytes that cannot be a frame; there is no going on after it.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut frame: impl FnMut(Kind, &[u8]),
    ) -> Result<(), NotAFrame> {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        while let [code, low, high, payload @ ..] = rest {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            let kind =
                Kind::from_code(*code).filter(|_| len <= MAX_PAYLOAD).ok_or(NotAFrame(*code))?;
            let Some((payload, after)) = payload.split_at_checked(len) else {
                break;
            };
            frame(kind, payload);
            rest = after;
        }
        let used = self.pending.len() - rest.len();
        self.pending.drain(..used);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        encode(Kind::Output, b"hello", &mut bytes);
        encode(Kind::Notice, b"", &mut bytes);
        encode(Kind::Output, &[7; 5000], &mut bytes);
        for size in [1, 2, 3, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.feed(piece, |kind, payload| frames.push((kind, payload.to_vec()))).unwrap();
            }
            assert_eq!(
                frames,
                [
                    (Kind::Output, b"hello".to_vec()),
                    (Kind::Notice, Vec::new()),
                    (Kind::Output, vec![7; MAX_PAYLOAD])
                ]
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let mut decoder = Decoder::default();
        let answer = decoder.feed(b"{\"error\"}", |_, _| panic!("no frame"));
        assert_eq!(answer, Err(NotAFrame(b'{')));
        let answer = Decoder::default().feed(b"o\xff\xff", |_, _| panic!("too long"));
        assert_eq!(answer, Err(NotAFrame(b'o')));
    }
}
