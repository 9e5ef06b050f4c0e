// SPDX-License-Identifier: Apache-2.0
//! What several files must keep together: each name once, and nobody waits for what never comes. Held
//! against all that could be read, so that a mistake in a file hides none of these.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::nearest;
use super::partial::Partial;
use super::problem::Problem;
use super::set::ConfigFile;
use super::types::{Dependency, VmName};

/// The files of a set, and what could be read of each.
pub(super) struct Files<'a> {
    pub files: &'a mut [ConfigFile],
    pub partial: &'a mut [Partial],
}

impl Files<'_> {
    fn each(&self) -> impl Iterator<Item = (usize, &VmName, &Partial)> {
        let files = self.files.iter().zip(self.partial.iter());
        files
            .enumerate()
            .map(|(index, (file, partial))| (index, &file.vm, partial))
    }

    fn dependencies(&self) -> impl Iterator<Item = (usize, &str, &Dependency)> {
        self.each().flat_map(|(index, _, partial)| {
            let after = partial.after.iter();
            after.map(move |(key, dependency)| (index, key.as_str(), dependency))
        })
    }

    fn problem(&self, index: usize, key: &str, message: String) -> Problem {
        Problem {
            place: self.partial[index].places.of(key),
            key: key.to_owned(),
            ..Problem::of_file(&self.files[index].path, message)
        }
    }

    fn refuse(&mut self, problems: Vec<(usize, Problem)>) {
        for (index, problem) in problems {
            add(
                &mut self.files[index].config,
                &mut self.partial[index],
                problem,
            );
        }
    }

    /// Every VM that another waits for has a file. Not so if the files given are not `whole`.
    pub fn refuse_unknown(&mut self, whole: bool) {
        if !whole {
            return;
        }
        let names: BTreeSet<&VmName> = self.files.iter().map(|file| &file.vm).collect();
        let mut problems = Vec::new();
        for (file, key, dependency) in self.dependencies() {
            if names.contains(&dependency.vm) {
                continue;
            }
            let message = format!("waits for \"{}\", which no file describes", dependency.vm);
            let mut problem = self.problem(file, key, message);
            let known = names.iter().map(|name| name.as_str());
            if let Some(near) = nearest(dependency.vm.as_str(), known) {
                problem = problem.hint(format!("did you mean \"{near}\"?"));
            }
            problems.push((file, problem));
        }
        self.refuse(problems);
    }

    /// Who waits for `x:ready` would wait for ever if nothing ever made x ready.
    pub fn refuse_unready(&mut self) {
        let unready: BTreeSet<&VmName> = self
            .each()
            .filter(|(_, _, partial)| partial.is_unready())
            .map(|(_, vm, _)| vm)
            .collect();
        let mut problems = Vec::new();
        for (file, key, dependency) in self.dependencies() {
            if dependency.ready && unready.contains(&dependency.vm) {
                let vm = &dependency.vm;
                let message = format!("waits for {vm} to be ready, and {vm} has no `ready`");
                let hint = format!("give {vm} a `ready`, or wait for \"{vm}\" to run");
                problems.push((file, self.problem(file, key, message).hint(hint)));
            }
        }
        self.refuse(problems);
    }

    /// Nobody waits for itself by way of others.
    pub fn refuse_cycles(&mut self) {
        let waits: BTreeMap<&VmName, Vec<&VmName>> = self
            .each()
            .map(|(_, vm, partial)| {
                // Who waits for itself at once is told by its own file's rules.
                let after = partial.after.iter().map(|(_, dependency)| &dependency.vm);
                (vm, after.filter(|other| *other != vm).collect())
            })
            .collect();
        let mut problems = Vec::new();
        for (file, vm, partial) in self.each() {
            let Some(cycle) = cycle(vm, &waits) else {
                continue;
            };
            let next = cycle.get(1).copied();
            let key = partial
                .after
                .iter()
                .find(|(_, dependency)| Some(&dependency.vm) == next)
                .map_or("start.after", |(key, _)| key);
            let names: Vec<&str> = cycle.iter().map(|name| name.as_str()).collect();
            let message = format!("these VMs wait for each other: {}", names.join(" -> "));
            problems.push((file, self.problem(file, key, message)));
        }
        self.refuse(problems);
    }
}

/// Adds a problem at its place. A config that was good so far is kept as what could be read.
pub(super) fn add(
    config: &mut Result<super::VmConfig, Vec<Problem>>,
    partial: &mut Partial,
    problem: Problem,
) {
    match config {
        Err(problems) => {
            let after = |other: &Problem| other.place > problem.place;
            let at = problems.iter().position(after).unwrap_or(problems.len());
            problems.insert(at, problem);
        }
        Ok(_) => {
            if let Ok(good) = std::mem::replace(config, Err(vec![problem])) {
                partial.config = Some(Box::new(good));
            }
        }
    }
}

/// The shortest way from `start` back to itself.
fn cycle<'a>(
    start: &'a VmName,
    waits: &BTreeMap<&'a VmName, Vec<&'a VmName>>,
) -> Option<Vec<&'a VmName>> {
    let mut came_from: BTreeMap<&VmName, &VmName> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(vm) = queue.pop_front() {
        for next in waits.get(vm).into_iter().flatten() {
            if *next == start {
                let mut way = vec![start, vm];
                // Only `start` itself came from nowhere.
                while let Some(before) = way.last().and_then(|last| came_from.get(last)) {
                    way.push(before);
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, vm);
                queue.push_back(next);
            }
        }
    }
    None
}
