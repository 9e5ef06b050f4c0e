// SPDX-License-Identifier: Apache-2.0
//! The power key in a tree: an interrupt that the driver `gpio-keys` takes for a key
//! (Documentation/devicetree/bindings/input/gpio-keys.yaml). No GPIO controller is needed for that: where a
//! key has no `gpios`, its interrupt is the press, and the driver releases it by itself.

use crate::list::Listed;
use crate::plan::PowerKey;

use super::complete::free_name;
use super::devices::EDGE_RISING;
use super::lookup::spi;
use super::property::NodeAt;
use super::tree::{Node, Tree};

const MODEL: &str = "gpio-keys";
/// Linux's KEY_POWER (input-event-codes.h).
const KEY_POWER: u32 = 116;

/// Number and trigger of its interrupt, which nobody lowers: an edge, and so is the irqfd.
pub(super) fn interrupt(key: PowerKey) -> (u32, u32) {
    (key.interrupt, EDGE_RISING)
}

/// The doorbell of the power key.
pub(super) fn doorbell_vdevice(name: &str, key: PowerKey) -> Node {
    super::console::doorbell_node(name, key.label, [0, key.interrupt, EDGE_RISING])
}

/// The node of the key.
pub(super) fn node(tree: &Tree, key: PowerKey) -> Option<NodeAt<'_>> {
    let walk = tree.walk().into_iter().filter(|at| at.is_compatible(MODEL));
    let keys = walk.flat_map(|at| at.children().listed());
    let mut keys = keys.filter(|at| at.u32("linux,code") == Some(KEY_POWER) && !at.has("gpios"));
    keys.find(|at| spi(at) == Some(interrupt(key)))
}

/// Adds the key, if it is not there.
pub(super) fn complete(tree: &mut Tree, key: PowerKey) {
    if node(tree, key).is_some() {
        return;
    }
    let name = free_name(MODEL, &|name| tree.root.child(name).is_some());
    let keys = tree.root.ensure_child(&name);
    keys.set_str("compatible", MODEL);
    keys.ensure_child("power-key")
        .set_str("label", "power")
        .set_u32("linux,code", KEY_POWER)
        .set_cells("interrupts", &[0, key.interrupt, EDGE_RISING])
        .set_empty("wakeup-source");
}
