// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its devicetree and its plan, every problem at its key's place.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Options, VmReport};
use crate::config::{Partial, Places, Problem, VmConfig};
use crate::diagnostic::Diagnostic;
use crate::dtb::{self, Seeds};
use crate::image::{
    arm64, probe, ImageInfo, ImageProblem, Images, KernelInfo, KernelLayout, OpenFile,
};
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
    let at = At::of(config);

    let images = match Images::open(&found) {
        Ok(images) => Some(images),
        Err(wrong) => {
            problems.extend(wrong.iter().map(|wrong| of_image(at, wrong)));
            None
        }
    };
    if let Some(images) = &images {
        // What is larger than its memory is the plan's to tell, and takes long to unpack.
        if images.info.kernel.size <= config.memory.size {
            let damaged = images.verify_kernel().err();
            problems.extend(damaged.map(|wrong| of_image(at, &wrong)));
        }
    }
    let given = images.as_ref().and_then(|images| images.dtb.as_deref());
    let planned = match &images {
        Some(images) => plan(config, &images.info, dtb::len_max(config, given), host),
        // Regions, and files that do not fit beside the smallest kernel, are wrong without it too.
        None => plan(config, &stand_in(&found), 0, host),
    };
    match planned {
        Ok(plan) if images.is_some() => {
            match dtb::build(config, given, &plan, &Seeds::default()) {
                // Files can be wrong in ways that the plan does not see.
                Ok(built) if problems.is_empty() => {
                    report.dtb_source = Some(built.tree.to_source());
                    let warnings = built.warnings.iter().map(ToString::to_string);
                    report.warnings.extend(warnings);
                    report.warnings.extend(plan.warnings.iter().cloned());
                    report.plan = Some(plan);
                }
                Ok(_) => {}
                Err(wrong) => problems.extend(of_dtb(at, &wrong)),
            }
        }
        Ok(_) => {}
        Err(wrong) => {
            // What is not there, or no kernel, is told already.
            let stood_in = |key: &str| images.is_none() && key.starts_with("kernel");
            let told = wrong.iter().filter(|wrong| !stood_in(&wrong.key));
            problems.extend(told.map(|wrong| of_plan(at, wrong)));
        }
    }
    problems.sort_by_key(|problem| problem.place);
    problems.dedup();
    (report, problems)
}

/// All that is wrong with a VM whose file has mistakes, the ones that are `told` already included.
pub(super) fn flawed(
    file: &Path,
    mut partial: Partial,
    mut told: Vec<Problem>,
    options: &Options,
) -> Vec<Problem> {
    let found = match partial.config.take() {
        Some(config) => vm(*config, options).1,
        None => files(file, &partial, options.root.as_deref()),
    };
    // A mistake shows in what follows from it once more, by the same key or one around it.
    let news: Vec<Problem> = found
        .into_iter()
        .filter(|problem| !told.iter().any(|told| covers(&told.key, &problem.key)))
        .collect();
    for problem in news {
        let after = |other: &Problem| other.place > problem.place;
        let at = told.iter().position(after).unwrap_or(told.len());
        told.insert(at, problem);
    }
    told
}

/// Whether a mistake of the key `told` can be the reason for one of `key`.
fn covers(told: &str, key: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    // Where a file goes is told by the plan at the file's path.
    let placed = told.strip_suffix(".offset");
    within(told, key) || within(key, told) || placed.is_some_and(|file| within(key, file))
}

/// What is wrong with the files of a VM of which nothing else is known.
fn files(file: &Path, partial: &Partial, root: Option<&Path>) -> Vec<Problem> {
    let at = At {
        file,
        places: &partial.places,
    };
    let mut problems = Vec::new();
    for (key, path) in &partial.files {
        match probe(key, &on_device(path, root), partial.kernel_format) {
            Ok(_) => {}
            Err(wrong) => problems.push(of_image(at, &wrong)),
        }
    }
    problems
}

/// Where a path of the device is found.
fn on_device(path: &Path, root: Option<&Path>) -> PathBuf {
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// The config with its paths below `root`.
fn below(config: &VmConfig, root: Option<&Path>) -> VmConfig {
    let mut config = config.clone();
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
        *path = on_device(path, root);
    }
    config
}

/// Files of which one is missing or no kernel: the smallest kernel, and the others as they are.
fn stand_in(config: &VmConfig) -> ImageInfo {
    let size = |path: &PathBuf| OpenFile::open(path).ok().map(|open| open.size);
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
        initrd: config.initrd.as_ref().and_then(|initrd| size(&initrd.path)),
        regions: config
            .regions
            .iter()
            .map(|region| size(region.file.as_ref()?))
            .collect(),
    }
}

/// A file and its keys.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a Path,
    places: &'a Places,
}

impl<'a> At<'a> {
    fn of(config: &'a VmConfig) -> Self {
        Self {
            file: &config.file,
            places: &config.places,
        }
    }

    fn problem(self, key: &str, message: String, hint: &str) -> Problem {
        let problem = Problem {
            place: self.places.of(key),
            key: key.to_owned(),
            ..Problem::of_file(self.file, message)
        };
        match hint {
            "" => problem,
            hint => problem.hint(hint),
        }
    }
}

fn of_image(at: At<'_>, wrong: &ImageProblem) -> Problem {
    let error = &wrong.error;
    let mut message = error.what.clone();
    if let Some(raw) = error.errno {
        let errno = Errno::from_raw(raw);
        message.push_str(&format!(": {errno:?} ({})", errno.desc()));
    }
    if !error.cause.is_empty() {
        message.push_str(&format!("; {}", error.cause));
    }
    at.problem(&wrong.key, message, &error.cure)
}

fn of_dtb<'a>(at: At<'a>, wrong: &'a [Diagnostic]) -> impl Iterator<Item = Problem> + 'a {
    wrong.iter().map(move |wrong| {
        let key = wrong.place.as_ref().map_or("", |place| place.key.as_str());
        let mut message = format!("{} ({})", wrong.what, wrong.cause);
        if let Some(raw) = wrong.start_answers {
            let errno = Errno::from_raw(raw);
            message.push_str(&format!(", START would answer {errno:?}"));
        }
        at.problem(key, format!("{message} [{}]", wrong.name), &wrong.cure)
    })
}

fn of_plan(at: At<'_>, wrong: &PlanProblem) -> Problem {
    at.problem(&wrong.key, wrong.what.clone(), &wrong.cure)
}
