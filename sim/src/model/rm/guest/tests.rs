// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::vm::Doorbell;

fn node(name: &str, properties: &[(&str, &[u8])], children: Vec<Node>) -> Node {
    Node {
        name: name.to_string(),
        properties: properties
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_vec()))
            .collect(),
        children,
    }
}

fn cells<const N: usize>(cells: [u32; N]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// As the old resource manager reads it, and the newer one.
const OLD: Reading = Reading { generation: Generation::Old, size: SIZE, cores: 8 };
const NEW: Reading = Reading { generation: Generation::New, ..OLD };

/// Bytes of main memory.
const SIZE: u64 = 64 << 20;

/// The tree that the real one took, without what does not matter to it.
fn accepted() -> Node {
    let one = cells([1]);
    let two = cells([2]);
    let zero = cells([0]);
    let base = cells([0, 0x8000_0000]);
    let bell = node(
        "bell-5",
        &[
            ("vdevice-type", b"doorbell\0"),
            ("label", &cells([5])),
            ("peer-default", &[]),
            ("interrupts", &cells([0, 5, 4])),
        ],
        vec![],
    );
    let shm = node(
        "shm-7",
        &[("vdevice-type", b"shm\0"), ("peer-default", &[])],
        vec![node("memory", &[("label", &cells([7])), ("base", &cells([0, 0xa000_0000]))], vec![])],
    );
    node(
        "",
        &[("#address-cells", &two), ("#size-cells", &two), ("interrupt-parent", &one)],
        vec![
            node("chosen", &[("bootargs", b"quiet\0")], vec![]),
            node(
                "cpus",
                &[("#address-cells", &one), ("#size-cells", &zero)],
                vec![
                    node("cpu@0", &[("device_type", b"cpu\0")], vec![]),
                    node(
                        "cpu@1",
                        &[("device_type", b"cpu\0"), ("enable-method", b"psci\0")],
                        vec![],
                    ),
                ],
            ),
            node("psci", &[("compatible", b"arm,psci-1.0\0")], vec![]),
            node(
                "intc@3fff0000",
                &[
                    ("compatible", b"arm,gic-v3\0"),
                    ("interrupt-controller", &[]),
                    ("#interrupt-cells", &cells([3])),
                    ("phandle", &one),
                ],
                vec![],
            ),
            node(
                "gunyah-vm-config",
                &[("image-name", b"lab-vm\0")],
                vec![
                    node("memory", &[("#address-cells", &two), ("base-address", &base)], vec![]),
                    node("interrupts", &[("config", &one)], vec![]),
                    node("vcpus", &[("affinity", b"proxy\0")], vec![]),
                    node("vdevices", &[], vec![bell, shm]),
                ],
            ),
        ],
    )
}

fn child<'a>(node: &'a mut Node, name: &str) -> &'a mut Node {
    node.children.iter_mut().find(|child| child.name == name).unwrap()
}

fn config(root: &mut Node) -> &mut Node {
    child(root, "gunyah-vm-config")
}

fn set(node: &mut Node, name: &str, value: &[u8]) {
    remove(node, name);
    node.properties.push((name.to_string(), value.to_vec()));
}

fn remove(node: &mut Node, name: &str) {
    node.properties.retain(|(have, _)| have != name);
}

fn refusal_of(change: impl FnOnce(&mut Node)) -> Errno {
    let mut root = accepted();
    change(&mut root);
    match read(&root, &OLD) {
        Err((errno, _)) => errno,
        Ok((guest, _)) => panic!("accepted: {guest:?}"),
    }
}

fn base_of(cells_of_base: [u32; 2]) -> Result<u64, Errno> {
    let mut root = accepted();
    let memory = child(config(&mut root), "memory");
    set(memory, "base-address", &cells(cells_of_base));
    read(&root, &OLD).map(|(guest, _)| guest.base_address).map_err(|(errno, _)| errno)
}

#[test]
fn the_accepted_tree_is_understood() {
    let (guest, warnings) = read(&accepted(), &OLD).unwrap();
    assert_eq!(guest.image_name, "lab-vm");
    assert_eq!(guest.base_address, 0x8000_0000);
    assert!(guest.proxy && guest.was_read);
    assert!(guest.has_vcpu(1) && !guest.has_vcpu(2));
    let bell = Doorbell { label: 5, interrupt: Some((0, 5)), level: true };
    assert_eq!(guest.doorbells, [bell]);
    assert_eq!(guest.shared_memory_base(7), Some(0xa000_0000));
    assert_eq!(guest.shared_memory_base(8), None);
    // Its interrupts/config is a phandle.
    assert_eq!(warnings, ["interrupts/config is not a path"]);
}

#[test]
fn cpus_first_make_the_base_address_unreadable() {
    let refused = refusal_of(|root| {
        let cpus = root.children.remove(1);
        root.children.insert(0, cpus);
    });
    assert_eq!(refused, Errno::ENODEV);
}

#[test]
fn chosen_is_wanted_and_hypervisor_is_not() {
    let without_chosen = refusal_of(|root| root.children[0].name = "psci2".to_string());
    assert_eq!(without_chosen, Errno::ENODEV);
    let hypervisor = refusal_of(|root| root.children.push(node("hypervisor", &[], vec![])));
    assert_eq!(hypervisor, Errno::EPERM);
}

#[test]
fn a_memory_node_has_no_unit_address() {
    let memory = |name: &str| node(name, &[("device_type", b"memory\0")], vec![]);
    let refused = refusal_of(|root| root.children.push(memory("memory@80000000")));
    assert_eq!(refused, Errno::EINVAL);
    let mut root = accepted();
    root.children.push(memory("memory"));
    read(&root, &OLD).unwrap();
}

#[test]
fn the_vm_config_has_all_its_parts() {
    let gone = |name: &'static str| {
        refusal_of(|root| config(root).children.retain(|node| node.name != name))
    };
    assert_eq!(gone("memory"), Errno::ENODEV);
    assert_eq!(gone("vcpus"), Errno::ENODEV);
    let no_config = refusal_of(|root| {
        root.children.retain(|node| node.name != "gunyah-vm-config");
    });
    assert_eq!(no_config, Errno::ENODEV);
    let no_name = refusal_of(|root| remove(config(root), "image-name"));
    assert_eq!(no_name, Errno::EINVAL);
    let long_name = [[b'x'; 80].as_slice(), b"\0"].concat();
    let too_long = refusal_of(|root| set(config(root), "image-name", &long_name));
    assert_eq!(too_long, Errno::EINVAL);
}

/// Makes it a VM that the hypervisor schedules, as the real one took it.
fn by_the_hypervisor(root: &mut Node) {
    let vcpus = child(config(root), "vcpus");
    remove(vcpus, "affinity");
    set(vcpus, "affinity-map", &cells([0, 1]));
    set(vcpus, "sched-priority", &cells([u32::MAX]));
    set(vcpus, "sched-timeslice", &cells([2000]));
    for cpu in &mut child(root, "cpus").children {
        set(cpu, "cpu-idle-states", &[]);
    }
}

#[test]
fn scheduling_is_proxy_or_by_a_map() {
    let neither = refusal_of(|root| remove(child(config(root), "vcpus"), "affinity"));
    assert_eq!(neither, Errno::EINVAL);
    let mut root = accepted();
    by_the_hypervisor(&mut root);
    assert!(!read(&root, &OLD).unwrap().0.proxy);
    for (name, value, errno) in [
        ("affinity-map", 0, Errno::EINVAL),
        ("sched-priority", 1, Errno::ENODEV),
        ("sched-timeslice", 99, Errno::ENODEV),
    ] {
        let refused = refusal_of(|root| {
            by_the_hypervisor(root);
            set(child(config(root), "vcpus"), name, &cells([value]));
        });
        assert_eq!(refused, errno, "{name}");
    }
}

#[test]
fn psci_of_a_hypervisor_scheduled_vm_wants_idle_states_everywhere() {
    let without = |cpu: &'static str| {
        move |root: &mut Node| {
            by_the_hypervisor(root);
            remove(child(child(root, "cpus"), cpu), "cpu-idle-states");
        }
    };
    assert_eq!(refusal_of(without("cpu@0")), Errno::EINVAL);
    assert_eq!(refusal_of(without("cpu@1")), Errno::EINVAL);
    // The enable-method alone means PSCI as well, and so does one CPU's idle state.
    let by_method = refusal_of(|root| {
        by_the_hypervisor(root);
        root.children.retain(|node| node.name != "psci");
        for cpu in &mut child(root, "cpus").children {
            remove(cpu, "cpu-idle-states");
        }
    });
    assert_eq!(by_method, Errno::EINVAL);
    // Without any PSCI nobody asks for them, nor where VCPU_RUN schedules.
    let mut root = accepted();
    by_the_hypervisor(&mut root);
    root.children.retain(|node| node.name != "psci");
    for cpu in &mut child(&mut root, "cpus").children {
        remove(cpu, "cpu-idle-states");
        set(cpu, "enable-method", b"qcom,gunyah-hvc\0");
    }
    read(&root, &OLD).unwrap();
}

#[test]
fn a_secondary_cpu_says_how_it_is_started() {
    let second = |root: &mut Node, change: &dyn Fn(&mut Node)| {
        change(child(child(root, "cpus"), "cpu@1"));
    };
    let without = refusal_of(|root| second(root, &|cpu| remove(cpu, "enable-method")));
    assert_eq!(without, Errno::EINVAL);
    let unknown =
        refusal_of(|root| second(root, &|cpu| set(cpu, "enable-method", b"spin-table\0")));
    assert_eq!(unknown, Errno::EINVAL);
    // One in /cpus does not serve.
    let shared = refusal_of(|root| {
        set(child(root, "cpus"), "enable-method", b"psci\0");
        second(root, &|cpu| remove(cpu, "enable-method"));
    });
    assert_eq!(shared, Errno::ENODEV);
    // One that boots by itself needs none; the first may be off, and then it does.
    let mut root = accepted();
    second(&mut root, &|cpu| {
        remove(cpu, "enable-method");
        set(cpu, "status", b"okay\0");
    });
    assert_eq!(read(&root, &OLD).unwrap().0.cpus, 2);
    let first_off = refusal_of(|root| {
        set(child(child(root, "cpus"), "cpu@0"), "status", b"disabled\0");
    });
    assert_eq!(first_off, Errno::EINVAL);
}

/// The accepted tree with what the newer one demands besides.
fn accepted_by_the_newer() -> Node {
    let mut root = accepted();
    for (number, name) in (0..).zip(["cpu@0", "cpu@1"]) {
        set(child(child(&mut root, "cpus"), name), "reg", &cells([number]));
    }
    root
}

/// Its refusal of that tree with a change.
fn newer_refusal(change: impl FnOnce(&mut Node)) -> Errno {
    let mut root = accepted_by_the_newer();
    change(&mut root);
    read(&root, &NEW).unwrap_err().0
}

#[test]
fn the_newer_one_wants_less_of_the_tree_and_more_of_its_cpus() {
    let mut root = accepted_by_the_newer();
    root.remove_child("chosen");
    child(config(&mut root), "memory").remove("base-address");
    assert_eq!(read(&root, &NEW).unwrap().0.cpus, 2);

    let hypervisor = newer_refusal(|root| root.children.push(Node::new("hypervisor")));
    assert_eq!(hypervisor, Errno::EPERM);
    let bounded = newer_refusal(|root| {
        set(child(config(root), "memory"), "size-max", &cells([0, 4096]));
    });
    assert_eq!(bounded, Errno::EINVAL);
    let twice = newer_refusal(|root| {
        set(child(child(root, "cpus"), "cpu@1"), "reg", &cells([0]));
    });
    assert_eq!(twice, Errno::EINVAL);
    let without = newer_refusal(|root| remove(child(child(root, "cpus"), "cpu@1"), "reg"));
    assert_eq!(without, Errno::EINVAL);
    let ranges = newer_refusal(|root| set(child(root, "cpus"), "ranges", &[]));
    assert_eq!(ranges, Errno::EINVAL);
    let one_core = Reading { cores: 1, ..NEW };
    assert_eq!(read(&accepted_by_the_newer(), &one_core).unwrap_err().0, Errno::ENODEV);
}

#[test]
fn a_cpus_status_is_looked_at() {
    let status = |cpu: &'static str, status: &'static [u8]| {
        move |root: &mut Node| set(child(child(root, "cpus"), cpu), "status", status)
    };
    assert_eq!(refusal_of(status("cpu@1", b"ok\0")), Errno::EINVAL);
    let all_off = refusal_of(|root| {
        status("cpu@0", b"fail\0")(root);
        status("cpu@1", b"disabled\0")(root);
    });
    assert_eq!(all_off, Errno::EINVAL);
    let mut root = accepted();
    status("cpu@1", b"fail-broken\0")(&mut root);
    assert_eq!(read(&root, &OLD).unwrap().0.cpus, 1);
    assert_eq!(refusal_of(|root| root.children.retain(|node| node.name != "cpus")), Errno::EINVAL);
    let long = refusal_of(|root| {
        child(child(root, "cpus"), "cpu@1").name = format!("cpu{}@1", "-".repeat(120));
    });
    assert_eq!(long, Errno::EINVAL, "a path of 128 bytes and more");
}

#[test]
fn a_gic_is_found_by_parent_or_by_path() {
    let neither = refusal_of(|root| {
        remove(root, "interrupt-parent");
        remove(child(config(root), "interrupts"), "config");
    });
    assert_eq!(neither, Errno::ENODEV);
    // A phandle there is taken, with a warning.
    let mut root = accepted();
    remove(&mut root, "interrupt-parent");
    read(&root, &OLD).unwrap();
    let mut root = accepted();
    remove(&mut root, "interrupt-parent");
    let interrupts = child(config(&mut root), "interrupts");
    set(interrupts, "config", b"/intc@3fff0000\0");
    let (_, warnings) = read(&root, &OLD).unwrap();
    assert!(warnings.is_empty());
    // A path may go without the unit address, and must lead somewhere.
    set(child(config(&mut root), "interrupts"), "config", b"/intc\0");
    read(&root, &OLD).unwrap();
    let nowhere = refusal_of(|root| {
        set(child(config(root), "interrupts"), "config", b"/gic\0");
    });
    assert_eq!(nowhere, Errno::EINVAL);
}

#[test]
fn a_gic_is_a_gicv3() {
    type Spoil = fn(&mut Node);
    let spoils: [Spoil; 6] = [
        |gic| set(gic, "compatible", b"arm,cortex-a15-gic\0"),
        |gic| remove(gic, "interrupt-controller"),
        |gic| set(gic, "#interrupt-cells", &cells([2])),
        |gic| set(gic, "#redistributor-regions", &cells([2])),
        |gic| set(gic, "redistributor-stride", &cells([0, 0x1_0000])),
        |gic| set(gic, "reg", &cells([0, 0x3fff_0000, 0, 0x1_0000])),
    ];
    for spoil in spoils {
        let named = refusal_of(|root| spoil(child(root, "intc@3fff0000")));
        assert_eq!(named, Errno::EINVAL);
        // By the root alone it is passed over, and none is left.
        let by_the_root = refusal_of(|root| {
            spoil(child(root, "intc@3fff0000"));
            config(root).children.retain(|node| node.name != "interrupts");
        });
        assert_eq!(by_the_root, Errno::ENODEV);
    }
    let off_a_frame = refusal_of(|root| {
        let reg = [0, 0x3fff_1000, 0, 0x1_0000, 0, 0x3ffd_0000, 0, 0x2_0000];
        set(child(root, "intc@3fff0000"), "reg", &cells(reg));
    });
    assert_eq!(off_a_frame, Errno::EINVAL);
}

#[test]
fn vdevices_name_their_peer_and_a_memory_that_fits() {
    let bell = |change: &dyn Fn(&mut Node)| {
        refusal_of(|root| change(child(child(config(root), "vdevices"), "bell-5")))
    };
    assert_eq!(bell(&|bell| remove(bell, "peer-default")), Errno::EINVAL);
    let twice = refusal_of(|root| {
        let vdevices = child(config(root), "vdevices");
        let mut twin = vdevices.children[0].clone();
        twin.name = "bell-6".into();
        vdevices.children.push(twin);
    });
    assert_eq!(twice, Errno::ENODEV);
    let shm = |change: &dyn Fn(&mut Node)| {
        refusal_of(|root| change(child(child(config(root), "vdevices"), "shm-7")))
    };
    let changes: [fn(&mut Node); 6] = [
        |shm| remove(shm, "peer-default"),
        |shm| shm.children.clear(),
        |shm| remove(child(shm, "memory"), "label"),
        |shm| remove(child(shm, "memory"), "base"),
        |shm| set(child(shm, "memory"), "base", &cells([0xa000_0000])),
        |shm| set(child(shm, "memory"), "base", &cells([0, 0xa000_0800])),
    ];
    for change in changes {
        assert_eq!(shm(&change), Errno::EINVAL);
    }
}

#[test]
fn the_base_address_is_rounded_refused_or_taken() {
    assert_eq!(base_of([0, 0x8000_0000]), Ok(0x8000_0000));
    assert_eq!(base_of([0, 0x8010_0000]), Ok(0x8020_0000));
    assert_eq!(base_of([0, 0x8000_0800]), Err(Errno::EINVAL));
    assert_eq!(base_of([0, 0x3fe0_0000]), Err(Errno::ENODEV));
    assert_eq!(base_of([0, 0x4000_0000]), Err(Errno::ENODEV));
    assert_eq!(base_of([0, 0x4000_1000]), Ok(0x4020_0000));
    assert_eq!(base_of([0xf, 0x8000_0000]), Ok(0xf_8000_0000));
    // Its end counts too: 64 MiB that end at the limit, and 2 MiB beyond it.
    assert_eq!(base_of([0xf, 0xfc00_0000]), Ok(0xf_fc00_0000));
    assert_eq!(base_of([0xf, 0xfc20_0000]), Err(Errno::EINVAL));
    assert_eq!(base_of([0x10, 0]), Err(Errno::EINVAL));
}

#[test]
fn what_the_guest_will_miss_is_a_warning() {
    let mut root = accepted();
    root.children.retain(|node| node.name != "psci");
    let (guest, warnings) = read(&root, &OLD).unwrap();
    assert_eq!(guest.cpus, 2);
    assert!(warnings.iter().any(|warning| warning.contains("psci")));
}
