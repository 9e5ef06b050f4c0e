// SPDX-License-Identifier: Apache-2.0
//! Who may start and who may stop, among all VMs. Pure.
//!
//! A VM starts when all of `start.after` are up, its property has its value, and no VM of higher
//! priority is on its way. It is stopped, when all are, after everything that was started after it.

use crate::config::{circle, Dependency};
use crate::status::State;

/// What the others need to know of a VM.
#[derive(Debug, Clone)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its state.
    pub state: State,
    /// Its own dependencies.
    pub after: &'a [Dependency],
    /// Higher starts earlier.
    pub priority: i32,
    /// It can say that it is ready.
    pub tells_ready: bool,
    /// It will do nothing by itself any more.
    pub at_rest: bool,
    /// It has a worker.
    pub alive: bool,
}

/// A dependency that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// For the VM's reason.
    pub reason: String,
    /// Waiting will not help: somebody has to do something.
    pub stuck: bool,
}

/// Whether all that the VM at `index` depends on is up.
pub fn dependencies(peers: &[Peer<'_>], index: usize) -> Result<(), Unmet> {
    let Some(own) = peers.get(index) else {
        return Ok(());
    };
    for wanted in own.after {
        let name = wanted.vm.as_str();
        let Some(peer) = peers.iter().find(|peer| peer.name == name) else {
            return Err(Unmet {
                reason: format!("for {name}, which no file describes"),
                stuck: true,
            });
        };
        let up = match peer.state {
            State::Ready => true,
            State::Running => !wanted.ready,
            _ => false,
        };
        if up {
            continue;
        }
        let after = |name: &str| {
            peers
                .iter()
                .find(|peer| peer.name == name)
                .map_or(&[][..], |peer| peer.after)
        };
        if let Some(circle) = circle(own.name, after) {
            return Err(Unmet {
                reason: format!("in a circle: {}", circle.join(" -> ")),
                stuck: true,
            });
        }
        return Err(unmet(peer, wanted.ready));
    }
    Ok(())
}

fn unmet(peer: &Peer<'_>, ready: bool) -> Unmet {
    let Peer { name, state, .. } = peer;
    let goal = if ready { "ready" } else { "running" };
    if ready && *state == State::Running && !peer.tells_ready {
        return Unmet {
            reason: format!("for {name} to be ready, which it never says: its file has no `ready`"),
            stuck: true,
        };
    }
    let stuck = peer.at_rest && *state != State::Waiting;
    let reason = match state {
        State::Waiting => format!("for {name} to be {goal}; it waits itself"),
        _ if stuck => format!("for {name} to be {goal}; it is {state} and needs a start"),
        _ => format!("for {name} to be {goal}; it is {state}"),
    };
    Unmet { reason, stuck }
}

/// Whether it is the turn of the VM at `index`: `Err` says which VM of higher priority is starting.
pub fn turn(peers: &[Peer<'_>], index: usize) -> Result<(), String> {
    let Some(own) = peers.get(index) else {
        return Ok(());
    };
    match peers
        .iter()
        .find(|peer| peer.priority > own.priority && peer.state == State::Starting)
    {
        Some(first) => Err(format!(
            "for its turn, after {} (priority {})",
            first.name, first.priority
        )),
        None => Ok(()),
    }
}

/// Whether the VM at `index` may be stopped now, when all are: nothing alive depends on it.
pub fn may_stop(peers: &[Peer<'_>], index: usize) -> bool {
    let Some(own) = peers.get(index) else {
        return true;
    };
    !peers.iter().any(|peer| {
        peer.alive
            && peer.name != own.name
            && peer.after.iter().any(|wanted| wanted.vm.as_str() == own.name)
            // Two that name each other would wait for ever.
            && !own.after.iter().any(|wanted| wanted.vm.as_str() == peer.name)
    })
}

/// The order in which VMs are looked at: higher priority first, then by name.
pub fn by_priority(peers: &[Peer<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..peers.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&peers[a], &peers[b]);
        b.priority.cmp(&a.priority).then_with(|| a.name.cmp(b.name))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmName;

    fn after(words: &[&str]) -> Vec<Dependency> {
        words
            .iter()
            .map(|word| {
                let (vm, ready) = match word.strip_suffix(":ready") {
                    Some(vm) => (vm, true),
                    None => (*word, false),
                };
                Dependency {
                    vm: VmName::new(vm).unwrap(),
                    ready,
                }
            })
            .collect()
    }

    fn peer<'a>(name: &'a str, state: State, after: &'a [Dependency]) -> Peer<'a> {
        let alive = matches!(
            state,
            State::Starting | State::Running | State::Ready | State::Stopping
        );
        Peer {
            name,
            state,
            after,
            priority: 0,
            tells_ready: false,
            at_rest: !alive && state != State::Waiting,
            alive,
        }
    }

    #[test]
    fn a_running_dependency_is_met_and_a_failed_one_says_so() {
        let on_a = after(&["a"]);
        let mut peers = [
            peer("a", State::Running, &[]),
            peer("b", State::Waiting, &on_a),
        ];
        assert_eq!(dependencies(&peers, 1), Ok(()));
        peers[0] = peer("a", State::Failed, &[]);
        let unmet = dependencies(&peers, 1).unwrap_err();
        assert!(unmet.stuck);
        assert_eq!(
            unmet.reason,
            "for a to be running; it is failed and needs a start"
        );
        peers[0] = peer("a", State::Starting, &[]);
        assert!(!dependencies(&peers, 1).unwrap_err().stuck);
    }

    #[test]
    fn ready_is_more_than_running() {
        let on_a = after(&["a:ready"]);
        let mut peers = [
            peer("a", State::Running, &[]),
            peer("b", State::Waiting, &on_a),
        ];
        assert!(dependencies(&peers, 1)
            .unwrap_err()
            .reason
            .contains("no `ready`"));
        peers[0].tells_ready = true;
        let unmet = dependencies(&peers, 1).unwrap_err();
        assert!(!unmet.stuck, "{unmet:?}");
        peers[0].state = State::Ready;
        assert_eq!(dependencies(&peers, 1), Ok(()));
    }

    #[test]
    fn unknown_names_and_circles_are_named() {
        let (on_b, on_c, on_a, on_x) = (after(&["b"]), after(&["c"]), after(&["a"]), after(&["x"]));
        let peers = [
            peer("a", State::Waiting, &on_b),
            peer("b", State::Waiting, &on_c),
            peer("c", State::Waiting, &on_a),
            peer("d", State::Waiting, &on_x),
            peer("e", State::Waiting, &on_a),
        ];
        let unmet = dependencies(&peers, 0).unwrap_err();
        assert_eq!(unmet.reason, "in a circle: a -> b -> c -> a");
        assert!(unmet.stuck);
        assert!(dependencies(&peers, 3)
            .unwrap_err()
            .reason
            .contains("no file describes"));
        // e only waits for somebody in a circle.
        assert_eq!(
            dependencies(&peers, 4).unwrap_err().reason,
            "for a to be running; it waits itself"
        );
    }

    #[test]
    fn higher_priority_goes_first() {
        let mut peers = [
            peer("low", State::Waiting, &[]),
            peer("high", State::Starting, &[]),
        ];
        peers[1].priority = 10;
        assert_eq!(by_priority(&peers), [1, 0]);
        assert_eq!(
            turn(&peers, 0),
            Err("for its turn, after high (priority 10)".to_owned())
        );
        peers[1].state = State::Running;
        assert_eq!(turn(&peers, 0), Ok(()));
    }

    #[test]
    fn what_others_need_is_stopped_last() {
        let on_a = after(&["a"]);
        let on_b = after(&["b"]);
        let mut peers = [
            peer("a", State::Running, &[]),
            peer("b", State::Running, &on_a),
            peer("c", State::Stopping, &on_b),
        ];
        assert_eq!(
            [0, 1, 2].map(|index| may_stop(&peers, index)),
            [false, false, true]
        );
        peers[2].alive = false;
        assert_eq!(
            [0, 1, 2].map(|index| may_stop(&peers, index)),
            [false, true, true]
        );
    }
}
