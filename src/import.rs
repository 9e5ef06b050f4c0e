// SPDX-License-Identifier: Apache-2.0
//! `gunyahd import`: another launcher's command line (crosvm, QEMU) or file (Android's vm_config.json) as a
//! VM's file, and what of it is left out.
//!
//! All three come down to options with values, which one table knows: `--mem`, `-m` and `memory_mib`.

use std::ffi::OsString;
use std::path::Path;

use crate::config::VmName;
use crate::diagnostic::{kinds, Diagnostic, Kind};
use crate::json::{object, read, Member, Value as Json};
use crate::list::Listed;
use nix::errno::Errno;

/// What is made here has no text of another's in it.
type Value = Json<'static>;

kinds! {
    UNREADABLE: Error "import-unreadable" in Config {
        "the file to import cannot be read",
        cause: "the file is not there, or is not JSON",
        cure: "give Android's vm_config.json, or a command line behind `--`",
    }
    UNKNOWN: Error "import-unknown" in Config {
        "this is no command line of crosvm or QEMU",
        cure: "give the whole command: gunyahd import -- crosvm run …, or gunyahd import -- qemu-system-aarch64 …",
    }
    NO_KERNEL: Error "import-no-kernel" in Config {
        "nothing says which kernel the guest runs",
        cure: "give the whole command line; a VM without a kernel or boot loader of its own cannot be imported",
    }
    LEFT_OUT: Warning "import-left-out" in Config {
        "an option of another launcher is left out",
        cure: "look in docs/config.md whether a key does the same",
    }
}

/// What to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(OsString),
    /// A command with its arguments.
    Command(Vec<String>),
}

/// What an option becomes.
#[derive(Clone, Copy)]
enum Becomes {
    /// The key with this path. The value is made of what is given, or is not to be had.
    Key(&'static str, fn(&str) -> Option<Value>),
    /// Nothing, because gunyahd does the same by itself, or it means nothing here.
    Nothing,
    /// Nothing, and that is told with a reason.
    Left(&'static str),
}
use Becomes::{Key, Left, Nothing};

/// A group of options: their names without dashes, whether a value follows, what they become.
type Row = (&'static str, bool, Becomes);

/// Options that gunyahd knows. One that becomes a key later is moved to another row.
const TABLE: &[Row] = &[
    ("name", true, Key("name", name)),
    ("mem m memory_mib", true, Key("memory.size", size)),
    ("cpus c smp", true, Key("vcpus.count", count)),
    ("params p append", true, Key("kernel.cmdline", text)),
    // A boot loader is entered as a kernel is.
    ("kernel bios bootloader", true, Key("kernel.path", path)),
    ("initrd i", true, Key("initrd.path", path)),
    ("dtb", true, Key("dtb.path", path)),
    ("protected-vm", false, Key("firmware", section)),
    ("protected", true, Key("firmware", section_if_true)),
    ("block b rwdisk drive hda hdb", true, Key("disks", disk)),
    ("disk disks", true, Key("disks", read_only_disk)),
    ("root rwroot pmem-root blockdev", true, Left("give its file as one of `disks`; a root goes with `root=/dev/vda` in kernel.cmdline")),
    ("net netdev nic", true, Key("nets", tap)),
    ("tap-name", true, Key("nets", tap_name)),
    ("tap-fd host-ip netmask mac network", true, Left("a network is a tap of the host by its name: `nets[].tap`")),
    ("cid vsock vhost-vsock-pci vhost-vsock-device", true, Key("vsock.cid", cid)),
    ("swiotlb", true, Key("memory.pool", size)),
    // Models of QEMU's `-device`.
    ("virtio-blk virtio-blk-pci", true, Nothing),
    ("virtio-blk-device", true, Key("transport", mmio)),
    ("virtio-net virtio-net-pci virtio-net-device", true, Left("its tap is in `nets`, where a mac goes, too")),
    ("fs shared-dir vhost-user vhost-user-fs-pci vhost-user-fs-device", true, Left("run its backend (virtiofsd for a directory) and give the socket as `vhost_user`")),
    ("device object chardev gpu input display audio usb", true, Left("gunyahd has no such device")),
    ("protected-vm-with-firmware", true, Left("the firmware is the boot loader's: `\"firmware\": {}` begins in that")),
    ("qcom-trusted-vm-id qcom-trusted-vm-pas-id", true, Left("gunyahd starts no authenticated VMs")),
    ("cpu-affinity cpu-cluster", true, Left("vcpus.affinity has host CPUs in another form")),
    ("cpu_topology", true, Left("vcpus.count is 1; give the number of CPUs")),
    ("device-tree-overlay", true, Left("give a whole devicetree as dtb.path")),
    // Where gunyahd is as good without.
    ("protected-vm-without-firmware unprotected-vm-with-firmware disable-sandbox no-balloon hugepages \
      no-rng no-smt no-usb nographic no-reboot enable-kvm no-user-config nodefaults S snapshot", false, Nothing),
    ("log-level syslog-tag socket s cfg hypervisor accel machine M cpu serial monitor balloon \
      platform_version console_input_device auto_memory_balloon debuggable pidfile rtc boot cpu-capacity", true, Nothing),
];

/// One option as it was given.
struct Given {
    /// As it is told: `--mem`.
    said: String,
    /// As the table has it.
    name: String,
    value: Option<String>,
}

/// The VM's file, and what is left out.
///
/// # Errors
/// It is not another launcher's, or says too little.
pub fn import(source: &Source) -> Result<(String, Vec<Diagnostic>), Diagnostic> {
    let given = match source {
        Source::File(path) => of_file(Path::new(path))?,
        Source::Command(words) => of_command(words)?,
    };
    let mut keys: Vec<(&'static str, Value)> =
        vec![("name", word("vm")), ("memory.size", word("256M"))];
    let mut left = Vec::new();
    let mut leave = |given: &Given, why: &str| {
        let value = given.value.as_deref().map_or(String::new(), |value| format!(" {value}"));
        left.push(LEFT_OUT.case(format!("{}{value} is left out: {why}", given.said)));
    };
    for given in &given {
        let value = given.value.as_deref().unwrap_or_default();
        let known = match &*given.name {
            "device" => row(value.split(',').next().unwrap_or_default()).or_else(|| row("device")),
            name => row(name),
        };
        match known.map(|(.., becomes)| *becomes) {
            Some(Key(key, make)) => match make(value) {
                Some(made) => put(&mut keys, key, made),
                None if value == "false" => {}
                None => leave(given, &format!("gunyahd makes no {key} of it")),
            },
            Some(Left(why)) if value != "false" => leave(given, why),
            Some(Left(_) | Nothing) => {}
            None => leave(given, "gunyahd has no such option"),
        }
    }
    // A pool is for devices alone; crosvm's guests find these on PCI, and QEMU's where nothing else is said.
    let has = |wanted: &[&str]| keys.iter().any(|(key, _)| wanted.contains(key));
    let (devices, transport) = (has(&["disks", "nets", "vsock.cid"]), has(&["transport"]));
    if !devices {
        keys.retain(|(key, _)| !["memory.pool", "transport"].contains(key));
    } else if !transport {
        keys.push(("transport", word("pci")));
    }
    let of = |wanted: &str| keys.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value);
    if of("kernel.path").is_none() {
        return Err(NO_KERNEL.case("no kernel or boot loader is named"));
    }
    // The guest's serial port is the one that its command line speaks of.
    let console = match of("kernel.cmdline") {
        Some(Json::String(cmdline)) if cmdline.contains("ttyAMA0") => Some(object(Vec::new())),
        Some(Json::String(cmdline)) if cmdline.contains("ttyS0") => {
            Some(object(vec![("device", word("16550"))]))
        }
        _ => None,
    };
    keys.extend(console.map(|console| ("console", console)));
    Ok((format!("{:#}\n", sections(keys)), left))
}

fn word(word: &str) -> Value {
    word.to_owned().into()
}

/// The file with these keys, each with its section's.
fn sections(keys: Vec<(&'static str, Value)>) -> Value {
    let mut sections: Vec<(&'static str, Vec<(&'static str, Value)>)> = Vec::new();
    let mut all: Vec<(&'static str, Option<Value>)> = Vec::new();
    for (key, value) in keys {
        let Some((section, key)) = key.split_once('.') else {
            all.push((key, Some(value)));
            continue;
        };
        match sections.iter_mut().find(|(known, _)| *known == section) {
            Some((_, members)) => members.push((key, value)),
            None => {
                all.push((section, None));
                sections.push((section, vec![(key, value)]));
            }
        }
    }
    let mut sections = sections.into_iter().map(|(_, members)| object(members));
    let filled =
        all.into_iter().filter_map(|(key, value)| Some((key, value.or_else(|| sections.next())?)));
    object(filled.listed())
}

fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|(names, ..)| names.split_ascii_whitespace().any(|known| known == name))
}

/// Sets a key. Several command lines are one, and so are several lists.
fn put(keys: &mut Vec<(&'static str, Value)>, key: &'static str, value: Value) {
    let Some((_, known)) = keys.iter_mut().find(|(known, _)| *known == key) else {
        return keys.push((key, value));
    };
    *known = match (&*known, value) {
        (Json::String(first), Json::String(more)) if key == "kernel.cmdline" => {
            format!("{first} {more}").into()
        }
        (Json::List(first), Json::List(more)) => {
            Json::List(first.iter().cloned().chain(more).listed())
        }
        (_, value) => value,
    };
}

/// The options of vm_config.json: its keys.
fn of_file(path: &Path) -> Result<Vec<Given>, Diagnostic> {
    let failed = |what: String| UNREADABLE.case(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
        failed("reading it".to_owned()).errno(errno)
    })?;
    let root = read(&text).map_err(|wrong| failed(wrong.what))?;
    let Json::Object(members) = &root.value else {
        return Err(failed("it is not an object".to_owned()));
    };
    let mut given = Vec::new();
    for member in members {
        let items = match &member.value.value {
            Json::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&member.value),
        };
        for item in items {
            given.push(Given {
                said: member.key.to_string(),
                name: member.key.to_string(),
                value: Some(as_option(&item.value)),
            })
        }
    }
    Ok(given)
}

/// A value as a command line has it: an object as `image=/a,writable=true`.
fn as_option(value: &Json<'_>) -> String {
    let plain = |value: &Json<'_>| match value {
        Json::String(text) => text.to_string(),
        other => other.to_string(),
    };
    let part = |Member { key, value, .. }: &Member<'_>| {
        format!("{key}={}", plain(&value.value).replace(',', ",,"))
    };
    match value {
        Json::Object(members) => members.iter().map(part).listed().join(","),
        other => plain(other),
    }
}

/// The options of a command line, whatever stands before the program.
fn of_command(words: &[String]) -> Result<Vec<Given>, Diagnostic> {
    let called = |word: &String, program: &str| {
        word.rsplit('/').next().is_some_and(|name| name.starts_with(program))
    };
    let is_program = |word: &String| called(word, "crosvm") || called(word, "qemu");
    let at = words.iter().position(is_program);
    let at = at.ok_or_else(|| UNKNOWN.case("no word of it is crosvm or qemu-system-aarch64"))?;
    let mut given = Vec::new();
    let mut rest = words[at + 1..].iter().peekable();
    while let Some(word) = rest.next() {
        let bare = word.trim_start_matches('-');
        if bare.len() == word.len() {
            if word != "run" {
                given.push(Given {
                    said: "kernel".into(),
                    name: "kernel".into(),
                    value: Some(word.clone()),
                });
            }
            continue;
        }
        // Only of long options of crosvm's: QEMU's have their `=` in the value.
        let (name, attached) = match bare.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name, Some(value.to_owned())),
            _ => (bare, None),
        };
        let takes = match row(name) {
            Some((_, takes, _)) => *takes,
            // A guess: what follows is its value, but not where it would be the kernel.
            None => rest.peek().is_some_and(|next| !next.starts_with('-')) && rest.len() > 1,
        };
        let value = attached.or_else(|| takes.then(|| rest.next().cloned()).flatten());
        given.push(Given { said: word.clone(), name: name.to_owned(), value });
    }
    Ok(given)
}

fn before_comma<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let first = text.split(',').next()?;
    Some(first.strip_prefix(key).unwrap_or(first))
}

fn name(text: &str) -> Option<Value> {
    let first = before_comma(text, "guest=")?;
    VmName::new(first).map(|name| word(name.as_str()))
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| word(text))
}

fn path(text: &str) -> Option<Value> {
    let path = std::path::absolute(text).ok()?;
    Some(word(path.to_str()?))
}

/// MiB where nothing else is said: `4096`, `size=4G,slots=2`.
fn size(text: &str) -> Option<Value> {
    let first = before_comma(text, "size=")?;
    let digits = first.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = match first[digits.len()..].chars().next() {
        None => "M",
        Some('k' | 'K') => "K",
        Some('m' | 'M') => "M",
        Some('g' | 'G') => "G",
        Some(_) => return None,
    };
    Some(format!("{number}{unit}").into())
}

/// `4`, `cpus=4,sockets=1`, `num-cores=4`.
fn count(text: &str) -> Option<Value> {
    let first = text.split(',').next()?;
    let number = first.rsplit('=').next()?;
    number.parse::<u32>().ok().map(|number| u64::from(number).into())
}

/// The parts of `path=/a,ro`: each a name, empty where none is given, and a value. A comma that is meant is
/// there twice, as QEMU has it.
fn parts(text: &str) -> Vec<(String, String)> {
    let part = |part: &str| {
        let part = part.replace('\0', ",");
        match part.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (String::new(), part),
        }
    };
    text.replace(",,", "\0").split(',').map(part).listed()
}

/// The value of the first of `names` that is there.
fn part(text: &str, names: &[&str]) -> Option<String> {
    let parts = parts(text);
    let found = names.iter().find_map(|name| parts.iter().find(|(known, _)| known == name));
    found.map(|(_, value)| value.clone())
}

/// Whether one of these switches is on: `ro`, `ro=true`, `readonly=on`.
fn is_on(text: &str, names: &[&str]) -> bool {
    parts(text).iter().any(|(name, value)| match name.as_str() {
        "" => names.contains(&value.as_str()),
        name => names.contains(&name) && matches!(value.as_str(), "true" | "on"),
    })
}

/// A list of one.
fn one(members: Vec<(&'static str, Value)>) -> Value {
    vec![object(members)].into()
}

/// `path=/a,ro`, `/a`, `file=/a,format=raw,readonly=on`.
fn disk(text: &str) -> Option<Value> {
    disk_of(text, is_on(text, &["ro", "readonly"]))
}

/// `/a`, `image=/a,writable=true`.
fn read_only_disk(text: &str) -> Option<Value> {
    disk_of(text, !is_on(text, &["writable"]))
}

/// Raw images alone. QEMU's pflash is firmware, and crosvm's root is an argument of the kernel as well.
fn disk_of(text: &str, readonly: bool) -> Option<Value> {
    let file = part(text, &["path", "file", "image", ""])?;
    let packed = part(text, &["format"]).is_some_and(|format| format != "raw");
    let firmware = part(text, &["if"]).is_some_and(|interface| interface == "pflash");
    if packed || file.ends_with(".qcow2") || firmware || is_on(text, &["root"]) {
        return None;
    }
    let mut disk = vec![("path", path(&file)?)];
    if readonly {
        disk.push(("readonly", true.into()));
    }
    Some(one(disk))
}

/// `tap-name=tap0`, `tap,id=n0,ifname=tap0`.
fn tap(text: &str) -> Option<Value> {
    let mut net = vec![("tap", word(&part(text, &["tap-name", "ifname"])?))];
    net.extend(part(text, &["mac"]).map(|mac| ("mac", word(&mac))));
    Some(one(net))
}

fn tap_name(text: &str) -> Option<Value> {
    tap(&format!("tap-name={text}"))
}

/// `3`, `cid=3`, `vhost-vsock-pci,guest-cid=3`.
fn cid(text: &str) -> Option<Value> {
    count(&part(text, &["guest-cid", "cid", ""])?)
}

fn mmio(_: &str) -> Option<Value> {
    Some(word("mmio"))
}

fn section(_: &str) -> Option<Value> {
    Some(object(Vec::new()))
}

fn section_if_true(text: &str) -> Option<Value> {
    (text == "true").then(|| object(Vec::new()))
}

/// Everything that can be wrong with what is imported.
pub(crate) const FOLDER: &[&[&Kind]] = &[KINDS];
