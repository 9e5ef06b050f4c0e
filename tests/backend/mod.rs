// SPDX-License-Identifier: Apache-2.0
//! A vhost-user backend of the crate of that name: an entropy device whose bytes are known.
#![allow(dead_code)] // Each test file uses its part.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, RwLock};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::Listener;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier,
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

struct Entropy {
    memory: Option<Memory>,
    event_idx: bool,
    /// Requests that it still answers, and what the next byte is.
    answers: usize,
    next: u8,
    /// Told when there is a request that it does not answer any more.
    refused: Sender<()>,
}

impl VhostUserBackendMut for Entropy {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        // Indirect descriptors, event_idx, version 1, features of the protocol.
        1 << 28 | 1 << 29 | 1 << 30 | 1 << 32
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG
    }

    fn set_event_idx(&mut self, enabled: bool) {
        self.event_idx = enabled;
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    // Without one its threads never end.
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        _: u16,
        _: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> io::Result<()> {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut vring = vrings[0].get_mut();
        if self.answers == 0 {
            let _ = self.refused.send(());
            return Ok(());
        }
        let chains: Vec<_> = vring.get_queue_mut().iter(memory.clone()).unwrap().collect();
        for chain in chains {
            let head = chain.head_index();
            let mut len = 0;
            for descriptor in chain.writable() {
                let bytes = vec![self.next; descriptor.len() as usize];
                memory.write_slice(&bytes, descriptor.addr()).unwrap();
                len += descriptor.len();
            }
            self.next += 1;
            self.answers -= 1;
            vring.add_used(head, len).unwrap();
            vring.signal_used_queue().unwrap();
        }
        Ok(())
    }
}

/// A backend that runs.
pub struct Backend {
    daemon: VhostUserDaemon<Arc<RwLock<Entropy>>>,
    pub refused: Receiver<()>,
}

impl Backend {
    /// Listens on `socket`, and once somebody has come answers so many requests, the first with bytes `first`.
    /// It comes by the channel then.
    pub fn listen(socket: &Path, answers: usize, first: u8) -> Receiver<Self> {
        let mut listener = Listener::new(socket, true).unwrap();
        let (come, backend) = mpsc::channel();
        std::thread::spawn(move || {
            let (sender, refused) = mpsc::channel();
            let (memory, event_idx) = (None, false);
            let entropy = Entropy { memory, event_idx, answers, next: first, refused: sender };
            let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
            let entropy = Arc::new(RwLock::new(entropy));
            let mut daemon = VhostUserDaemon::new("entropy".into(), entropy, memory).unwrap();
            daemon.start(&mut listener).unwrap();
            let _ = come.send(Self { daemon, refused });
        });
        backend
    }

    /// It hangs up.
    pub fn end(mut self) {
        self.daemon.request_shutdown();
        let _ = self.daemon.wait();
    }
}
