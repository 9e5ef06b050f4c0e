// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its plan and its devicetree, as a launch would have them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Options, VmReport};
use crate::config::{VmConfig, VmName};
use crate::diagnostic::{kinds, Diagnostic};
use crate::dtb::{self, Seeds};
use crate::image::Images;
use crate::plan::{plan, Host, LaunchPlan};

kinds! {
    NOT_STARTED: Warning "check-not-started" in Config {
        "a VM that is started at boot waits for one that is not",
        cure: "set `autostart` of the other VM, or start it by gunyahctl start",
    }
}

/// All that can be known of a VM, and all that is wrong with it.
pub(super) fn vm(config: VmConfig, options: &Options) -> (VmReport, Vec<Diagnostic>) {
    let host = &options.host;
    let mut report = VmReport {
        huge_pages: config.huge_pages(host.huge_page),
        plan: None,
        dtb_source: None,
        warnings: Vec::new(),
        config,
    };
    let found = below(&report.config, options.root.as_deref());
    match launch(&report.config, &found, host, &mut report.warnings) {
        Ok((plan, dtb_source)) => {
            report.plan = Some(plan);
            report.dtb_source = Some(dtb_source);
            (report, Vec::new())
        }
        Err(mut problems) => {
            problems.sort_by(|a, b| a.place.cmp(&b.place));
            (report, problems)
        }
    }
}

/// What a launch does before it takes memory: the plan, and the devicetree as source. The files are
/// those that `found` names.
fn launch(
    config: &VmConfig,
    found: &VmConfig,
    host: &Host,
    warnings: &mut Vec<Diagnostic>,
) -> Result<(LaunchPlan, String), Vec<Diagnostic>> {
    let images = Images::open(found)?;
    // A file that is larger than its memory is the plan's to refuse, and takes long to unpack.
    if images.info.kernel.size <= config.memory.size {
        images.verify_kernel(config).map_err(|wrong| vec![wrong])?;
    }
    let given = images.dtb.as_deref();
    let plan = plan(config, &images.info, dtb::len_max(config, given), host)?;
    let built = dtb::build(config, given, &plan, &Seeds::default())?;
    warnings.extend(built.warnings);
    warnings.extend(plan.warnings.iter().cloned());
    Ok((plan, built.tree.to_source()))
}

/// The config with its paths below `root`.
fn below(config: &VmConfig, root: Option<&Path>) -> VmConfig {
    let mut config = config.clone();
    let Some(root) = root else { return config };
    let mut paths: Vec<&mut PathBuf> = vec![&mut config.kernel.path];
    paths.extend(config.initrd.as_mut().map(|initrd| &mut initrd.path));
    paths.extend(config.dtb.path.as_mut());
    let regions = config.regions.iter_mut();
    paths.extend(regions.filter_map(|region| region.file.as_mut()));
    for path in paths {
        *path = root.join(path.strip_prefix("/").unwrap_or(path));
    }
    config
}

/// What a VM that is started at boot waits for until somebody starts it.
pub(super) fn waits(config: &VmConfig, asleep: &BTreeSet<VmName>) -> Vec<Diagnostic> {
    let after = config.start.after.iter().enumerate();
    after
        .filter(|(_, wanted)| config.autostart && asleep.contains(&wanted.vm))
        .map(|(index, wanted)| {
            let what = format!("waits for {}, which is not started at boot", wanted.vm);
            let place = config.place(&format!("start.after[{index}]"));
            NOT_STARTED.case(what).at(place)
        })
        .collect()
}
