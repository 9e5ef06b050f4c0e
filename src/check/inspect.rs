// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its plan and its devicetree, as a launch would have them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Options, VmReport};
use crate::config::{VmConfig, VmName};
use crate::diagnostic::{kinds, Diagnostic};
use crate::dtb::{Draft, Seeds};
use crate::image::Images;
use crate::plan::{plan, Host, LaunchPlan};

kinds! {
    NOT_STARTED: Warning "check-not-started" in Config {
        "a VM that is started at boot waits for one that is not",
        cause: "",
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
    let images = Images::open(found).map_err(|wrong| old::images(config, wrong))?;
    // A file that is larger than its memory is the plan's to refuse, and takes long to unpack.
    if images.info.kernel.size <= config.memory.size {
        let verified = images.verify_kernel();
        verified.map_err(|wrong| old::images(config, vec![wrong]))?;
    }
    let draft = match &images.dtb {
        Some(bytes) => Draft::given(bytes, found),
        None => Draft::generated(found),
    };
    let draft = draft.map_err(|wrong| old::dtb(config, &wrong))?;
    warnings.extend(old::dtb_warnings(config, &draft));
    let plan = plan(config, &images.info, draft.facts().blob_len_max, host)
        .map_err(|wrong| old::plan(config, wrong))?;
    let finished = draft.finish(&plan, &Seeds::PLACEHOLDER);
    let finished = finished.map_err(|wrong| old::dtb(config, &wrong))?;
    warnings.extend(old::plan_warnings(config, &plan));
    Ok((plan, finished.tree.to_source()))
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

/// Problems of the folders that do not speak in diagnostics yet.
#[allow(dead_code)]
mod old {
    use nix::errno::Errno;

    use crate::config::VmConfig;
    use crate::diagnostic::{kinds, Diagnostic};
    use crate::dtb::{Draft, DtbProblem};
    use crate::image::ImageProblem;
    use crate::plan::{LaunchPlan, PlanProblem};

    kinds! {
        IMAGE: Error "image" in Images { "", cause: "", cure: "" }
        PLAN: Error "plan" in Plan { "", cause: "", cure: "" }
        DTB: Error "dtb" in Dtb { "", cause: "", cure: "" }
        PLANNED: Warning "plan" in Plan { "", cause: "", cure: "" }
        MENDED: Warning "dtb" in Dtb { "", cause: "", cure: "" }
    }

    pub fn images(config: &VmConfig, wrong: Vec<ImageProblem>) -> Vec<Diagnostic> {
        let of = |wrong: ImageProblem| {
            let error = wrong.error;
            let problem = IMAGE.case(error.what).cause(error.cause).cure(error.cure);
            let problem = match error.errno {
                Some(raw) => problem.errno(Errno::from_raw(raw)),
                None => problem,
            };
            problem.at(config.place(&wrong.key))
        };
        wrong.into_iter().map(of).collect()
    }

    pub fn plan(config: &VmConfig, wrong: Vec<PlanProblem>) -> Vec<Diagnostic> {
        let of = |wrong: PlanProblem| {
            let problem = PLAN.case(wrong.what).cure(wrong.cure);
            problem.at(config.place(&wrong.key))
        };
        wrong.into_iter().map(of).collect()
    }

    pub fn plan_warnings<'a>(
        config: &'a VmConfig,
        plan: &'a LaunchPlan,
    ) -> impl Iterator<Item = Diagnostic> + 'a {
        let warnings = plan.warnings.iter();
        warnings.map(|warning| PLANNED.case(warning).at(config.place("memory")))
    }

    pub fn dtb(config: &VmConfig, wrong: &[DtbProblem]) -> Vec<Diagnostic> {
        let stops = wrong.iter().filter(|wrong| !wrong.is_warning());
        stops
            .map(|wrong| {
                let mut problem = named(DTB.case(wrong.what()), wrong);
                problem.start_answers = wrong.errno().map(|errno| errno as i32);
                problem.at(config.place(wrong.key()))
            })
            .collect()
    }

    pub fn dtb_warnings(config: &VmConfig, draft: &Draft) -> Vec<Diagnostic> {
        let at = |problem: Diagnostic, wrong: &DtbProblem| problem.at(config.place(wrong.key()));
        let warnings = draft.warnings().iter();
        let warnings = warnings.map(|wrong| at(named(MENDED.case(wrong.what()), wrong), wrong));
        let mended = draft.mended().iter().map(|wrong| {
            let mended = MENDED.case(format!("mended: {}", wrong.what()));
            at(named(mended, wrong), wrong)
        });
        warnings.chain(mended).collect()
    }

    fn named(mut problem: Diagnostic, wrong: &DtbProblem) -> Diagnostic {
        problem.name = format!("dtb-{}", wrong.rule()).into();
        problem.cause(wrong.cause()).cure(wrong.cure())
    }
}
