// SPDX-License-Identifier: Apache-2.0
//! What the resource manager wants of a guest's devicetree. Each is the good one with one change.

use crate::bench::Bench;
use crate::dialect::{GUNYAH, NEWER, PINNING};
use crate::guest::Guest;
use crate::rule::Rule;
use crate::tree::{self, Node};
use crate::verdict::{fails, skip, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::seen(
        PINNING,
        "tree.chosen-first",
        "With /cpus, of one address cell, before /chosen START is ENODEV: the root's first child \
         gives the cells by which base-address is read.",
        cpus_first,
    )
    .started(),
    Rule::seen(
        PINNING,
        "tree.chosen",
        "Without /chosen START is ENODEV.",
        no_chosen,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.hypervisor",
        "With a /hypervisor of its own START fails.",
        own_hypervisor,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.memory-name",
        "A node of device_type memory that is not named memory is EINVAL.",
        memory_with_address,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.memory",
        "A node of device_type memory that is named memory starts.",
        memory_without_address,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.vm-config",
        "Without /gunyah-vm-config START fails.",
        no_config,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.image-name",
        "Without an image-name START fails.",
        no_image_name,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.image-name-long",
        "A long image-name is EINVAL.",
        long_image_name,
    )
    .started(),
    Rule::seen(
        PINNING,
        "tree.base-address",
        "Without memory/base-address START fails.",
        no_base_address,
    )
    .started(),
    Rule::seen(
        PINNING,
        "tree.sizes",
        "START succeeds whatever size-min and size-max are.",
        sizes,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.vcpus",
        "Without vcpus START is ENODEV.",
        no_vcpus,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.affinity",
        "vcpus with neither affinity = \"proxy\" nor an affinity-map is EINVAL.",
        no_affinity,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.gic",
        "A GIC that neither the root's interrupt-parent nor interrupts/config leads to is ENODEV.",
        no_gic,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.gic-by-parent",
        "The root's interrupt-parent alone leads to it.",
        gic_by_parent,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.gic-by-path",
        "So does interrupts/config alone, where it is a path.",
        gic_by_path,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.gic-without-reg",
        "A GIC without reg starts: the resource manager fills it in.",
        gic_without_reg,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.psci",
        "Without a psci node START succeeds: it is the guest whose calls fail.",
        no_psci,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.enable-method",
        "A second CPU without enable-method is EINVAL.",
        no_enable_method,
    )
    .started(),
    Rule::seen(
        PINNING,
        "tree.enable-method-shared",
        "An enable-method in /cpus does not serve a CPU without one: ENODEV.",
        shared_enable_method,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.idle-states",
        "With PSCI and an affinity-map, a CPU without cpu-idle-states is EINVAL.",
        no_idle_states,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "tree.no-vdevices",
        "Without vdevices START succeeds.",
        no_vdevices,
    )
    .started(),
    Rule::inferred(
        GUNYAH,
        "tree.room",
        "Without room for what the resource manager adds START fails.",
        no_room,
    )
    .started(),
    Rule::inferred(
        NEWER,
        "tree.no-chosen-newer",
        "Without /chosen START succeeds.",
        no_chosen_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "tree.hypervisor-newer",
        "With a /hypervisor of its own START is EPERM.",
        own_hypervisor_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "tree.size-max-newer",
        "A size-max below the devicetree's range makes START fail.",
        size_max,
    )
    .started(),
    Rule::read(
        NEWER,
        "tree.cpus-newer",
        "CPUs of the same reg, or without one, make START fail.",
        cpus_reg,
    )
    .started(),
    Rule::read(
        NEWER,
        "tree.room-newer",
        "A devicetree that has more than 16 KiB with the overlay needs twice that as its range: else \
         ENODEV.",
        twice_the_room,
    )
    .started(),
];

fn no_chosen_newer(bench: &Bench) -> Found {
    taken(bench, |root| root.drop_child("chosen"))
}

fn own_hypervisor_newer(bench: &Bench) -> Found {
    refused(bench, &[libc::EPERM], |root| {
        root.children.push(Node::new("hypervisor"));
    })
}

fn size_max(bench: &Bench) -> Found {
    refused(bench, &[], |root| {
        let memory = tree::config(root).at("memory");
        memory.set("size-max", tree::address(4096));
    })
}

fn cpus_reg(bench: &Bench) -> Found {
    refused(bench, &[], |root| {
        let mut second = tree::cpu(1);
        second.set("reg", tree::cells(&[0]));
        root.at("cpus").children.push(second);
    })?;
    refused(bench, &[], |root| root.at("cpus/cpu@0").unset("reg"))
}

fn twice_the_room(bench: &Bench) -> Found {
    // 18 KiB in 32 KiB.
    refused(bench, &[libc::ENODEV], |root| {
        root.at("chosen").set("filler", vec![0; 18 << 10]);
    })
}

fn refused(bench: &Bench, wanted: &[i32], spoil: impl FnOnce(&mut Node)) -> Found {
    let mut guest = Guest::new(bench);
    spoil(&mut guest.tree);
    fails("START", guest.try_start(bench)?, wanted)
}

fn taken(bench: &Bench, change: impl FnOnce(&mut Node)) -> Found {
    let mut guest = Guest::new(bench);
    change(&mut guest.tree);
    succeeds("START", guest.try_start(bench)?).map(drop)
}

fn no_room(bench: &Bench) -> Found {
    let mut guest = Guest::new(bench);
    let blob = guest.tree.blob();
    let Ok(room) = usize::try_from(guest.dtb.1) else {
        return skip("the room has no size");
    };
    // The property's own head and name take some, too.
    let used = blob.map_or(room, |blob| blob.len() + 64);
    let filler = vec![0; room.saturating_sub(used)];
    guest.tree.at("chosen").set("filler", filler);
    fails("START", guest.try_start(bench)?, &[])
}

fn cpus_first(bench: &Bench) -> Found {
    refused(bench, &[libc::ENODEV], |root| root.put_first("cpus"))
}

fn no_chosen(bench: &Bench) -> Found {
    refused(bench, &[libc::ENODEV], |root| {
        root.drop_child("chosen");
        // Not /cpus first, which is another rule's.
        root.put_first(tree::GIC);
    })
}

fn own_hypervisor(bench: &Bench) -> Found {
    refused(bench, &[], |root| {
        root.children.push(Node::new("hypervisor"));
    })
}

fn memory_node(name: &str) -> Node {
    Node::new(name).with("device_type", tree::strings(&["memory"])).with(
        "reg",
        [crate::guest::BASE, crate::memory::pages(crate::guest::MAIN_PAGES)]
            .map(tree::address)
            .concat(),
    )
}

fn memory_with_address(bench: &Bench) -> Found {
    refused(bench, &[libc::EINVAL], |root| {
        root.children.push(memory_node("memory@80000000"));
    })
}

fn memory_without_address(bench: &Bench) -> Found {
    taken(bench, |root| root.children.push(memory_node("memory")))
}

fn no_config(bench: &Bench) -> Found {
    refused(bench, &[], |root| root.drop_child("gunyah-vm-config"))
}

fn no_image_name(bench: &Bench) -> Found {
    refused(bench, &[], |root| tree::config(root).unset("image-name"))
}

fn long_image_name(bench: &Bench) -> Found {
    refused(bench, &[libc::EINVAL], |root| {
        let name = "x".repeat(200);
        tree::config(root).set("image-name", tree::strings(&[&name]));
    })
}

fn no_base_address(bench: &Bench) -> Found {
    refused(bench, &[], |root| {
        tree::config(root).at("memory").unset("base-address");
    })
}

fn sizes(bench: &Bench) -> Found {
    taken(bench, |root| {
        let memory = tree::config(root).at("memory");
        memory.set("size-min", tree::address(1 << 40));
        memory.set("size-max", tree::address(1));
    })
}

fn no_vcpus(bench: &Bench) -> Found {
    refused(bench, &[libc::ENODEV], |root| {
        tree::config(root).drop_child("vcpus");
    })
}

fn no_affinity(bench: &Bench) -> Found {
    refused(bench, &[libc::EINVAL], |root| {
        tree::config(root).at("vcpus").unset("affinity");
    })
}

fn no_gic(bench: &Bench) -> Found {
    refused(bench, &[libc::ENODEV], |root| {
        root.unset("interrupt-parent");
        tree::config(root).drop_child("interrupts");
    })
}

fn gic_by_parent(bench: &Bench) -> Found {
    taken(bench, |root| tree::config(root).drop_child("interrupts"))
}

fn gic_by_path(bench: &Bench) -> Found {
    taken(bench, |root| {
        root.unset("interrupt-parent");
        let path = format!("/{}", tree::GIC);
        tree::config(root).at("interrupts").set("config", tree::strings(&[&path]));
    })
}

fn gic_without_reg(bench: &Bench) -> Found {
    taken(bench, |root| root.at(tree::GIC).unset("reg"))
}

fn no_psci(bench: &Bench) -> Found {
    taken(bench, |root| root.drop_child("psci"))
}

/// A second CPU that does not say how it is started.
fn second_cpu() -> Node {
    let mut second = tree::cpu(1);
    second.unset("enable-method");
    second
}

fn no_enable_method(bench: &Bench) -> Found {
    refused(bench, &[libc::EINVAL], |root| {
        root.at("cpus").children.push(second_cpu());
    })
}

fn shared_enable_method(bench: &Bench) -> Found {
    refused(bench, &[libc::ENODEV], |root| {
        let cpus = root.at("cpus");
        cpus.set("enable-method", tree::strings(&["psci"]));
        cpus.children.push(second_cpu());
    })
}

fn no_idle_states(bench: &Bench) -> Found {
    refused(bench, &[libc::EINVAL], |root| {
        tree::by_the_hypervisor(root, &[0]);
        root.at("cpus/cpu@0").unset("cpu-idle-states");
    })
}

fn no_vdevices(bench: &Bench) -> Found {
    taken(bench, |root| tree::config(root).drop_child("vdevices"))
}
