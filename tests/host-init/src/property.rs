// SPDX-License-Identifier: Apache-2.0
//! Properties: init's store, and the property service's side of its socket (AOSP,
//! system/core/init/property_service.cpp).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{bail, Context, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The journal: every accepted setting, a line each.
pub const JOURNAL: &str = "/data/properties";

/// Where the service listens.
pub const SOCKET: &str = "/dev/socket/property_service";

/// What init has to act on.
pub enum Change {
    /// A property got a new value.
    Set(String),
    /// `ctl.start` or `ctl.stop` of a service.
    Control {
        /// True for start, false for stop.
        start: bool,
        /// Its name.
        service: String,
    },
}

#[derive(Default)]
struct Store {
    values: BTreeMap<String, String>,
    changes: Vec<Change>,
}

static STORE: Mutex<Store> = Mutex::new(Store { values: BTreeMap::new(), changes: Vec::new() });

fn store() -> MutexGuard<'static, Store> {
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of a property, if it is set.
pub fn get(name: &str) -> Option<String> {
    store().values.get(name).cloned()
}

/// Sets a property, adds it to the journal and queues it for init.
pub fn set(name: &str, value: &str) -> Result<()> {
    let mut store = store();
    println!("init: property {name}={value}");
    let mut journal = OpenOptions::new().create(true).append(true).open(JOURNAL)?;
    writeln!(journal, "{name}={value}")?;
    store.values.insert(name.to_owned(), value.to_owned());
    store.changes.push(Change::Set(name.to_owned()));
    Ok(())
}

/// The events since the last call.
pub fn changes() -> Vec<Change> {
    std::mem::take(&mut store().changes)
}

/// Reads a build.prop, if there is one.
pub fn load(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        set(name, value)?;
    }
    Ok(())
}

/// Asks the service to set a property, as `setprop` does.
pub fn ask(name: &str, value: &str) -> Result<()> {
    let mut client = UnixStream::connect(SOCKET).context(SOCKET)?;
    let mut packet = SETPROP2.to_ne_bytes().to_vec();
    for text in [name, value] {
        packet.extend(u32::try_from(text.len())?.to_ne_bytes());
        packet.extend(text.as_bytes());
    }
    client.write_all(&packet)?;
    match number(&mut client) {
        Some(SUCCESS) => Ok(()),
        other => bail!("{name}={value}: answer {other:?}"),
    }
}

const SETPROP2: u32 = 0x0002_0001;
const SUCCESS: u32 = 0;
const READ_DATA: u32 = 0x08;
const PERMISSION_DENIED: u32 = 0x18;

/// Answers on `path` until the host ends.
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
        Some((name, value)) if name.starts_with("vendor.gunyah.") => match set(&name, &value) {
            Ok(()) => SUCCESS,
            Err(_) => READ_DATA,
        },
        Some((name, service)) if name.starts_with("ctl.") && is_root(&client) => {
            let start = name == "ctl.start";
            store().changes.push(Change::Control { start, service });
            SUCCESS
        }
        Some((name, _)) => {
            println!("init: property {name} denied");
            PERMISSION_DENIED
        }
        None => READ_DATA,
    };
    // The client may have gone, which is no error here.
    let _ = client.write_all(&code.to_ne_bytes());
}

fn is_root(client: &UnixStream) -> bool {
    getsockopt(client, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
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
    let length = usize::try_from(number(client)?).ok().filter(|length| *length <= 4096)?;
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}
