// SPDX-License-Identifier: Apache-2.0
//! Who may start and who may stop, among all VMs. Pure.
//!
//! A VM starts when all of `start.after` are up, its property has its value, and no VM of higher
//! priority is on its way. It is stopped, when all are, after everything that was started after it.

use crate::config::Dependency;
use crate::diagnostic::kinds;
use crate::list::{self, Listed};
use crate::status::State;

kinds! {
    HELD: Error "start-held" in Start {
        "a VM is not started because another one hangs in the kernel",
        cause: "the resource manager does not answer: a start would hang as well",
        cure: "reboot; gunyahctl kill of the one that hangs lets the others try",
    }
}

/// What the others need to know of a VM.
#[derive(Debug, Clone)]
pub struct Peer<'a> {
    pub name: &'a str,
    pub state: State,
    /// Its own dependencies.
    pub after: &'a [Dependency],
    /// Higher starts earlier.
    pub priority: i32,
    /// It can say that it is ready.
    pub tells_ready: bool,
    /// It will do nothing by itself any more.
    pub at_rest: bool,
    /// It waits in the kernel for what does not come.
    pub is_stuck: bool,
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
    for wanted in peers[index].after {
        let name = wanted.vm.as_str();
        let Some(at) = peers.iter().position(|peer| peer.name == name) else {
            return Err(Unmet {
                reason: format!("for {name}, which no file describes"),
                stuck: true,
            });
        };
        if !is_met(&peers[at], wanted.ready) {
            return Err(unmet(peers, at, wanted.ready));
        }
    }
    Ok(())
}

fn is_met(peer: &Peer<'_>, ready: bool) -> bool {
    peer.state == State::Ready || (peer.state == State::Running && !ready)
}

fn unmet(peers: &[Peer<'_>], at: usize, ready: bool) -> Unmet {
    let Peer { name, state, .. } = &peers[at];
    let goal = if ready { "ready" } else { "running" };
    let never_ready = ready && !peers[at].tells_ready;
    let stuck = never_ready || !coming(peers)[at];
    let reason = match state {
        _ if never_ready => {
            format!("for {name} to be ready, which it never says: its file has no `ready`")
        }
        State::Waiting if stuck => {
            format!("for {name} to be {goal}; it waits itself, for what will not come")
        }
        State::Waiting => format!("for {name} to be {goal}; it waits itself"),
        _ if stuck => format!("for {name} to be {goal}; it is {state} and needs a start"),
        _ => format!("for {name} to be {goal}; it is {state}"),
    };
    Unmet { reason, stuck }
}

/// Which VMs are up or will be without anybody's doing. Those that wait for each other are not among
/// them: no round adds the first of them.
fn coming(peers: &[Peer<'_>]) -> Vec<bool> {
    let mut coming = vec![false; peers.len()];
    loop {
        let before = coming.clone();
        for (at, peer) in peers.iter().enumerate() {
            let comes = |wanted: &Dependency| {
                let found = peers.iter().position(|p| p.name == wanted.vm.as_str());
                found.is_some_and(|at| coming[at] && (!wanted.ready || peers[at].tells_ready))
            };
            coming[at] = match peer.state {
                State::Waiting => peer.after.iter().all(comes),
                _ => !peer.at_rest,
            };
        }
        if coming == before {
            return coming;
        }
    }
}

/// Whether it is the turn of the VM at `index`: `Err` says which VM of higher priority is starting.
pub fn turn(peers: &[Peer<'_>], index: usize) -> Result<(), String> {
    let own = peers[index].priority;
    let mut starting = peers.iter().filter(|peer| peer.state == State::Starting);
    match starting.find(|peer| peer.priority > own) {
        None => Ok(()),
        Some(Peer { name, priority, .. }) => {
            Err(format!("for its turn, after {name} (priority {priority})"))
        }
    }
}

/// Whether the kernel may be asked to start the VM at `index`: `Err` says which one waits in it for what
/// does not come.
pub fn kernel_answers(peers: &[Peer<'_>], index: usize) -> Result<(), String> {
    match peers.iter().enumerate().find(|(at, peer)| *at != index && peer.is_stuck) {
        None => Ok(()),
        Some((_, Peer { name, .. })) => Err(HELD.names(format!(
            "for {name}, which hangs in the kernel: the resource manager does not answer, and a start would hang as well"
        ))),
    }
}

/// Whether the VM at `index` may be stopped now, when all are: nothing alive depends on it.
pub fn may_stop(peers: &[Peer<'_>], index: usize) -> bool {
    let waits = |peer: &Peer<'_>, name: &str| peer.after.iter().any(|w| w.vm.as_str() == name);
    let own = &peers[index];
    // Two that name each other would wait for ever.
    let depends = |peer: &Peer<'_>| waits(peer, own.name) && !waits(own, peer.name);
    !peers.iter().any(|peer| peer.state.has_worker() && !peer.is_stuck && depends(peer))
}

/// The order in which VMs are looked at: higher priority first, then by name.
pub fn by_priority(peers: &[Peer<'_>]) -> Vec<usize> {
    let mut order = (0..peers.len()).listed();
    list::sort(&mut order, |&a, &b| {
        let (a, b) = (&peers[a], &peers[b]);
        (b.priority, a.name) < (a.priority, b.name)
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
                Dependency { vm: VmName::new(vm).unwrap(), ready }
            })
            .collect()
    }

    fn peer<'a>(name: &'a str, state: State, after: &'a [Dependency]) -> Peer<'a> {
        Peer {
            name,
            state,
            after,
            priority: 0,
            tells_ready: false,
            at_rest: !state.has_worker() && state != State::Waiting,
            is_stuck: false,
        }
    }

    #[test]
    fn a_running_dependency_is_met_and_a_failed_one_says_so() {
        let on_a = after(&["a"]);
        let mut peers = [peer("a", State::Running, &[]), peer("b", State::Waiting, &on_a)];
        assert_eq!(dependencies(&peers, 1), Ok(()));
        peers[0] = peer("a", State::Failed, &[]);
        let unmet = dependencies(&peers, 1).unwrap_err();
        assert!(unmet.stuck);
        assert_eq!(unmet.reason, "for a to be running; it is failed and needs a start");
        peers[0] = peer("a", State::Starting, &[]);
        assert!(!dependencies(&peers, 1).unwrap_err().stuck);
    }

    #[test]
    fn ready_is_more_than_running() {
        let on_a = after(&["a:ready"]);
        let mut peers = [peer("a", State::Running, &[]), peer("b", State::Waiting, &on_a)];
        assert!(dependencies(&peers, 1).unwrap_err().reason.contains("no `ready`"));
        peers[0].tells_ready = true;
        let unmet = dependencies(&peers, 1).unwrap_err();
        assert!(!unmet.stuck, "{unmet:?}");
        peers[0].state = State::Ready;
        assert_eq!(dependencies(&peers, 1), Ok(()));
    }

    #[test]
    fn who_waits_for_what_cannot_come_is_stuck() {
        let on = |name: &str| after(&[name]);
        let (on_a, on_b, on_c, on_d) = (on("a"), on("b"), on("c"), on("d"));
        let (on_x, on_g, on_h) = (on("x"), on("g"), on("h"));
        let peers = [
            // A circle, and one behind it.
            peer("a", State::Waiting, &on_b),
            peer("b", State::Waiting, &on_c),
            peer("c", State::Waiting, &on_a),
            peer("d", State::Waiting, &on_a),
            peer("e", State::Waiting, &on_d),
            peer("f", State::Waiting, &on_x),
            // A chain that will come.
            peer("g", State::Starting, &[]),
            peer("h", State::Waiting, &on_g),
            peer("i", State::Waiting, &on_h),
        ];
        for index in 0..5 {
            let unmet = dependencies(&peers, index).unwrap_err();
            assert!(unmet.stuck, "{unmet:?}");
            assert!(unmet.reason.ends_with("it waits itself, for what will not come"));
        }
        let unmet = dependencies(&peers, 5).unwrap_err();
        assert!(unmet.stuck && unmet.reason.contains("no file describes"));
        let unmet = dependencies(&peers, 8).unwrap_err();
        assert_eq!(unmet.reason, "for h to be running; it waits itself");
        assert!(!unmet.stuck);
    }

    #[test]
    fn higher_priority_goes_first() {
        let mut peers = [peer("low", State::Waiting, &[]), peer("high", State::Starting, &[])];
        peers[1].priority = 10;
        assert_eq!(by_priority(&peers), [1, 0]);
        assert_eq!(turn(&peers, 0), Err("for its turn, after high (priority 10)".to_owned()));
        peers[1].state = State::Running;
        assert_eq!(turn(&peers, 0), Ok(()));
        assert_eq!(kernel_answers(&peers, 0), Ok(()));
        peers[1] = Peer { is_stuck: true, ..peer("high", State::Stopping, &[]) };
        assert_eq!(kernel_answers(&peers, 1), Ok(()), "others are held back, not it itself");
        let why = kernel_answers(&peers, 0).unwrap_err();
        assert!(why.starts_with("for high, which hangs in the kernel"), "{why}");
        assert!(why.ends_with(" [start-held]"), "{why}");
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
        assert_eq!([0, 1, 2].map(|index| may_stop(&peers, index)), [false, false, true]);
        peers[2].state = State::Stopped;
        assert_eq!([0, 1, 2].map(|index| may_stop(&peers, index)), [false, true, true]);
        // One that does not come back from the kernel keeps nobody up.
        peers[2] = Peer { is_stuck: true, ..peer("c", State::Stopping, &on_b) };
        assert_eq!([0, 1, 2].map(|index| may_stop(&peers, index)), [false, true, true]);
    }
}
