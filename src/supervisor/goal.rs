// SPDX-License-Identifier: Apache-2.0
//! What a client waits for, until it is answered. Pure.

use crate::status::State;

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Running, or ready where the VM can say so.
    Up,
    /// Without a worker.
    Down,
}

impl Goal {
    /// Whether a VM that comes into `state` has reached it; `None` while that may still come.
    pub fn reached(self, state: State, tells_ready: bool) -> Option<bool> {
        match (self, state) {
            (_, State::Starting | State::Stopping) => None,
            (Goal::Up, State::Ready) => Some(true),
            (Goal::Up, State::Running) => (!tells_ready).then_some(true),
            (Goal::Up, State::Waiting) => None,
            (Goal::Up, _) => Some(false),
            (Goal::Down, State::Running | State::Ready) => None,
            // It was asked to start again in the meantime.
            (Goal::Down, State::Waiting) => Some(false),
            (Goal::Down, _) => Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_say_ready_is_up_when_it_says_so() {
        assert_eq!(Goal::Up.reached(State::Running, false), Some(true));
        assert_eq!(Goal::Up.reached(State::Running, true), None);
        assert_eq!(Goal::Up.reached(State::Ready, true), Some(true));
        assert_eq!(Goal::Up.reached(State::Failed, true), Some(false));
        assert_eq!(Goal::Down.reached(State::Waiting, true), Some(false));
    }
}
