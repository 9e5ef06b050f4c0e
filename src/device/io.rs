// SPDX-License-Identifier: Apache-2.0
//! What a started device works with.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::link::Link;
use super::{Chain, Fault, Queue, QueueLayout, QueueRules, Served};
use crate::memory::Window;

/// Features of rings (virtio 1.2, 6).
pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_IDX: u64 = 1 << 29;
/// All of them that our own queues have.
pub(super) const RINGS: u64 = INDIRECT | EVENT_IDX;

/// Answers one request; returns the bytes that it has written. Not generic: the loop around it is there once.
pub(super) type Answer<'a> = dyn FnMut(&mut Chain<'_>, &Link) -> Result<u32, Fault> + 'a;

/// What a started device works with: its queues, the features agreed on, the guest's memory, its interrupt.
pub struct Io {
    /// Features agreed on, those of rings and transports included.
    pub features: u64,
    /// By number, the queues that the driver has made ready and that the device serves.
    pub queues: Vec<Option<Queue>>,
    layouts: Vec<Option<QueueLayout>>,
    window: Window,
    link: Arc<Link>,
}

impl Io {
    /// With the queues that `serves` picks. The others are checked, too: vhost and backends take what they get.
    pub(super) fn new(
        features: u64,
        layouts: Vec<Option<QueueLayout>>,
        window: Window,
        link: Arc<Link>,
        serves: impl Fn(usize) -> bool,
    ) -> Result<Self, Fault> {
        let rules =
            QueueRules { indirect: features & INDIRECT != 0, event_idx: features & EVENT_IDX != 0 };
        let mut queues = Vec::new();
        for (number, (layout, most)) in layouts.iter().zip(&link.sizes).enumerate() {
            queues.push(match layout {
                Some(layout) if serves(number) => Some(Queue::new(&window, *most, *layout, rules)?),
                Some(layout) => {
                    layout.check(&window, *most)?;
                    None
                }
                None => None,
            });
        }
        Ok(Self { features, queues, layouts, window, link })
    }

    /// The guest's memory, as far as devices reach it.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The same, and its link, for who has its queues in hand.
    pub(super) fn memory_and_link(&self) -> (Window, Arc<Link>) {
        (self.window.clone(), Arc::clone(&self.link))
    }

    /// Where the driver has put a queue that it has made ready.
    pub fn layout(&self, queue: usize) -> Option<QueueLayout> {
        self.layouts.get(queue).copied().flatten()
    }

    /// The eventfd that the driver kicks a queue by, for vhost.
    pub fn kick_fd(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.link.kick(queue).map(AsFd::as_fd)
    }

    /// The eventfd that interrupts the driver, for vhost.
    pub fn interrupt_fd(&self) -> BorrowedFd<'_> {
        self.link.line()
    }

    /// Its counters, and where its warnings go.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Tells the driver of requests that were answered.
    pub fn interrupt(&self) {
        self.link.interrupt();
    }

    /// Changes the configuration space and tells the driver.
    pub fn configure(&self, offset: usize, bytes: &[u8]) {
        self.link.configure(offset, bytes);
    }

    /// Answers a turn of a queue's requests: `answer` does one and returns the bytes that it has written.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn serve(&mut self, queue: usize, answer: &mut Answer<'_>) -> Result<Served, Fault> {
        self.serve_while(queue, &|| true, answer)
    }

    /// The same while there is something to answer `with`; then no kicks are wanted.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn serve_while(
        &mut self,
        queue: usize,
        with: &dyn Fn() -> bool,
        answer: &mut Answer<'_>,
    ) -> Result<Served, Fault> {
        let Self { queues, link, .. } = self;
        let Some(ring) = queues.get_mut(queue).and_then(Option::as_mut) else {
            return Ok(Served::All);
        };
        let turn = link.sizes.get(queue).copied().unwrap_or(0);
        ring.want_no_kicks()?;
        for _ in 0..turn {
            if !with() {
                return Ok(Served::All);
            }
            let Some(mut chain) = ring.pop()? else {
                if ring.want_kicks()? {
                    return Ok(Served::More);
                }
                return Ok(Served::All);
            };
            let head = chain.head;
            let written = answer(&mut chain, link)?;
            ring.push(head, written)?;
            count(&link.counters().requests, 1);
            if ring.must_interrupt()? {
                link.interrupt();
            }
        }
        Ok(Served::More)
    }
}

/// Counts up.
pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
