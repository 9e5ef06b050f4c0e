// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its devicetree and its plan, every problem at its key's place.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Options, VmReport};
use crate::config::{KernelConfig, KernelFormat, Partial, Places, Problem, VmConfig};
use crate::diagnostic::Diagnostic;
use crate::dtb::{Draft, DtbProblem, Seeds, Tree};
use crate::error::Step;
use crate::image::{arm64, ImageInfo, Images, Kernel, KernelInfo, KernelLayout, OpenFile};
use crate::plan::plan;

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
            problems.extend(wrong.iter().map(|wrong| of(at, wrong)));
            None
        }
    };
    if let Some(images) = &images {
        // What is larger than its memory is the plan's to tell, and takes long to unpack.
        if images.info.kernel.size <= config.memory.size {
            let damaged = images.verify_kernel(config).err();
            problems.extend(damaged.map(|wrong| of(at, &wrong)));
        }
    }
    let draft = match draft(&found, images.as_ref(), &problems) {
        Some(Ok(draft)) => Some(draft),
        Some(Err(wrong)) => {
            problems.extend(of_dtb(at, &wrong));
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
        // What is wrong without a devicetree is wrong with any.
        (Some(images), None) => plan(config, &images.info, 0, host),
        // So are regions, and files that do not fit beside the smallest kernel.
        (None, _) => plan(config, &stand_in(&found), 0, host),
    };
    match planned {
        Ok(plan) => {
            if let (Some(_), Some(draft)) = (&images, &draft) {
                match draft.finish(&plan, &Seeds::PLACEHOLDER) {
                    // Files can be wrong in ways that the plan does not see.
                    Ok(_) if !problems.is_empty() => {}
                    Ok(finished) => {
                        report.dtb_source = Some(finished.tree.to_source());
                        report
                            .warnings
                            .extend(plan.warnings.iter().map(|w| w.what.clone()));
                        report.plan = Some(plan);
                    }
                    Err(wrong) => problems.extend(of_dtb(at, &wrong)),
                }
            }
        }
        Err(wrong) => {
            // What is not there, or no kernel, is told already.
            let stood_in = |key: &str| images.is_none() && key.starts_with("kernel");
            let told = wrong.iter().filter(|wrong| {
                !wrong
                    .place
                    .as_ref()
                    .is_some_and(|place| stood_in(&place.key))
            });
            problems.extend(told.map(|wrong| of(at, wrong)));
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
        match look(key, &on_device(path, root), partial.kernel_format) {
            Ok(None) => {}
            Ok(Some(dtb)) => {
                let unreadable = Tree::parse(&dtb).err().map(DtbProblem::Unreadable);
                problems.extend(of_dtb(at, unreadable.as_slice()));
            }
            Err(wrong) => problems.push(of_key(at, key, &wrong)),
        }
    }
    problems
}

/// Reads the header of one file; the bytes of a devicetree.
fn look(key: &str, path: &Path, format: KernelFormat) -> Result<Option<Vec<u8>>, Diagnostic> {
    match key {
        "kernel.path" => {
            let config = KernelConfig {
                path: path.to_owned(),
                format,
                offset: None,
                cmdline: String::new(),
            };
            Kernel::open(&config).map(|_| None)
        }
        "dtb.path" => OpenFile::open(path)?.read_dtb().map(Some),
        _ => OpenFile::open(path).map(|_| None),
    }
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

fn of(at: At<'_>, wrong: &Diagnostic) -> Problem {
    let key = wrong.place.as_ref().map_or("", |place| &place.key);
    of_key(at, key, wrong)
}

fn of_key(at: At<'_>, key: &str, wrong: &Diagnostic) -> Problem {
    let mut message = wrong.what.clone();
    if let Some(raw) = wrong.errno {
        let errno = Errno::from_raw(raw);
        message.push_str(&format!(": {errno:?} ({})", errno.desc()));
    }
    if !wrong.cause.is_empty() {
        message.push_str(&format!("; {}", wrong.cause));
    }
    at.problem(key, message, &wrong.cure)
}

/// Named by its rule, so that it can be looked up in `docs/devicetree.md`.
fn of_dtb<'a>(at: At<'a>, wrong: &'a [DtbProblem]) -> impl Iterator<Item = Problem> + 'a {
    let stops = wrong.iter().filter(|wrong| !wrong.is_warning());
    stops.map(move |wrong| {
        let mut message = format!("[{}] {} ({})", wrong.rule(), wrong.what(), wrong.cause());
        if let Some(errno) = wrong.errno() {
            message.push_str(&format!(", START would answer {errno:?}"));
        }
        at.problem(wrong.key(), message, wrong.cure())
    })
}
