// SPDX-License-Identifier: Apache-2.0
//! Files and devicetrees as people bring them: each is taken, or named for what it is.

use std::process::{Command, Stdio};

use gunyahd::check::{check, Options};
use gunyahd::config::load;
use gunyahd::dtb::{build, Node, Seeds, Tree};
use gunyahd::plan::Host;

use crate::Vendor;

/// `check` of a VM with this kernel: "" if it is taken, else the one problem.
fn kernel(vendor: &Vendor, name: &str, bytes: impl AsRef<[u8]>) -> String {
    vendor.file(&format!("vm/{name}"), bytes);
    vendor.file(
        "etc/a.json",
        format!(
            r#"{{ "name": "a", "memory": {{ "size": "64M" }}, "kernel": {{ "path": "/vm/{name}" }} }}"#
        ),
    );
    one_problem(vendor)
}

fn one_problem(vendor: &Vendor) -> String {
    let ran = vendor.check(&["etc/a.json"]);
    let problems = ran.problems();
    assert!(problems.len() <= 1, "{problems:#?}");
    assert_eq!(ran.code, i32::from(!problems.is_empty()), "{}", ran.stdout);
    problems.first().map_or(String::new(), |line| (*line).to_owned())
}

/// An arm64 Image of some pages, not all alike.
fn image() -> Vec<u8> {
    let mut image = crate::image(8 << 20);
    image.extend((0..5000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()));
    image
}

/// `input` through a tool; `None` where it is not installed.
fn through(tool: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{tool}");
    Some(output.stdout)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    through("gzip", &["-c"], bytes).unwrap()
}

/// An EFI zboot image as Linux's zboot-header.S lays it out.
fn zboot(compression: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[4..8].copy_from_slice(b"zimg");
    bytes[8..12].copy_from_slice(&4096u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes[24..24 + compression.len()].copy_from_slice(compression.as_bytes());
    // LINUX_PE_MAGIC, where an Image has its own.
    bytes[56..60].copy_from_slice(&0x8182_23cd_u32.to_le_bytes());
    bytes.extend(payload);
    bytes.extend([0; 512]);
    bytes
}

/// An Android boot image of version 3 or 4: a page of header, the kernel, a ramdisk.
fn boot(version: u32, kernel: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"ANDROID!");
    bytes[8..12].copy_from_slice(&u32::try_from(kernel.len()).unwrap().to_le_bytes());
    bytes[12..16].copy_from_slice(&100u32.to_le_bytes());
    bytes[40..44].copy_from_slice(&version.to_le_bytes());
    bytes.extend(kernel);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes.extend([1; 4096]);
    bytes
}

/// The same with an AVB footer, as `avbtool add_hash_footer` makes it for a partition.
fn signed(bytes: &[u8]) -> Vec<u8> {
    let mut signed = bytes.to_vec();
    signed.resize(bytes.len().next_multiple_of(4096) + (16 << 20), 0);
    signed.extend(b"AVBf\0\0\0\x01\0\0\0\0");
    signed.extend(u64::try_from(bytes.len()).unwrap().to_be_bytes());
    signed.resize(signed.len().next_multiple_of(64), 0);
    signed
}

/// A 64-bit AArch64 executable with one segment, as U-Boot's `u-boot`.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    bytes[24..32].copy_from_slice(&0x8000_0000u64.to_le_bytes());
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
    let header = &mut bytes[64..120];
    header[..4].copy_from_slice(&1u32.to_le_bytes());
    for (at, value) in [(8, 4096u64), (16, 0x8000_0000), (24, 0x8000_0000), (32, 4096), (40, 8192)]
    {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[test]
fn kernels_that_are_taken_as_they_are() {
    let vendor = Vendor::new();
    let image = image();
    // EDK2 and U-Boot for a kernel's place begin with the same header.
    let mut firmware = image.clone();
    firmware[..2].copy_from_slice(b"MZ");
    for (name, bytes) in [
        ("vmlinuz", image.clone()),
        ("Image.gz", gzip(&image)),
        ("QEMU_EFI.kernel.fd", firmware),
        ("u-boot.elf", elf()),
        ("Image.signed", signed(&image)),
        ("Image.gz.signed", signed(&gzip(&image))),
        ("vmlinuz.efi", zboot("gzip", &gzip(&image))),
        ("boot-v3.img", boot(3, &image)),
        ("boot-v4.img", boot(4, &image)),
        ("boot-gz.img", boot(4, &gzip(&image))),
        ("boot.img", signed(&boot(4, &gzip(&image)))),
    ] {
        assert_eq!(kernel(&vendor, name, bytes), "", "{name}");
    }
}

#[test]
fn kernels_that_are_named_with_what_to_do() {
    let vendor = Vendor::new();
    let mut edk2 = vec![0; 8192];
    // 'b' over the first page, then a volume.
    edk2[..4].copy_from_slice(&0x1400_0400u32.to_le_bytes());
    let mut volume = vec![0; 4096];
    volume[40..44].copy_from_slice(b"_FVH");
    let mut u_boot = vec![0; 4096];
    u_boot[..8].copy_from_slice(b"\x0a\0\0\x14\x1f\x20\x03\xd5");
    let lz4 = b"\x04\x22\x4d\x18\x64\x40\xa7\0\0\0\0".to_vec();
    for (name, bytes, kind, words) in [
        ("Image.lz4", lz4.clone(), "image-packed", "lz4 -dc < ./vm/Image.lz4 > Image"),
        ("legacy.lz4", b"\x02\x21\x4c\x18data".to_vec(), "image-packed", "lz4 -dc < "),
        ("Image.xz", b"\xfd7zXZ\0data".to_vec(), "image-packed", "xz -dc < "),
        ("Image.zst", b"\x28\xb5\x2f\xfddata".to_vec(), "image-packed", "zstd -dc < "),
        (
            "zboot.efi",
            zboot("zstd", &[7; 99]),
            "image-packed",
            "tail -c +4097 ./vm/zboot.efi | head -c 99 | zstd -dc",
        ),
        (
            "boot-lz4.img",
            boot(4, &lz4),
            "image-packed",
            "tail -c +4097 ./vm/boot-lz4.img | head -c 11 | lz4 -dc",
        ),
        ("vendor_boot.img", b"VNDRBOOT\x04\0\0\0".to_vec(), "image-container-empty", "vendor_boot"),
        ("init_boot.img", boot(4, b""), "image-container-empty", "without a kernel"),
        ("QEMU_EFI.fd", edk2, "image-no-header", "a branch over 0x1000 bytes"),
        ("FVMAIN.fv", volume, "image-no-header", "an EDK2 firmware volume"),
        ("u-boot.bin", u_boot, "image-no-header", "give it as ELF"),
        ("image.fit", b"\xd0\x0d\xfe\xeddata".to_vec(), "image-other-file", "dumpimage"),
        ("uImage", b"\x27\x05\x19\x56data".to_vec(), "image-other-file", "dumpimage"),
        ("bzImage", b"MZ\xea\x07data".to_vec(), "image-other-file", "an EFI program"),
        ("sparse.img", b"\x3a\xff\x26\xeddata".to_vec(), "image-other-file", "simg2img"),
    ] {
        let problem = kernel(&vendor, name, bytes);
        let begin = format!("etc/a.json:1:57: kernel.path: kernel ./vm/{name}: it is ");
        assert!(problem.starts_with(&begin), "{name}: {problem}");
        assert!(problem.contains(words), "{name}: {problem}");
        assert!(problem.ends_with(&format!("[{kind}]")), "{name}: {problem}");
    }
    // Whatever kernel.format says.
    vendor.file(
        "etc/a.json",
        r#"{ "name": "a", "memory": { "size": "64M" },
            "kernel": { "path": "/vm/Image.lz4", "format": "image" } }"#,
    );
    assert!(one_problem(&vendor).contains("it is an lz4 frame"));
}

/// The command in a cure makes a kernel that is taken.
#[test]
fn the_command_that_unpacks_a_kernel_unpacks_it() {
    let vendor = Vendor::new();
    let image = image();
    for (tool, arguments) in [("lz4", ["-c", "-9"]), ("zstd", ["-c", "-q"]), ("xz", ["-c", "-1"])] {
        let Some(packed) = through(tool, &arguments, &image) else {
            eprintln!("{tool} is not installed: not tried");
            continue;
        };
        for (name, bytes) in [("packed", packed.clone()), ("boot.img", signed(&boot(4, &packed)))] {
            let problem = kernel(&vendor, name, bytes);
            let (_, command) = problem.split_once("cure: unpack it: ").unwrap();
            let (command, _) = command.rsplit_once(" [").unwrap();
            let ran = Command::new("sh").current_dir(&vendor.0).args(["-c", command]).status();
            assert!(ran.unwrap().success(), "{command}");
            let unpacked = std::fs::read(vendor.0.join("Image")).unwrap();
            assert_eq!(unpacked, image, "{command}");
            assert_eq!(kernel(&vendor, "unpacked", unpacked), "");
        }
    }
}

#[test]
fn an_initrd_in_an_android_image_is_named() {
    let vendor = Vendor::new();
    for (magic, words) in
        [("ANDROID!", "an Android boot image"), ("VNDRBOOT", "an Android vendor_boot image")]
    {
        vendor.file("vm/initrd", format!("{magic}…"));
        vendor.vm("a", "\"initrd\": { \"path\": \"/vm/initrd\" }");
        let problem = one_problem(&vendor);
        assert!(
            problem.contains(words) && problem.contains("[image-initrd-container]"),
            "{problem}"
        );
    }
}

#[test]
fn files_of_other_launchers_are_named_in_one_line() {
    let vendor = Vendor::new();
    let problem = |text: &str| {
        vendor.file("etc/a.json", text);
        one_problem(&vendor)
    };
    let qvirt = problem(
        r#"{ "qvirtmgr": { "vm_config": [ { "name": "trustedvm", "enable": true, "boot_ops": "start",
            "pre_boot_ops": "none", "autostart": true, "major_number": 1, "minor_number": 0,
            "loader_type": "legacy", "restart_level": "system" } ] } }"#,
    );
    assert!(qvirt.contains("is qvirtservice's file"), "{qvirt}");
    assert!(qvirt.ends_with("[config-foreign]"), "{qvirt}");
    let avf = problem(
        r#"{ "name": "debian", "kernel": "/data/local/tmp/Image", "initrd": "/data/local/tmp/initrd",
            "params": "root=/dev/vda console=hvc0", "disks": [ { "image": "/data/a", "writable": true } ],
            "protected": false, "cpu_topology": "match_host", "platform_version": "~1.0",
            "memory_mib": 4096, "console_input_device": "ttyS0", "network": true }"#,
    );
    assert!(avf.contains("is a vm_config.json of Android's Virtualization Framework"), "{avf}");
    assert!(avf.contains("run `gunyahd import` on it"), "{avf}");
    let microdroid = problem(
        r#"{ "os": { "name": "microdroid" }, "apexes": [ { "name": "com.android.virt" } ],
            "task": { "type": "microdroid_launcher", "command": "payload.so" } }"#,
    );
    assert!(microdroid.contains("Microdroid"), "{microdroid}");
}

/// A good tree of a VM with these keys, as a start for a given one.
fn tree(vendor: &Vendor, keys: &str) -> Tree {
    let file = vendor.file("etc/a.json", config(keys));
    let config = load(&file).unwrap();
    let (paths, host, root) = (vec![file], Host::PAGES_4K, Some(vendor.0.clone()));
    let options = Options { paths, dtb: false, json: false, host, kernel: None, root };
    let report = check(&options);
    assert_eq!(report.problems, []);
    let plan = report.vms[0].plan.clone().unwrap();
    build(&config, None, &plan, &Seeds::default()).unwrap().tree
}

fn config(keys: &str) -> String {
    format!(r#"{{ "name": "a", "kernel": {{ "path": "/vm/Image" }}, {keys} }}"#)
}

/// Names of problems and warnings of a VM with a given tree, on any kernel.
fn found(vendor: &Vendor, tree: &Tree, keys: &str) -> Vec<String> {
    found_on(vendor, tree, keys, &[])
}

fn found_on(vendor: &Vendor, tree: &Tree, keys: &str, kernel: &[&str]) -> Vec<String> {
    vendor.file("vm/given.dtb", tree.to_blob().unwrap());
    let keys = format!(r#"{keys}, "dtb": {{ "path": "/vm/given.dtb" }}"#);
    vendor.file("etc/a.json", config(&keys));
    let json = vendor.check(&[kernel, &["--json", "etc/a.json"]].concat()).json();
    let of = |list: &serde_json::Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| format!("{} {}", one["severity"], one["name"]).replace('"', "")).collect()
    };
    let mut all = of(&json["problems"]);
    all.extend(of(&json["vms"][0]["warnings"]));
    all
}

fn node<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Node {
    tree.find_mut(path).unwrap_or_else(|| panic!("no {path}"))
}

const MEMORY: &str = r#""memory": { "size": "64M" }"#;

#[test]
fn a_tree_for_a_phone_is_taken() {
    let vendor = Vendor::new();
    let keys = r#""memory": { "size": "64M", "base": "0x28800000" },
        "vcpus": { "count": 16, "scheduling": "proxy" }"#;
    let mut tree = tree(&vendor, keys);
    for (number, cpu) in (0..).zip(&mut node(&mut tree, "/cpus").children) {
        cpu.name = format!("cpu@{:x}", number << 8);
        cpu.set_u32("reg", number << 8);
    }
    node(&mut tree, "/gunyah-vm-config/interrupts").set_u32("config", 1);
    node(&mut tree, "/gunyah-vm-config/memory").set_u64("size-max", 0x7_8000_0000);
    assert_eq!(found(&vendor, &tree, keys), ["warning dtb-base-address-taken"]);
}

#[test]
fn a_tree_of_an_authenticated_vm_is_named() {
    let vendor = Vendor::new();
    let mut tree = tree(&vendor, MEMORY);
    let config = node(&mut tree, "/gunyah-vm-config");
    config.name = "qcom,vm-config".into();
    config.set_u64("qcom,pasid", 28).set_u32("qcom,vmid", 45);
    config.ensure_child("vcpus").set_u32("sched-priority", 0);
    let rpc = config.ensure_child("vdevices").ensure_child("rm-rpc");
    rpc.set_str("vdevice-type", "rm-rpc").set_str("generate", "/hypervisor/qcom,resource-mgr");
    let iomem = config.ensure_child("vdevices").ensure_child("iomem");
    iomem.set_str("vdevice-type", "iomem").set_empty("peer-default");
    assert_eq!(found(&vendor, &tree, MEMORY), ["error dtb-authenticated-vm"]);
}

#[test]
fn a_complaint_is_made_once_and_not_once_a_cpu() {
    let vendor = Vendor::new();
    let keys = format!(r#"{MEMORY}, "vcpus": {{ "count": 8, "scheduling": "hypervisor" }}"#);
    let mut tree = tree(&vendor, &keys);
    node(&mut tree, "/gunyah-vm-config/vcpus").set_u32("sched-priority", 0);
    let all = found_on(&vendor, &tree, &keys, &["--kernel", "ack61"]);
    assert_eq!(all, ["error dtb-sched-priority"]);
}

#[test]
fn size_max_counts() {
    let vendor = Vendor::new();
    let mut tree = tree(&vendor, MEMORY);
    node(&mut tree, "/gunyah-vm-config/memory").set_u64("size-max", 0x10_0000);
    assert_eq!(found(&vendor, &tree, MEMORY), ["error dtb-size-max"]);
}

#[test]
fn a_tree_of_a_qemu_fork_is_named() {
    let vendor = Vendor::new();
    let mut tree = tree(&vendor, MEMORY);
    node(&mut tree, "/gunyah-vm-config/memory").set_u64("base-address", 0);
    tree.root.ensure_child("memory@40000000").set_str("device_type", "memory");
    let mut all = found(&vendor, &tree, MEMORY);
    all.sort();
    assert_eq!(
        all,
        [
            "error dtb-base-address-differs",
            "error dtb-base-address-zero",
            "error dtb-memory-node-name"
        ]
    );
}
