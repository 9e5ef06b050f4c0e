// SPDX-License-Identifier: Apache-2.0
//! `gunyahd doctor` on this host: nothing is wrong, and each planted trouble is found.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context, Result};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use serde_json::Value;

use crate::rc;

/// gunyahd's doctor, as root, before its own simulated driver.
fn doctor() -> Command {
    let mut command = Command::new("/sim/gunyah-sim");
    let dialect = fs::read_to_string(crate::DIALECT).unwrap_or_default();
    command.args(["--dialect", &dialect, "--", "/vendor/bin/gunyahd", "doctor", "--json"]);
    command
}

/// Names of all errors and warnings, but for what this host is like: its kernel gives shared memory no huge pages
/// by itself, nobody has set a reserve, and the hypervisor schedules a VM.
fn names(command: &mut Command) -> Result<Vec<String>> {
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&told)
        .with_context(|| format!("{told}{}", String::from_utf8_lossy(&output.stderr)))?;
    let findings = report["findings"].as_array().context("no findings")?;
    for finding in findings {
        println!("doctor: {finding}");
    }
    let names = findings.iter().filter_map(|finding| finding["name"].as_str());
    let planted = names
        .filter(|name| !["thp-off", "reserve-too-small", "plan-hypervisor-stop"].contains(name));
    Ok(planted.map(str::to_owned).collect())
}

fn finds(command: &mut Command, wanted: &[&str]) -> Result<()> {
    let found = names(command)?;
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    Ok(())
}

/// A device as it should be.
pub fn nothing_wrong() -> Result<()> {
    finds(&mut doctor(), &[])
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Troubles of the node: its mode, and another launcher that holds it.
pub fn troubles_of_the_node() -> Result<()> {
    let system = rc::aid("system")?;
    chown(crate::DEVICE, Some(0), Some(0))?;
    let found = finds(&mut doctor(), &["node-mode"]);
    chown(crate::DEVICE, Some(system), Some(system))?;
    found?;

    fs::copy("/init", "/data/qcrosvm")?;
    fs::set_permissions("/data/qcrosvm", Permissions::from_mode(0o755))?;
    let _other = Running({
        // It has the node open as long as it lives.
        let mut other = Command::new("/data/qcrosvm");
        other.arg("linger").stdin(Stdio::from(File::open(crate::DEVICE)?)).spawn()?
    });
    finds(&mut doctor(), &["node-other-launcher"])
}

/// Troubles of the VMs' files: more huge pages than there are, and no JSON.
pub fn troubles_of_files() -> Result<()> {
    fs::create_dir_all("/data/vms")?;
    let dirs = ["--config-dir", "/vendor/etc/gunyah", "--config-dir", "/data/vms"];
    let large = r#"{"name": "large", "memory": {"size": "512M", "backing": ["hugetlb"]},
        "kernel": {"path": "/vendor/vm/Image"}}"#;
    fs::write("/data/vms/large.json", large)?;
    // Later drivers take no pages of a pool.
    let name = match fs::read_to_string(crate::DIALECT)?.as_str() {
        "ack61" => "pool-short",
        _ => "plan-hugetlb",
    };
    finds(doctor().args(dirs), &[name])?;
    fs::write("/data/vms/large.json", "{")?;
    let found = names(doctor().args(dirs))?;
    ensure!(found.len() == 1 && found[0].starts_with("config-"), "{found:?}");
    Ok(())
}

/// Troubles of the host: a low limit where no service runs, no property service, a kernel without an option.
pub fn troubles_of_the_host() -> Result<()> {
    let system = rc::aid("system")?;
    let limit = Resource::RLIMIT_MEMLOCK;
    let (soft, hard) = getrlimit(limit)?;
    setrlimit(limit, 64 << 10, 64 << 10)?;
    let mut limited = doctor();
    limited.args(["--socket", "/data/none"]).uid(system).gid(system);
    let found = finds(&mut limited, &["service-silent", "memlock-low"]);
    setrlimit(limit, soft, hard)?;
    found?;
    let mut alone = doctor();
    alone.env("GUNYAHD_PROPERTY_SOCKET", "/data/none");
    finds(&mut alone, &["no-property-service"])?;
    // All but CONFIG_SECCOMP_FILTER.
    let options = ["GUNYAH", "HUGETLBFS", "TRANSPARENT_HUGEPAGE", "SHMEM"];
    let options: String = options.iter().map(|name| format!("CONFIG_{name}=y\n")).collect();
    fs::write("/data/config", options)?;
    finds(doctor().args(["--kernel-config", "/data/config"]), &["kernel-option"])
}
