// SPDX-License-Identifier: Apache-2.0
//! The power key: its doorbell and its interrupt are its own.

use crate::dtb::build::Faults;
use crate::dtb::power_key::{interrupt, node};
use crate::dtb::tree::Tree;
use crate::list::Listed;
use crate::plan::PowerKey;

use super::devices;

pub(super) fn check(tree: &Tree, key: PowerKey, faults: &mut Faults<'_>) {
    let own = node(tree, key).into_iter().listed();
    devices::line(tree, "stop.power_key", key.label, interrupt(key), &own, faults);
}
