// SPDX-License-Identifier: Apache-2.0
//! Inputs to begin with: good ones, from which the fuzzer goes astray.

use std::path::Path;

use gunyah::uapi::{EXIT_MMIO, EXIT_PAGE_FAULT, EXIT_STATUS};
use gunyahd::config;
use gunyahd::console::wire::{self, Kind};

use crate::targets::devicetree;

/// The documentation's examples.
const EXAMPLES: [&str; 5] = [
    include_str!("../../docs/examples/small.json"),
    include_str!("../../docs/examples/full.json"),
    include_str!("../../docs/examples/console.json"),
    include_str!("../../docs/examples/first-boot.json"),
    include_str!("../../docs/examples/shared-memory.json"),
];

/// Its examples are lines of their own.
const PROTOCOL: &str = include_str!("../../docs/control-protocol.md");

/// "gunyah", by `printf gunyah | gzip -n`, and its name stored by `gzip -N`.
const GZIP: [&[u8]; 2] = [
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x2f\xcd\xab\x4c\xcc\x00\x00\x9d\x91\x57\x2a\x06\x00\x00\x00",
    b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03\x49\x6d\x61\x67\x65\x00\x4b\x2f\xcd\xab\x4c\xcc\x00\x00\x9d\x91\x57\x2a\x06\x00\x00\x00",
];

/// "CONFIG_VIRTIO=y\n", by `gzip -n`.
const CONFIG: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x73\xf6\xf7\x73\xf3\x74\x8f\x0f\xf3\x0c\x0a\xf1\xf4\xb7\xad\xe4\x02\x00\x06\x7d\x52\x48\x10\x00\x00\x00";

/// The seeds of the target called `name`.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "config" => EXAMPLES.iter().map(|text| text.as_bytes().to_vec()).collect(),
        "dtb" => EXAMPLES.iter().filter_map(|text| tree(text)).collect(),
        "image" => vec![image()],
        "elf" => vec![elf()],
        "gzip" => GZIP.iter().map(|bytes| bytes.to_vec()).collect(),
        "control" => PROTOCOL
            .lines()
            .filter(|line| line.starts_with("{\"v\""))
            .map(|line| line.as_bytes().to_vec())
            .collect(),
        "console" => vec![frames()],
        "property" => vec![0u32.to_ne_bytes().to_vec(), 0x18u32.to_ne_bytes().to_vec(), area()],
        "queue" => crate::queue::seeds(),
        "disk" => crate::devices::disk_seeds(),
        "virtio-console" => crate::devices::console_seeds(),
        "net" => crate::net::seeds(),
        "vhost-user" => crate::backend::seeds(),
        "vcpu-run" => [EXIT_MMIO, EXIT_STATUS, EXIT_PAGE_FAULT].into_iter().map(page).collect(),
        _ => Vec::new(),
    }
}

fn tree(text: &str) -> Option<Vec<u8>> {
    let config = config::parse(Path::new("example.json"), text).ok()?;
    devicetree(&config, None).ok()
}

fn image() -> Vec<u8> {
    let mut bytes = vec![0; 72];
    bytes[1] = 0x10; // The file's size, 4096, for the target.
    bytes[24 + 2] = 1; // image_size 65536
    bytes[64..68].copy_from_slice(b"ARM\x64");
    bytes.extend([b"IKCFG_ST", CONFIG, b"IKCFG_ED"].concat());
    bytes
}

fn elf() -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[16] = 2; // ET_EXEC
    bytes[18] = 183; // EM_AARCH64
    bytes[25] = 0x10; // e_entry 0x1000
    bytes[32] = 64; // e_phoff
    bytes[54] = 56; // e_phentsize
    bytes[56] = 1; // e_phnum
    bytes[64] = 1; // PT_LOAD
    bytes[64 + 17] = 0x10; // p_vaddr 0x1000
    bytes[64 + 25] = 0x10; // p_paddr 0x1000
    bytes[64 + 32] = 120; // p_filesz
    bytes[64 + 41] = 1; // p_memsz 256
    bytes
}

fn frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(Kind::Output, b"gunyah guest: init reached\n", &mut bytes);
    wire::encode(Kind::Notice, b"another client types", &mut bytes);
    bytes
}

/// The header of a property area: size used, serial, magic, version (AOSP, prop_area.h).
fn area() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[0] = 20;
    bytes[8..12].copy_from_slice(b"PROP");
    bytes[12..16].copy_from_slice(&0xfc6e_d0abu32.to_ne_bytes());
    bytes
}

fn page(reason: u32) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[8..12].copy_from_slice(&reason.to_ne_bytes());
    bytes[16] = 2;
    bytes[32] = 4;
    bytes
}
