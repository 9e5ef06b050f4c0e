// SPDX-License-Identifier: Apache-2.0
//! The guests of one gunyahd: their config files as an integrator would write them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::guest::Assets;
use crate::tree;

/// Memory of the two guests without a disk, 256 and 192 MiB.
pub const MEMORY_BYTES: u64 = (256 + 192) << 20;

/// Files and names.
#[derive(Debug)]
pub struct Guests {
    /// The simulator's.
    pub engine: &'static str,
    /// In the order of their start.
    pub names: Vec<&'static str>,
    /// `--config-dir`
    pub config_dir: PathBuf,
    /// The consoles, one file a guest.
    pub console_dir: PathBuf,
    /// The sockets' directory.
    pub run_dir: PathBuf,
}

impl Guests {
    /// Writes their files to `config/ENGINE` and so on in the demo's folder.
    pub fn write(
        dir: &Path,
        engine: &'static str,
        configs: &[(&'static str, Value)],
    ) -> Result<Self> {
        let guests = Self {
            engine,
            names: configs.iter().map(|(name, _)| *name).collect(),
            config_dir: dir.join("config").join(engine),
            console_dir: dir.join("console"),
            run_dir: dir.join("run").join(engine),
        };
        for dir in [&guests.config_dir, &guests.console_dir, &guests.run_dir] {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        for (name, config) in configs {
            let mut config = config.clone();
            config["name"] = json!(name);
            let path = guests.config_dir.join(format!("{name}.json"));
            fs::write(path, format!("{config:#}\n"))?;
        }
        Ok(guests)
    }

    /// Two in RAM alone: one with a given devicetree, one with a generated one.
    pub fn without_disk(dir: &Path, assets: &Assets, huge_pages: bool) -> Result<Self> {
        let dtb = dir.join("minimal-guest.dtb");
        tree::quiet(
            Command::new("dtc")
                .args(["-I", "dts", "-O", "dtb", "-o"])
                .arg(&dtb)
                .arg(tree::root().join("dts/minimal-guest.dts")),
        )?;
        let backing = match huge_pages {
            true => json!(["hugetlb"]),
            false => json!(["thp"]),
        };
        let given = json!({
            "memory": { "size": "256M", "backing": backing },
            "kernel": { "path": assets.image, "cmdline": "panic=-1" },
            "initrd": { "path": assets.initrd },
            "dtb": { "path": dtb },
            // As its devicetree has it.
            "vcpus": { "scheduling": "hypervisor" },
        });
        let generated = json!({
            "memory": { "size": "192M", "backing": backing },
            "kernel": { "path": assets.image_gz, "cmdline": "panic=-1" },
            "initrd": { "path": assets.initrd },
            "vcpus": { "count": 2 },
            "start": { "after": ["minimal"] },
        });
        // The first one's name is its given devicetree's image-name, by which the console knows it.
        Self::write(dir, "qemu", &[("minimal", given), ("media", generated)])
    }

    /// Appends a line of a console to its file.
    pub fn keep(&self, line: &str) -> Result<()> {
        for name in &self.names {
            let Some(text) = line.strip_prefix(&format!("[{name}] ")) else {
                continue;
            };
            let path = self.console_dir.join(format!("{name}.log"));
            let mut file = File::options().create(true).append(true).open(path)?;
            writeln!(file, "{text}")?;
        }
        Ok(())
    }
}
