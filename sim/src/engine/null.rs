// SPDX-License-Identifier: Apache-2.0
//! The engine that runs nothing: a VM lives until a script or a test ends it.

use super::{Engine, EngineVm, Event, Events, StartVm};

/// Keeps the books only.
#[derive(Debug, Default)]
pub struct Null;

struct NullVm;

impl Engine for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn start(&mut self, _vm: StartVm, events: Events) -> Box<dyn EngineVm> {
        events.send(Event::Started);
        Box::new(NullVm)
    }
}

impl EngineVm for NullVm {
    fn stop(self: Box<Self>) {}
}
