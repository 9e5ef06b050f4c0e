// SPDX-License-Identifier: Apache-2.0
//! The memory reservation block: `/memreserve/` in source.

use super::super::problem::DtbProblem;
use super::super::tree::Tree;
use super::Expected;

/// Reservations that cannot be written. One of each is told: a hostile tree could have thousands.
pub(super) fn check(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let end = |(base, size): (u64, u64)| base.checked_add(size);
    let beyond = tree
        .reservations
        .iter()
        .find(|reserved| end(**reserved).is_none());
    found.extend(beyond.map(|(base, size)| DtbProblem::ReservationRange {
        base: *base,
        size: *size,
    }));
    let mut sorted = tree.reservations.clone();
    sorted.sort_unstable();
    let overlap = sorted
        .windows(2)
        .find(|pair| end(pair[0]).is_some_and(|end| end > pair[1].0));
    found.extend(overlap.map(|pair| DtbProblem::ReservationsOverlap {
        low: pair[0],
        high: pair[1],
    }));
}

/// Reservations over what the plan puts into memory, one for each thing.
pub(super) fn against(tree: &Tree, expected: &Expected, found: &mut Vec<DtbProblem>) {
    for (what, range) in &expected.placed {
        let taken = tree
            .reservations
            .iter()
            .find(|(base, size)| *base < range.1 && range.0 < base.saturating_add(*size));
        found.extend(taken.map(|reserved| DtbProblem::ReservationTaken {
            reserved: *reserved,
            what,
            range: *range,
        }));
    }
}
