// SPDX-License-Identifier: Apache-2.0
//! Clients whose answer waits for a VM's state. Pure.

use crate::config::VmName;
use crate::status::State;

use super::clients::ClientId;

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

/// A client that waits for a VM.
#[derive(Debug)]
pub struct Waiter {
    pub client: ClientId,
    pub vm: VmName,
    pub goal: Goal,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: Vec<Waiter>,
}

impl Waiters {
    pub fn add(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Takes out those whose wait is over, each with whether its goal was reached. `reached` says that
    /// for the goals of those who wait for `vm`.
    pub fn take(
        &mut self,
        vm: &VmName,
        reached: impl Fn(Goal) -> Option<bool>,
    ) -> Vec<(ClientId, bool)> {
        let mut over = Vec::new();
        self.waiting.retain(|waiter| {
            let end = (waiter.vm == *vm).then(|| reached(waiter.goal)).flatten();
            over.extend(end.map(|reached| (waiter.client, reached)));
            end.is_none()
        });
        over
    }

    /// Forgets those who have gone.
    pub fn retain(&mut self, is_waiting: impl Fn(ClientId) -> bool) {
        self.waiting.retain(|waiter| is_waiting(waiter.client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waiter_is_told_once_and_only_of_its_vm() {
        let [a, b] = ["a", "b"].map(|name| VmName::new(name).unwrap());
        let mut waiters = Waiters::default();
        for (client, vm, goal) in [(1, &a, Goal::Up), (2, &a, Goal::Down), (3, &b, Goal::Up)] {
            waiters.add(Waiter { client, vm: vm.clone(), goal });
        }
        let mut comes = |vm, state| waiters.take(vm, |goal| goal.reached(state, false));
        assert_eq!(comes(&a, State::Starting), []);
        assert_eq!(comes(&a, State::Running), [(1, true)]);
        assert_eq!(comes(&a, State::Running), []);
        assert_eq!(comes(&b, State::Failed), [(3, false)]);
        assert_eq!(comes(&a, State::Stopped), [(2, true)]);
        waiters.add(Waiter { client: 4, vm: a.clone(), goal: Goal::Up });
        waiters.retain(|client| client != 4);
        assert!(waiters.waiting.is_empty());
    }

    #[test]
    fn who_can_say_ready_is_up_when_it_says_so() {
        assert_eq!(Goal::Up.reached(State::Running, true), None);
        assert_eq!(Goal::Up.reached(State::Ready, true), Some(true));
        assert_eq!(Goal::Down.reached(State::Waiting, true), Some(false));
    }
}
