// SPDX-License-Identifier: Apache-2.0
//! One function a parser.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use gunyah::uapi::VcpuRun;
use gunyah::Exit;
use gunyahd::config;
use gunyahd::console::wire::{self, Decoder};
use gunyahd::console::LinePattern;
use gunyahd::dtb::{Draft, Tree};
use gunyahd::image::{arm64, elf, gzip};
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
    match Draft::given(bytes, &config) {
        Ok(draft) => drop(draft.facts().blob_len_max),
        Err(problems) => problems
            .iter()
            .for_each(|problem| drop(problem.to_string())),
    }
}

/// The first bytes of an arm64 Image, behind its size.
pub fn image(bytes: &[u8]) {
    let (size, start) = sized(bytes);
    if let Ok(header) = arm64::Header::parse(start, size) {
        assert!(header.image_size >= size && header.text_offset < arm64::BASE_ALIGNMENT);
    }
}

/// An ELF file: segments that are taken do not overlap, wrap, or lie outside the file.
pub fn elf(bytes: &[u8]) {
    let size = bytes.len() as u64;
    let Ok(table) = elf::header(bytes, size) else {
        return;
    };
    let from = usize::try_from(table.offset).expect("inside the file");
    let Ok(parsed) = elf::program_headers(&table, &bytes[from..from + table.size()], size) else {
        return;
    };
    for load in &parsed.loads {
        assert!(load.file_size <= load.memory_size && load.file_offset + load.file_size <= size);
    }
    for pair in parsed.loads.windows(2) {
        assert!(pair[0].address + pair[0].memory_size <= pair[1].address);
    }
}

/// A gzip file, into little room: a bomb ends there.
pub fn gzip(bytes: &[u8]) {
    if let Ok(header) = gzip::header_size(bytes) {
        let mut room = [0; 4096];
        let packed = &bytes[header..];
        let _ = gzip::peek(&mut &packed[..], &mut room[..64]);
        if let Ok(size) = gzip::unpack(&mut &packed[..], &mut room) {
            assert!(size <= room.len());
        }
    }
}

/// A line of either side of the control socket.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = control::parse_request(bytes) {
        let line = control::request_line(&request);
        assert_eq!(
            control::parse_request(line.trim_ascii_end()).as_ref(),
            Ok(&request)
        );
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
        whole &= decoder
            .feed(piece, |kind, payload| {
                wire::encode(kind, payload, &mut again)
            })
            .is_ok();
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
    let _ = client.last_error().map(ToString::to_string);
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
