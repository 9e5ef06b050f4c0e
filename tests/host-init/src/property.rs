// SPDX-License-Identifier: Apache-2.0
//! The property service's side of its socket (AOSP, system/core/init/property_service.cpp).

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Result;

/// Where every accepted setting is written down, a line each.
pub const JOURNAL: &str = "/data/properties";

const SETPROP2: u32 = 0x0002_0001;
const SUCCESS: u32 = 0;
const READ_DATA: u32 = 0x08;
const PERMISSION_DENIED: u32 = 0x18;

/// Answers on `path` for as long as the host lives.
pub fn serve(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || answer(client));
        }
    });
    Ok(())
}

fn answer(mut client: UnixStream) {
    let code = match read(&mut client) {
        Some((name, value)) if name.starts_with("vendor.gunyah.") => {
            println!("init: property {name}={value}");
            let journal = OpenOptions::new().create(true).append(true).open(JOURNAL);
            match journal.and_then(|mut file| writeln!(file, "{name}={value}")) {
                Ok(()) => SUCCESS,
                Err(_) => READ_DATA,
            }
        }
        Some((name, _)) => {
            println!("init: property {name} denied");
            PERMISSION_DENIED
        }
        None => READ_DATA,
    };
    // The client may be gone; that is its own affair.
    let _ = client.write_all(&code.to_ne_bytes());
}

fn read(client: &mut UnixStream) -> Option<(String, String)> {
    if number(client)? != SETPROP2 {
        return None;
    }
    Some((text(client)?, text(client)?))
}

fn number(client: &mut UnixStream) -> Option<u32> {
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).ok()?;
    Some(u32::from_ne_bytes(bytes))
}

fn text(client: &mut UnixStream) -> Option<String> {
    let length = usize::try_from(number(client)?)
        .ok()
        .filter(|length| *length <= 4096)?;
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}
