// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its devicetree and its plan, every problem at its key's place.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Options, VmReport};
use crate::config::{Problem, VmConfig};
use crate::dtb::{Draft, DtbProblem, Seeds};
use crate::error::Step;
use crate::image::{arm64, ImageInfo, ImageProblem, Images, KernelInfo, KernelLayout, OpenFile};
use crate::plan::{plan, PlanProblem};

/// All that can be known of a VM, and all that is wrong with it.
pub(super) fn vm(config: VmConfig, options: &Options) -> (VmReport, Vec<Problem>) {
    let host = &options.host;
    let mut problems = Vec::new();
    let mut report = VmReport {
        huge_pages: config.huge_pages(host.huge_page),
        plan: None,
        dtb_source: None,
        warnings: Vec::new(),
        config,
    };
    let found = below(&report.config, options.root.as_deref());
    let config = &report.config;

    let images = match Images::open(&found) {
        Ok(images) => Some(images),
        Err(wrong) => {
            problems.extend(wrong.iter().map(|wrong| of_image(config, wrong)));
            None
        }
    };
    if let Some(images) = &images {
        // What is larger than its memory is the plan's to tell, and takes long to unpack.
        if images.info.kernel.size <= config.memory.size {
            let damaged = images.verify_kernel().err();
            problems.extend(damaged.map(|wrong| of_image(config, &wrong)));
        }
    }
    let draft = match draft(&found, images.as_ref(), &problems) {
        Some(Ok(draft)) => Some(draft),
        Some(Err(wrong)) => {
            problems.extend(of_dtb(config, &wrong));
            None
        }
        None => None,
    };
    if let Some(draft) = &draft {
        report.warnings.extend(
            draft
                .warnings()
                .iter()
                .map(|warning| format!("devicetree: {}; {}", warning.what(), warning.cure())),
        );
        report.warnings.extend(draft.mended().iter().map(|problem| {
            format!(
                "devicetree: mended: {} [{}]; {}",
                problem.what(),
                problem.rule(),
                problem.cause()
            )
        }));
    }
    let planned = match (&images, &draft) {
        (Some(images), Some(draft)) => plan(config, &images.info, draft.facts().blob_len_max, host),
        // What is wrong with the regions shows without files as well.
        _ => plan(config, &stand_in(config), 0, host),
    };
    match planned {
        Ok(plan) => {
            if let (Some(_), Some(draft)) = (&images, &draft) {
                match draft.finish(&plan, &Seeds::PLACEHOLDER) {
                    // Files can be wrong in ways that the plan does not see.
                    Ok(_) if !problems.is_empty() => {}
                    Ok(finished) => {
                        report.dtb_source = Some(finished.tree.to_source());
                        report.warnings.extend(plan.warnings.iter().cloned());
                        report.plan = Some(plan);
                    }
                    Err(wrong) => problems.extend(of_dtb(config, &wrong)),
                }
            }
        }
        Err(wrong) => {
            let known = images.is_some() && draft.is_some();
            let told = wrong.iter().filter(|wrong| {
                known || wrong.key.starts_with("memory") || wrong.key.starts_with("regions")
            });
            problems.extend(told.map(|wrong| of_plan(config, wrong)));
        }
    }
    problems.sort_by_key(|problem| problem.place);
    problems.dedup();
    (report, problems)
}

/// The config with its paths below `root`.
fn below(config: &VmConfig, root: Option<&Path>) -> VmConfig {
    let mut config = config.clone();
    let Some(root) = root else { return config };
    let mut paths: Vec<&mut PathBuf> = vec![&mut config.kernel.path];
    paths.extend(config.initrd.as_mut().map(|initrd| &mut initrd.path));
    paths.extend(config.dtb.path.as_mut());
    paths.extend(
        config
            .regions
            .iter_mut()
            .filter_map(|region| region.file.as_mut()),
    );
    for path in paths {
        *path = root.join(path.strip_prefix("/").unwrap_or(path));
    }
    config
}

/// The devicetree before the plan; `None` where its file cannot be had, which is told already.
fn draft(
    config: &VmConfig,
    images: Option<&Images>,
    told: &[Problem],
) -> Option<Result<Draft, Vec<DtbProblem>>> {
    let Some(path) = &config.dtb.path else {
        return Some(Draft::generated(config));
    };
    if let Some(images) = images {
        return Some(Draft::given(images.dtb.as_deref()?, config));
    }
    if told.iter().any(|problem| problem.key == "dtb.path") {
        return None;
    }
    // Another file is missing; this one can be judged all the same.
    let open = OpenFile::open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(open.size).ok()?];
    open.read_at(Step::Images, 0, &mut bytes).ok()?;
    Some(Draft::given(&bytes, config))
}

/// Files that fit everywhere, for a plan of the regions alone.
fn stand_in(config: &VmConfig) -> ImageInfo {
    let header = arm64::Header {
        text_offset: 0,
        image_size: 1,
    };
    ImageInfo {
        kernel: KernelInfo {
            gzip: false,
            size: 1,
            layout: KernelLayout::Image(header),
        },
        initrd: None,
        regions: vec![None; config.regions.len()],
    }
}

fn problem(config: &VmConfig, key: &str, message: String, hint: &str) -> Problem {
    let problem = Problem {
        place: config.places.of(key),
        key: key.to_owned(),
        ..Problem::of_file(&config.file, message)
    };
    match hint {
        "" => problem,
        hint => problem.hint(hint),
    }
}

fn of_image(config: &VmConfig, wrong: &ImageProblem) -> Problem {
    let error = &wrong.error;
    let mut message = error.what.clone();
    if let Some(raw) = error.errno {
        let errno = Errno::from_raw(raw);
        message.push_str(&format!(": {errno:?} ({})", errno.desc()));
    }
    if !error.cause.is_empty() {
        message.push_str(&format!("; {}", error.cause));
    }
    problem(config, &wrong.key, message, &error.cure)
}

/// Named by its rule, so that it can be looked up in `docs/devicetree.md`.
fn of_dtb<'a>(config: &'a VmConfig, wrong: &'a [DtbProblem]) -> impl Iterator<Item = Problem> + 'a {
    let stops = wrong.iter().filter(|wrong| !wrong.is_warning());
    stops.map(|wrong| {
        let mut message = format!("[{}] {} ({})", wrong.rule(), wrong.what(), wrong.cause());
        if let Some(errno) = wrong.errno() {
            message.push_str(&format!(", START would answer {errno:?}"));
        }
        problem(config, wrong.key(), message, wrong.cure())
    })
}

fn of_plan(config: &VmConfig, wrong: &PlanProblem) -> Problem {
    problem(config, &wrong.key, wrong.what.clone(), &wrong.cure)
}
