// SPDX-License-Identifier: Apache-2.0

use super::*;

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
            ("interrupts", &cells([0, 5, 4])),
        ],
        vec![],
    );
    let shm = node(
        "shm-7",
        &[("vdevice-type", b"shm\0")],
        vec![node(
            "memory",
            &[("label", &cells([7])), ("base", &cells([0, 0xa000_0000]))],
            vec![],
        )],
    );
    node(
        "",
        &[
            ("#address-cells", &two),
            ("#size-cells", &two),
            ("interrupt-parent", &one),
        ],
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
            node("psci", &[("method", b"hvc\0")], vec![]),
            node("intc@3fff0000", &[("phandle", &one)], vec![]),
            node(
                "gunyah-vm-config",
                &[("image-name", b"lab-vm\0")],
                vec![
                    node(
                        "memory",
                        &[("#address-cells", &two), ("base-address", &base)],
                        vec![],
                    ),
                    node("interrupts", &[("config", &one)], vec![]),
                    node("vcpus", &[("affinity", b"proxy\0")], vec![]),
                    node("vdevices", &[], vec![bell, shm]),
                ],
            ),
        ],
    )
}

fn child<'a>(node: &'a mut Node, name: &str) -> &'a mut Node {
    node.children
        .iter_mut()
        .find(|child| child.name == name)
        .unwrap()
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
    match read(&root) {
        Err((errno, _)) => errno,
        Ok((guest, _)) => panic!("accepted: {guest:?}"),
    }
}

fn base_of(cells_of_base: [u32; 2]) -> Result<u64, Errno> {
    let mut root = accepted();
    let memory = child(config(&mut root), "memory");
    set(memory, "base-address", &cells(cells_of_base));
    read(&root)
        .map(|(guest, _)| guest.base_address)
        .map_err(|(errno, _)| errno)
}

#[test]
fn the_accepted_tree_is_understood() {
    let (guest, warnings) = read(&accepted()).unwrap();
    assert_eq!(guest.image_name, "lab-vm");
    assert_eq!(guest.base_address, 0x8000_0000);
    assert!(guest.proxy && guest.was_read);
    assert!(guest.has_vcpu(1) && !guest.has_vcpu(2));
    let bell = Doorbell {
        label: 5,
        interrupt: Some((0, 5)),
    };
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
    assert_eq!(hypervisor, Errno::ENODEV);
}

#[test]
fn a_memory_node_has_no_unit_address() {
    let memory = |name: &str| node(name, &[("device_type", b"memory\0")], vec![]);
    let refused = refusal_of(|root| root.children.push(memory("memory@80000000")));
    assert_eq!(refused, Errno::EINVAL);
    let mut root = accepted();
    root.children.push(memory("memory"));
    read(&root).unwrap();
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

#[test]
fn scheduling_is_proxy_or_by_a_map() {
    let neither = refusal_of(|root| remove(child(config(root), "vcpus"), "affinity"));
    assert_eq!(neither, Errno::EINVAL);
    let mut root = accepted();
    let vcpus = child(config(&mut root), "vcpus");
    remove(vcpus, "affinity");
    set(vcpus, "affinity-map", &cells([0]));
    assert!(!read(&root).unwrap().0.proxy);
}

#[test]
fn a_gic_is_found_by_parent_or_by_path() {
    let neither = refusal_of(|root| remove(root, "interrupt-parent"));
    assert_eq!(neither, Errno::ENODEV);
    let mut root = accepted();
    remove(&mut root, "interrupt-parent");
    let interrupts = child(config(&mut root), "interrupts");
    set(interrupts, "config", b"/intc@3fff0000\0");
    let (_, warnings) = read(&root).unwrap();
    assert!(warnings.is_empty());
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
    assert_eq!(base_of([0x10, 0]), Err(Errno::ENODEV));
}

#[test]
fn what_the_guest_will_miss_is_a_warning() {
    let mut root = accepted();
    root.children.retain(|node| node.name != "psci");
    let cpus = child(&mut root, "cpus");
    remove(child(cpus, "cpu@1"), "enable-method");
    let (guest, warnings) = read(&root).unwrap();
    assert_eq!(guest.cpus, 2);
    assert!(warnings.iter().any(|warning| warning.contains("psci")));
    assert!(warnings.iter().any(|warning| warning.starts_with("cpu@1")));
}
