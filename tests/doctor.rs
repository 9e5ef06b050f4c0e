// SPDX-License-Identifier: Apache-2.0
//! `gunyahd doctor` on a simulated device of every dialect, with nothing wrong, and with each trouble planted.
#![allow(clippy::unwrap_used)] // A test ends there.

#[path = "android/dir.rs"]
mod dir;
#[path = "host/memlock.rs"]
mod memlock;
#[path = "host/skip.rs"]
mod skip;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::{makedev, mknod, Mode, SFlag};
use nix::unistd::{chown, Gid, Uid};
use serde_json::{json, Value};

use dir::Dir;
use memlock::limit_memlock;
use skip::skip;

const GUNYAHD: &str = env!("CARGO_BIN_EXE_gunyahd");
/// AID_SYSTEM.
const SYSTEM: u32 = 1000;
const DIALECTS: [&str; 6] = ["lkml-base", "lkml", "ack61", "ack66-early", "ack66", "ack612"];

const KERNEL: &str =
    "CONFIG_GUNYAH=m\nCONFIG_HUGETLBFS=y\nCONFIG_TRANSPARENT_HUGEPAGE=y\nCONFIG_SHMEM=y\n\
    CONFIG_SECCOMP_FILTER=y\nCONFIG_TUN=y\n# CONFIG_VHOST_VSOCK is not set\n";

/// A device where all is well but that nobody has started the service.
struct Device {
    dir: Dir,
    /// Where init and logd listen.
    listening: Vec<Box<dyn std::any::Any>>,
    program: PathBuf,
    dialect: &'static str,
    memlock: Option<u64>,
}

/// What doctor printed.
struct Told {
    code: i32,
    findings: Vec<Value>,
}

impl Device {
    fn new(dialect: &'static str) -> Option<Self> {
        if !Uid::effective().is_root() {
            skip("only root can make a device's node");
            return None;
        }
        let dir = Dir::new("doctor");
        let at = |name: &str| dir.0.join(name);
        fs::create_dir(at("vms")).unwrap();
        fs::write(at("config"), KERNEL).unwrap();
        let mut image = vec![0; 8192];
        image[16..24].copy_from_slice(&(64u64 << 10).to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        fs::write(at("Image"), image).unwrap();
        // The simulator answers for what is behind it.
        let mode = Mode::from_bits_truncate(0o660);
        mknod(&at("gunyah"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
        fs::set_permissions(at("gunyah"), Permissions::from_mode(0o660)).unwrap();
        let system = (Some(Uid::from_raw(SYSTEM)), Some(Gid::from_raw(SYSTEM)));
        chown(&at("gunyah"), system.0, system.1).unwrap();
        let listening: Vec<Box<dyn std::any::Any>> = vec![
            Box::new(UnixListener::bind(at("properties")).unwrap()),
            Box::new(UnixDatagram::bind(at("logd")).unwrap()),
        ];
        let program = GUNYAHD.into();
        let device = Self { dir, listening, program, dialect, memlock: None };
        device.vm("a", &json!({ "size": "16M", "backing": ["thp"] }));
        Some(device)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    fn vm(&self, name: &str, memory: &Value) {
        let file = self.at(&format!("vms/{name}.json"));
        let config = json!({ "name": name, "memory": memory, "kernel": { "path": self.at("Image") },
            "restart": { "policy": "never" } });
        fs::write(file, config.to_string()).unwrap();
    }

    /// VMs that together take more of the pool than any test reserves.
    fn large_vms(&mut self) {
        for name in ["b", "c", "d"] {
            self.vm(name, &json!({ "size": "1G", "backing": ["hugetlb"] }));
        }
    }

    /// A gunyahd on this device.
    fn gunyahd(&self, words: &[&str]) -> Command {
        let simulator = Path::new(GUNYAHD).with_file_name("gunyah-sim");
        let mut command = Command::new(simulator);
        command.args(["--dialect", self.dialect, "--device"]).arg(self.at("gunyah"));
        command.arg("--").arg(&self.program).args(words);
        command.arg("--config-dir").arg(self.at("vms")).arg("--socket").arg(self.at("socket"));
        command.arg("--device").arg(self.at("gunyah"));
        command
            .env("GUNYAHD_PROPERTY_SOCKET", self.at("properties"))
            .env("GUNYAHD_LOGD_SOCKET", self.at("logd"))
            .stdin(Stdio::null());
        command
    }

    fn doctor(&self, more: &[&str]) -> Command {
        let mut command = self.gunyahd(&["doctor"]);
        command.arg("--kernel-config").arg(self.at("config")).args(more);
        if let Some(bytes) = self.memlock {
            limit_memlock(&mut command, bytes);
        }
        command
    }

    fn examine(&self) -> Told {
        let output = self.doctor(&["--json"]).output().unwrap();
        let report: Result<Value, _> = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(report["version"], 1);
        let told = Told {
            code: output.status.code().unwrap(),
            findings: report["findings"].as_array().unwrap().clone(),
        };
        for severity in ["error", "warning"] {
            assert_eq!(report[format!("{severity}s")], told.named(severity).len(), "{report:#}");
        }
        assert_eq!(told.code == 1, !told.named("error").is_empty(), "{report:#}");
        told
    }
}

impl Told {
    /// Names of the errors or of the warnings, but of those that this machine has.
    fn named(&self, severity: &str) -> Vec<&str> {
        let of = self.findings.iter().filter(|finding| finding["result"] == severity);
        of.map(|finding| finding["name"].as_str().unwrap()).collect()
    }

    /// All errors and warnings that a test can have planted. Transparent huge pages are this machine's.
    fn troubles(&self) -> Vec<&str> {
        let all = self.named("error").into_iter().chain(self.named("warning"));
        all.filter(|name| *name != "thp-off").collect()
    }

    fn of(&self, name: &str) -> &Value {
        let found = self.findings.iter().find(|finding| finding["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.findings))
    }

    /// The message of a good line.
    fn good(&self, about: &str) -> &str {
        let is = |finding: &&Value| finding["result"] == "ok" && finding["about"] == about;
        let found = self.findings.iter().find(is);
        found.unwrap_or_else(|| panic!("no {about} in {:#?}", self.findings))["message"]
            .as_str()
            .unwrap()
    }
}

fn label(path: &Path, label: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), flags).unwrap();
}

#[test]
fn a_good_device_of_every_dialect_has_no_trouble() {
    for dialect in DIALECTS {
        let Some(device) = Device::new(dialect) else { return };
        let told = device.examine();
        assert_eq!(told.troubles(), ["service-silent"], "{dialect}");
        // The early revision speaks as the later one.
        let name = dialect.trim_end_matches("-early");
        assert_eq!(told.good("driver"), format!("its dialect is {name}"));
        assert!(told.good("node").ends_with("is 0660, user system, group system"));
        assert!(told.good("holders").contains("nobody has"));
        assert_eq!(told.good("files"), "1 of VMs, and 1 VMs can be launched");
        assert!(told.good("kernel").starts_with("it has GUNYAH, HUGETLBFS"));
        assert!(told.good("properties").ends_with("answers"));
        let chosen = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        let chosen = chosen.unwrap_or_default();
        let off = ["[never]", "[deny]"].iter().any(|word| chosen.contains(word));
        let newer = ["ack66-early", "ack66", "ack612"].contains(&dialect);
        assert_eq!(told.named("warning").contains(&"thp-off"), off && newer, "{dialect}: {chosen}");
    }
}

#[test]
fn a_node_without_a_fitting_driver_is_named() {
    for (dialect, name, words) in
        [("qcom-b2", "create-vm-enotty", "0xB2"), ("none", "device-enoent", "no hypervisor")]
    {
        let Some(device) = Device::new(dialect) else { return };
        let told = device.examine();
        assert_eq!(told.troubles(), [name, "service-silent"], "{dialect}");
        assert!(told.of(name)["cause"].as_str().unwrap().contains(words));
        // Then the driver's own option counts.
        fs::write(device.at("config"), KERNEL.replace("GUNYAH=m", "GUNYAH=n")).unwrap();
        assert_eq!(device.examine().named("error"), [name, "kernel-option"], "{dialect}");
    }
}

/// A name, and what brings it about.
type Trouble = (&'static str, fn(&mut Device));

const TROUBLES: &[Trouble] = &[
    ("node-mode", |device| {
        fs::set_permissions(device.at("gunyah"), Permissions::from_mode(0o600)).unwrap();
        chown(&device.at("gunyah"), Some(Uid::from_raw(0)), Some(Gid::from_raw(0))).unwrap();
    }),
    ("node-other-file", |device| {
        fs::remove_file(device.at("gunyah")).unwrap();
        fs::write(device.at("gunyah"), "").unwrap();
    }),
    ("node-label", |device| label(&device.at("gunyah"), "u:object_r:device:s0\0")),
    ("program-label", |device| {
        device.program = device.at("gunyahd");
        fs::copy(GUNYAHD, &device.program).unwrap();
        label(&device.program, "u:object_r:vendor_file:s0\0");
    }),
    ("pool-short", Device::large_vms),
    ("pool-no-such-pages", |device| {
        device.vm("b", &json!({ "size": "512M", "backing": ["hugetlb"], "page_size": "512M" }));
    }),
    ("memlock-low", |device| device.memlock = Some(64 << 10)),
    ("config-unknown-key", |device| {
        device.vm("a", &json!({ "size": "16M", "backing": ["thp"], "sice": 1 }));
    }),
    ("config-empty-directory", |device| fs::remove_file(device.at("vms/a.json")).unwrap()),
    ("image-missing", |device| fs::remove_file(device.at("Image")).unwrap()),
    ("no-property-service", |device| fs::remove_file(device.at("properties")).unwrap()),
    ("no-log-daemon", |device| drop(device.listening.pop())),
    ("kernel-option", |device| {
        let off = KERNEL.replace("CONFIG_SECCOMP_FILTER=y", "# CONFIG_SECCOMP_FILTER is not set");
        fs::write(device.at("config"), off).unwrap();
    }),
];

#[test]
fn each_planted_trouble_is_found() {
    for (name, plant) in TROUBLES {
        let Some(mut device) = Device::new("ack61") else { return };
        plant(&mut device);
        let told = device.examine();
        assert_eq!(
            told.troubles().iter().filter(|found| *found == name).count(),
            1,
            "{name}: {:#?}",
            told.findings
        );
        let others = told.troubles().into_iter().filter(|found| found != name);
        assert_eq!(others.collect::<Vec<_>>(), ["service-silent"], "{name}");
        assert!(!told.of(name)["cure"].as_str().unwrap().is_empty());
    }
}

/// A VM that has another backing to go on with starts without a pool, so nothing of it is an error.
#[test]
fn a_pool_that_can_be_done_without_is_no_error() {
    let Some(device) = Device::new("ack61") else { return };
    fs::write(device.at("config"), KERNEL.replace("HUGETLBFS=y", "HUGETLBFS=n")).unwrap();
    // A size that no kernel has.
    device.vm("a", &json!({ "size": "512M", "backing": ["hugetlb", "thp"], "page_size": "512M" }));
    let told = device.examine();
    assert_eq!(told.troubles(), ["service-silent", "pool-other-backing"], "{:#?}", told.findings);
    let what = told.of("pool-other-backing")["message"].as_str().unwrap();
    assert!(what.ends_with("; the VMs then take their next backing"), "{what}");
    device.vm("a", &json!({ "size": "512M", "backing": ["hugetlb"], "page_size": "512M" }));
    let told = device.examine();
    let errors = told.named("error");
    assert_eq!(errors, ["kernel-option", "pool-no-such-pages"], "{:#?}", told.findings);
}

/// A folder that is not there is no file of a VM.
#[test]
fn a_missing_folder_is_not_counted() {
    let Some(device) = Device::new("ack61") else { return };
    fs::remove_dir_all(device.at("vms")).unwrap();
    let told = device.examine();
    assert_eq!(told.troubles(), ["config-unreadable", "service-silent"], "{:#?}", told.findings);
    let files = told.findings.iter().find(|finding| finding["about"] == "files").unwrap();
    assert_eq!(files["message"], "0 of VMs, and 0 VMs can be launched");
}

#[test]
fn a_report_for_people_has_a_line_each() {
    let Some(mut device) = Device::new("ack61") else { return };
    fs::set_permissions(device.at("gunyah"), Permissions::from_mode(0o600)).unwrap();
    device.large_vms();
    let output = device.doctor(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let starts = [
        "ok       node: ",
        "ok       driver: its dialect is ack61\n",
        "error    pool: VMs started",
        "warning  serve: ",
    ];
    for start in starts {
        assert!(text.lines().any(|line| format!("{line}\n").starts_with(start)), "{start}: {text}");
    }
    assert!(text.ends_with("\nerrors: 1, warnings: 1\n"), "{text}");
}

/// Only the service has a reserve; what its folios pin is known without.
#[test]
fn what_folios_of_the_reserve_pin_is_counted() {
    let Some(device) = Device::new("ack66") else { return };
    device.vm("a", &json!({ "size": "64M", "backing": ["reserve"] }));
    let told = device.examine();
    let finding = told.findings.iter().find(|finding| finding["about"] == "memlock").unwrap();
    let what = finding["message"].as_str().unwrap();
    assert!(what.contains("at most are pinned for one VM"), "{finding}");
}

/// What a VM's devices take of the kernel, and no other's.
#[test]
fn options_for_devices_are_wanted_where_a_vm_has_them() {
    let Some(device) = Device::new("ack61") else { return };
    let path = device.at("vms/a.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["vsock"] = json!({});
    fs::write(&path, config.to_string()).unwrap();
    let what = device.examine().of("kernel-option")["message"].as_str().unwrap().to_owned();
    assert!(what.starts_with("CONFIG_VHOST_VSOCK is off"), "{what}");
    if !Path::new("/dev/vhost-vsock").exists() {
        let what = device.examine().of("check-no-vhost")["message"].as_str().unwrap().to_owned();
        assert!(what.contains("/dev/vhost-vsock is not there"), "{what}");
    }
}

/// The kernel's options as they are in /proc.
#[test]
fn packed_options_are_read() {
    let Some(device) = Device::new("ack61") else { return };
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(KERNEL.replace("SECCOMP_FILTER=y", "SECCOMP_FILTER=n").as_bytes()).unwrap();
    fs::write(device.at("config"), packer.finish().unwrap()).unwrap();
    let told = device.examine();
    let what = told.of("kernel-option")["message"].as_str().unwrap();
    assert!(what.starts_with("CONFIG_SECCOMP_FILTER is off"), "{what}");
    fs::remove_file(device.at("config")).unwrap();
    let told = device.examine();
    let note = told.findings.iter().find(|finding| finding["about"] == "kernel").unwrap();
    assert_eq!(note["result"], "note", "{note}");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_launcher_that_holds_the_node_is_named() {
    let Some(device) = Device::new("ack61") else { return };
    let program = device.at("qcrosvm");
    fs::copy("/bin/sleep", &program).unwrap();
    let start =
        |input: Stdio| Running(Command::new(&program).arg("600").stdin(input).spawn().unwrap());
    let idle = start(Stdio::null());
    let told = device.examine();
    assert_eq!(told.troubles(), ["service-silent"]);
    let note = format!("qcrosvm (pid {}) runs, and does not have", idle.0.id());
    assert!(told
        .findings
        .iter()
        .any(|finding| finding["message"].as_str().unwrap().starts_with(&note)));
    let holder = start(File::open(device.at("gunyah")).unwrap().into());
    let told = device.examine();
    assert_eq!(told.troubles(), ["node-other-launcher", "service-silent"]);
    let what = told.of("node-other-launcher")["message"].as_str().unwrap();
    let begin = format!("qcrosvm (pid {}) has {}", holder.0.id(), device.at("gunyah").display());
    assert!(what.starts_with(&begin), "{what}");
    // Who may not look into it still learns that it runs.
    let mut blind = device.doctor(&["--json"]);
    blind.uid(65534).gid(65534);
    fs::set_permissions(&device.dir.0, Permissions::from_mode(0o755)).unwrap();
    let output = blind.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let text = report.to_string();
    assert!(
        text.contains(&format!("qcrosvm (pid {}) runs; which files it has open", idle.0.id())),
        "{report:#}"
    );
    assert!(text.contains("cannot be seen: run it as root"), "{report:#}");
}

#[test]
fn a_service_and_its_vms_are_asked() {
    let Some(mut device) = Device::new("none") else { return };
    let log = File::create(device.at("log")).unwrap();
    let service = Running(device.gunyahd(&["boot"]).stderr(log).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    while UnixStream::connect(device.at("socket")).is_err() {
        assert!(Instant::now() < end, "no control socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    // It comes back when the VM has failed, because there is no such device.
    let mut start = Command::new(env!("CARGO_BIN_EXE_gunyahctl"));
    start.arg("--socket").arg(device.at("socket")).args(["start", "a"]);
    assert_eq!(start.output().unwrap().status.code(), Some(1));
    device.dialect = "ack61";
    let told = device.examine();
    assert_eq!(told.troubles(), ["service-vm-down"]);
    let what = told.of("service-vm-down")["message"].as_str().unwrap();
    assert!(what.starts_with("a is failed: device: there is no Gunyah device: "), "{what}");
    assert!(told.good("service").ends_with(": a failed"));
    assert!(told.good("memlock").contains("the service (pid "));
    drop(service);
}

#[test]
fn a_reserve_that_is_too_small_is_told() {
    let Some(device) = Device::new("ack612") else { return };
    device.vm("a", &json!({ "size": "16M" }));
    let end = Instant::now() + Duration::from_secs(60);
    for (size, name) in [("8M", Some("reserve-too-small")), ("16M", None)] {
        let _ = fs::remove_file(device.at("socket"));
        let mut boot = device.gunyahd(&["boot", "--reserve", size]);
        let service = Running(boot.stderr(Stdio::null()).spawn().unwrap());
        let told = loop {
            let told = device.examine();
            if !told.troubles().contains(&"service-silent") {
                break told;
            }
            assert!(Instant::now() < end, "no control socket");
        };
        let found = told.troubles().into_iter().find(|found| *found == "reserve-too-small");
        assert_eq!(found, name, "{:#?}", told.findings);
        let chosen = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        let chosen = chosen.unwrap_or_default();
        let off = ["[never]", "[deny]"].iter().any(|word| chosen.contains(word));
        let mut whole = false;
        if name.is_none() {
            let what = told.good("reserve");
            assert!(what.contains("take 8 folios of 2 MiB: there are 8, "), "{what}");
            whole = what.ends_with(" 8 of them huge");
        }
        // A whole reserve takes no more of what is set there.
        let warned = told.named("warning").contains(&"thp-off");
        assert_eq!(warned, off && !whole, "{chosen}: {:#?}", told.findings);
        drop(service);
    }
}
