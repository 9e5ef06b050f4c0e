// SPDX-License-Identifier: Apache-2.0
//! The way from config and plan to the blob.

use gunyah::Trigger;

use crate::config::VmConfig;
use crate::diagnostic::{kinds, Diagnostic};
use crate::plan::{self, LaunchPlan, PlannedDevice};

use super::parse::{self, UNREADABLE};
use super::tree::Tree;
use super::write::UNWRITABLE;
use super::{complete, devices, generate, rules};

kinds! {
    // Read in newer ones.
    OVERLAY_ROOM: Warning "dtb-overlay-room" in Dtb {
        "the devicetree's range has no room for the overlay",
        cause: "newer resource managers want twice the devicetree with its overlay where that is more than 16 KiB, and START answers ENODEV",
        cure: "give a larger dtb.room, a smaller devicetree, or more memory: from 8 MiB on the devicetree has 2 MiB",
    }
}

/// A devicetree with its overlay up to this size is made elsewhere and copied back.
const HEAP_TREE: u64 = 16 << 10;
/// What the overlay takes at most, as seen.
const OVERLAY: u64 = 2 << 10;

/// Random bytes for the guest, drawn by the caller so that building stays pure; zeros where the tree is
/// only shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seeds {
    /// `/chosen/rng-seed`: for the guest's random number generator.
    pub rng: [u8; 32],
    /// `/chosen/kaslr-seed`. The resource manager writes its own over it.
    pub kaslr: u64,
}

/// A devicetree that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devicetree {
    /// To be printed.
    pub tree: Tree,
    /// To be put into guest memory.
    pub blob: Vec<u8>,
    pub warnings: Vec<Diagnostic>,
}

impl Devicetree {
    /// The trigger of a device's interrupt.
    pub fn trigger(&self, config: &VmConfig, device: &PlannedDevice) -> Trigger {
        devices::trigger(&self.tree, config, device)
    }
}

/// How many bytes [`build`]'s blob has at most, whatever the plan and the seeds.
pub fn len_max(config: &VmConfig, given: Option<&[u8]>) -> u64 {
    // Measured, and held against trees of all kinds by a test.
    const HARDWARE: u64 = 768;
    const EACH_CPU: u64 = 104;
    const COMPLETED: u64 = 1024;
    // Of the interrupt controller and the console.
    const GIVEN_PATHS: u64 = 512;
    const EACH_AFFINITY: u64 = 4;
    const EACH_REGION: u64 = 240;
    const CONSOLE: u64 = 640;
    const FIRMWARE: u64 = 256;
    const EACH_DEVICE: u64 = 400;
    const POOL: u64 = 480;
    const PCI: u64 = 480;
    const POWER_KEY: u64 = 384;

    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let times = |bytes: u64, number: u64| bytes.saturating_mul(number);
    let cpus = u64::from(config.vcpus.count);
    let devices = plan::devices(config);
    let parts = [
        match given {
            // What cannot be read is not built.
            Some(blob) => parse::rewritten_len_max(blob).map_or(0, count),
            None => times(EACH_CPU, cpus).saturating_add(HARDWARE),
        },
        given.map_or(0, |_| GIVEN_PATHS),
        COMPLETED,
        times(EACH_AFFINITY, cpus),
        count(config.kernel.cmdline.len()),
        times(EACH_REGION, count(config.regions.len())),
        config.console.as_ref().map_or(0, |_| CONSOLE),
        config.firmware.as_ref().map_or(0, |_| FIRMWARE),
        times(EACH_DEVICE, count(devices.len())),
        if devices.is_empty() { 0 } else { POOL + PCI },
        if config.has_power_key() { POWER_KEY } else { 0 },
    ];
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Makes the devicetree of a planned VM: completes the given blob, or generates a tree.
///
/// # Errors
/// Every rule that it breaks, each at the key of the config that is nearest to it.
pub fn build(
    config: &VmConfig,
    given: Option<&[u8]>,
    plan: &LaunchPlan,
    seeds: &Seeds,
) -> Result<Devicetree, Vec<Diagnostic>> {
    let mut faults = Faults::new(config);
    let mut tree = match given.map(Tree::parse) {
        None => generate::hardware(config, plan.scheduling),
        Some(Ok(tree)) => tree,
        Some(Err(error)) => {
            let fault = UNREADABLE.case(format!("the devicetree cannot be read: {error}"));
            return Err(Faults::only(config, fault));
        }
    };
    complete::complete(&mut tree, config, plan, seeds, &mut faults);
    faults.found.extend(rules::check(&tree, config, plan));
    if faults.found.iter().any(Diagnostic::is_error) {
        faults.found.retain(Diagnostic::is_error);
        return Err(faults.found);
    }
    match tree.to_blob() {
        Ok(blob) => {
            overlay_room(&blob, plan, &mut faults);
            Ok(Devicetree { tree, blob, warnings: faults.found })
        }
        Err(error) => {
            let fault = UNWRITABLE.case(format!("the devicetree cannot be written: {error}"));
            Err(Faults::only(config, fault))
        }
    }
}

fn overlay_room(blob: &[u8], plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let with = u64::try_from(blob.len()).unwrap_or(u64::MAX).saturating_add(OVERLAY);
    let needed = if with <= HEAP_TREE { with } else { with.saturating_mul(2) };
    if needed > plan.dtb.size {
        let what = format!(
            "the devicetree has {:#x} bytes; with the overlay it needs {needed:#x}, its range has {:#x}",
            blob.len(),
            plan.dtb.size
        );
        faults.add_at("dtb.room", OVERLAY_ROOM.case(what));
    }
}

/// What is wrong with a tree, each fault at a key of the config.
pub(super) struct Faults<'a> {
    config: &'a VmConfig,
    pub found: Vec<Diagnostic>,
}

impl<'a> Faults<'a> {
    pub fn new(config: &'a VmConfig) -> Self {
        Self { config, found: Vec::new() }
    }

    fn only(config: &VmConfig, fault: Diagnostic) -> Vec<Diagnostic> {
        let mut faults = Faults::new(config);
        faults.add(fault);
        faults.found
    }

    /// Adds a fault of the given tree.
    pub fn add(&mut self, fault: Diagnostic) {
        self.add_at("dtb.path", fault);
    }

    /// Adds a fault of the tree that comes from `key` where the tree is generated.
    pub fn add_from(&mut self, key: &str, fault: Diagnostic) {
        match self.config.dtb.path {
            Some(_) => self.add(fault),
            None => self.add_at(key, fault),
        }
    }

    /// Adds a fault that tree and `key` share.
    pub fn add_at(&mut self, key: &str, fault: Diagnostic) {
        // The same files give the same tree.
        self.found.push(fault.at(self.config.place(key)).lasting());
    }
}
