// SPDX-License-Identifier: Apache-2.0
//! One function a parser.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use gunyah::uapi::VcpuRun;
use gunyah::Exit;
use gunyahd::config::{self, VmConfig};
use gunyahd::console::wire::{self, Decoder};
use gunyahd::console::LinePattern;
use gunyahd::diagnostic::Diagnostic;
use gunyahd::dtb::{self, Seeds, Tree};
use gunyahd::image::{arm64, elf, gzip, BuiltConfig, ImageInfo, KernelInfo, KernelLayout};
use gunyahd::layout;
use gunyahd::plan::{plan, Host};
use gunyahd::status::control;
use gunyahd::status::properties::PropertyClient;
use gunyahd::status::property_area::PropertyArea;

/// A file of a VM: text of any kind, problems in any number; a good one is the same when it is
/// written and read again.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new("vm.json");
    match config::parse(path, &text) {
        Ok(good) => {
            let again = config::parse(path, &config::render(&good).to_string())
                .expect("what was rendered is good");
            assert_eq!(config::render(&good), config::render(&again));
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let _ = problem.to_string();
            }
        }
    }
}

/// A given devicetree: one that is read is written, read again the same, and checked.
pub fn dtb(bytes: &[u8]) {
    let Ok(tree) = Tree::parse(bytes) else { return };
    let _ = tree.to_source();
    if let Ok(blob) = tree.to_blob() {
        assert_eq!(Tree::parse(&blob).as_ref(), Ok(&tree));
    }
    let text = include_str!("../../docs/examples/small.json");
    let config = config::parse(Path::new("small.json"), text).expect("the example is good");
    match devicetree(&config, Some(bytes)) {
        Ok(blob) => assert!(blob.len() as u64 <= dtb::len_max(&config, Some(bytes))),
        Err(faults) => {
            assert!(!faults.is_empty());
            faults.iter().for_each(|fault| drop(fault.to_string()));
        }
    }
}

/// The blob for a VM with a small kernel.
pub(crate) fn devicetree(
    config: &VmConfig,
    given: Option<&[u8]>,
) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let header = arm64::Header { text_offset: 0, image_size: 4096 };
    let images = ImageInfo {
        kernel: KernelInfo {
            gzip: false,
            size: 4096,
            signed: false,
            layout: KernelLayout::Image(header),
        },
        initrd: config.initrd.as_ref().map(|_| 4096),
        regions: config.regions.iter().map(|_| None).collect(),
    };
    let len_max = dtb::len_max(config, given);
    let plan = plan(config, &images, len_max, &Host::PAGES_4K).expect("there is room");
    dtb::build(config, given, &plan, &Seeds::default()).map(|built| built.blob)
}

/// The first bytes of an arm64 Image, behind its size; and the configuration that any of them may be.
pub fn image(bytes: &[u8]) {
    if let Some(config) = BuiltConfig::find(bytes) {
        let _ = (config.setting("VIRTIO"), config.has_initramfs());
    }
    let (size, start) = sized(bytes);
    let Some(start) = start.first_chunk() else {
        return;
    };
    if let Ok(header) = arm64::Header::parse(start, size) {
        assert!(header.image_size >= size && header.text_offset < layout::MEMORY_ALIGN);
    }
}

/// An ELF file: segments that are taken do not overlap, wrap, or lie outside the file.
pub fn elf(bytes: &[u8]) {
    let size = bytes.len() as u64;
    let Some(start) = bytes.first_chunk() else {
        return;
    };
    let read = |offset, room: &mut [u8]| {
        let from = usize::try_from(offset).expect("inside the file");
        room.copy_from_slice(&bytes[from..from + room.len()]);
        Ok(())
    };
    let Ok(parsed) = elf::Executable::parse(start, size, read) else {
        return;
    };
    for load in &parsed.loads {
        assert!(load.file_size <= load.memory_size && load.file_offset + load.file_size <= size);
    }
    for pair in parsed.loads.windows(2) {
        assert!(pair[0].address + pair[0].memory_size <= pair[1].address);
    }
}

/// A gzip file, into the room that its trailer asks for, at most 4 KiB: a bomb ends there. Unpacked
/// to nowhere it is judged the same.
pub fn gzip(bytes: &[u8]) {
    let Some(trailer) = bytes.last_chunk() else {
        return;
    };
    let size = usize::try_from(u32::from_le_bytes(*trailer)).map_or(4096, |size| size.min(4096));
    let mut room = vec![0; size];
    let mut unpacker = gzip::Unpacker::new(bytes, size as u64);
    let unpacked = unpacker.fill(&mut room).and_then(|()| unpacker.end());
    let verified = gzip::Unpacker::new(bytes, size as u64).verify();
    assert_eq!(unpacked, verified);
}

/// A line of either side of the control socket.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = control::parse_request(bytes) {
        let line = control::request_line(&request);
        assert_eq!(control::parse_request(line.trim_ascii_end()).as_ref(), Ok(&request));
    }
    if let Ok(response) = control::parse_response(bytes) {
        let _ = control::response_line(&response);
    }
}

/// Frames of a console's client, and lines that a pattern is looked for in.
pub fn console(bytes: &[u8]) {
    let mut again = Vec::new();
    let mut decoder = Decoder::default();
    let mut whole = true;
    for piece in bytes.chunks(7) {
        whole &=
            decoder.feed(piece, |kind, payload| wire::encode(kind, payload, &mut again)).is_ok();
        if !whole {
            break;
        }
    }
    assert!(bytes.starts_with(&again));
    let (pattern, lines) = bytes.split_at(bytes.len() / 4);
    let mut pattern = LinePattern::new(&String::from_utf8_lossy(pattern));
    for byte in lines {
        let _ = pattern.feed(*byte);
    }
}

/// A property service that answers with these bytes, and a property area made of them.
pub fn property(bytes: &[u8]) {
    let folder = std::env::temp_dir().join(format!("gunyahd-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let area = folder.join("u:object_r:vendor_gunyah_prop:s0");
    std::fs::write(&area, bytes).expect("a temporary file");
    let _ = PropertyArea::new(folder.clone()).get("vendor.gunyah.a.state");
    std::fs::write(folder.join("property_info"), bytes).expect("a temporary file");
    let _ = PropertyArea::new(folder.clone()).get("vendor.gunyah.a.state");
    std::fs::remove_dir_all(&folder).expect("a temporary folder");

    let socket = folder.with_extension("socket");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut client = PropertyClient::new(socket.clone());
    client.set("vendor.gunyah.a.state", "running");
    client.on_ready();
    if let Ok((mut service, _)) = listener.accept() {
        let _ = service.set_nonblocking(true);
        let _ = service.read(&mut [0; 256]);
        let _ = service.write_all(&bytes[..bytes.len().min(64)]);
    }
    client.finish(Duration::from_millis(1));
    let _ = std::fs::remove_file(&socket);
}

/// The page that the driver shares.
pub fn vcpu_run(bytes: &[u8]) {
    let mut page = [0; size_of::<VcpuRun>()];
    let length = bytes.len().min(page.len());
    page[..length].copy_from_slice(&bytes[..length]);
    // SAFETY: every bit pattern of its size is a valid VcpuRun; an unaligned read copies it.
    let run = unsafe { page.as_ptr().cast::<VcpuRun>().read_unaligned() };
    if let Exit::Status(status) = Exit::decode(&run) {
        let _ = status.to_string();
    }
}

/// A size of a file, made up by the first eight bytes.
fn sized(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk() {
        Some((size, rest)) => (u64::from_le_bytes(*size), rest),
        None => (0, bytes),
    }
}
