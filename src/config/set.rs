// SPDX-License-Identifier: Apache-2.0
//! All files of a host: every `*.json` of the directories, and the rules between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::between::{self, Files};
use super::load::{errno, parse_partly, read};
use super::partial::Partial;
use super::problem::Problem;
use super::types::{VmConfig, VmName};

/// One file of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The VM's name: the config's own, or for a broken file that which it can be known by. No two
    /// files of a set have the same.
    pub vm: VmName,
    /// The config, or everything that is wrong with it.
    pub config: Result<VmConfig, Vec<Problem>>,
}

/// The files of some directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigSet {
    /// In the order of the directories, by name within each.
    pub files: Vec<ConfigFile>,
    /// Directories that could not be read.
    pub problems: Vec<Problem>,
    /// Directories that have no config in them.
    pub empty: Vec<PathBuf>,
    /// What could be read of each of `files`, in their order. The config of a good one is with its file.
    pub partial: Vec<Partial>,
}

impl ConfigSet {
    /// Every problem: of directories, then of files.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        let of_files = self
            .files
            .iter()
            .filter_map(|file| file.config.as_ref().err());
        self.problems.iter().chain(of_files.flatten())
    }

    /// Whether nothing is known of `file` now, because its directory could not be read.
    pub fn is_unread(&self, file: &Path) -> bool {
        let mut unread = self.problems.iter();
        unread.any(|problem| file.parent() == Some(problem.file.as_path()))
    }

    /// The configs without a problem.
    pub fn good(&self) -> impl Iterator<Item = &VmConfig> {
        self.files
            .iter()
            .filter_map(|file| file.config.as_ref().ok())
    }

    /// The configs in `directory`; notes if there are none, or if it cannot be read.
    fn files_in(&mut self, directory: &Path) -> Vec<PathBuf> {
        match json_files(directory) {
            Ok(found) => {
                if found.is_empty() {
                    self.empty.push(directory.to_owned());
                }
                found
            }
            Err(problem) => {
                self.problems.push(*problem);
                Vec::new()
            }
        }
    }
}

/// All `*.json` of some directories, held against each other.
pub fn load_dirs(directories: &[PathBuf]) -> ConfigSet {
    reload_dirs(directories, &BTreeMap::new())
}

/// The same, read again. `known` are the VMs that files described before: a file that has mistakes
/// now is still its VM's, and the names of those in a directory that cannot be read are taken.
pub fn reload_dirs(directories: &[PathBuf], known: &BTreeMap<PathBuf, VmName>) -> ConfigSet {
    let mut set = ConfigSet::default();
    let mut paths = Vec::new();
    for directory in directories {
        paths.extend(set.files_in(directory));
    }
    // A VM that no file describes may stand in a directory that could not be read.
    let whole = set.problems.is_empty();
    fill(&mut set, paths, whole, known);
    set
}

/// Files and directories, held against each other. Where only files are given, a VM that none of
/// them describes may stand in another file, so waiting for it is no mistake.
pub fn load_paths(given: &[PathBuf]) -> ConfigSet {
    let mut set = ConfigSet::default();
    let mut paths = Vec::new();
    let mut whole = false;
    for path in given {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        whole = true;
        paths.extend(set.files_in(path));
    }
    fill(&mut set, paths, whole, &BTreeMap::new());
    set
}

// Hidden files are an editor's.
fn json_files(directory: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    let wrong = |error: std::io::Error| {
        let message = format!("the directory cannot be read: {}", errno(&error));
        Box::new(Problem::of_file(directory, message))
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn fill(set: &mut ConfigSet, paths: Vec<PathBuf>, whole: bool, known: &BTreeMap<PathBuf, VmName>) {
    let mut seen = BTreeSet::new();
    let mut loaded = Vec::new();
    for path in paths {
        // The same file by two ways is one file.
        let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if seen.insert(real) {
            let before = known.get(&path);
            loaded.push(load_named(path, before));
        }
    }
    let unread: BTreeMap<VmName, String> = known
        .iter()
        .filter(|(path, _)| set.is_unread(path))
        .map(|(path, vm)| (vm.clone(), path.display().to_string()))
        .collect();
    let mut taken: BTreeSet<VmName> = unread.keys().cloned().collect();
    refuse_twins(&mut loaded, unread);
    taken.extend(loaded.iter().filter_map(|file| file.name.clone()));
    (set.files, set.partial) = name_all(loaded, taken);
    let mut files = Files {
        files: &mut set.files,
        partial: &mut set.partial,
    };
    files.refuse_unknown(whole);
    files.refuse_unready();
    files.refuse_cycles();
}

/// What a file's right to its name rests on; the first is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is good.
    Good,
    /// It has mistakes now, and was that VM's before.
    Known,
    /// It has mistakes, and says so.
    Said,
}

struct Loaded {
    path: PathBuf,
    name: Option<VmName>,
    claim: Claim,
    partial: Partial,
    config: Result<VmConfig, Vec<Problem>>,
}

fn load_named(path: PathBuf, before: Option<&VmName>) -> Loaded {
    let (mut partial, problems) = match read(&path) {
        Ok(text) => parse_partly(&path, &text),
        Err(problem) => (Partial::default(), vec![*problem]),
    };
    let config = match partial.config.take() {
        Some(config) if problems.is_empty() => Ok(*config),
        flawed => {
            partial.config = flawed;
            Err(problems)
        }
    };
    let said = partial.name.clone();
    let (name, claim) = match (&config, before) {
        (Ok(_), _) => (said, Claim::Good),
        (Err(_), Some(before)) => (Some(before.clone()), Claim::Known),
        (Err(_), None) => (said, Claim::Said),
    };
    Loaded {
        path,
        name,
        claim,
        partial,
        config,
    }
}

// The first file of the best claim keeps a name: one that is otherwise broken only if no good one has it.
fn refuse_twins(loaded: &mut [Loaded], mut owners: BTreeMap<VmName, String>) {
    for claim in [Claim::Good, Claim::Known, Claim::Said] {
        for file in loaded.iter_mut().filter(|file| file.claim == claim) {
            let Some(name) = file.name.clone() else {
                continue;
            };
            let Some(owner) = owners.get(&name) else {
                let place = match &file.config {
                    Ok(config) => {
                        let place = config.places.of("name");
                        format!("{}:{}:{}", file.path.display(), place.line, place.column)
                    }
                    Err(_) => file.path.display().to_string(),
                };
                owners.insert(name, place);
                continue;
            };
            file.name = None;
            // A file that says nothing now may be known by a name that has gone to another.
            if file.partial.name.as_ref() == Some(&name) {
                let message = format!("\"{name}\" is the name of another VM, in {owner}");
                let problem = Problem {
                    place: file.partial.places.of("name"),
                    key: "name".to_owned(),
                    ..Problem::of_file(&file.path, message)
                };
                between::add(&mut file.config, &mut file.partial, problem);
            }
        }
    }
}

// A file without a usable name is known by its own, made unique.
fn name_all(loaded: Vec<Loaded>, mut taken: BTreeSet<VmName>) -> (Vec<ConfigFile>, Vec<Partial>) {
    let mut files = Vec::new();
    let mut partial = Vec::new();
    for file in loaded {
        let vm = match file.name {
            Some(name) => Some(name),
            None => name_of_path(&file.path, &taken),
        };
        if let Some(vm) = vm {
            taken.insert(vm.clone());
            files.push(ConfigFile {
                path: file.path,
                vm,
                config: file.config,
            });
            partial.push(file.partial);
        }
    }
    (files, partial)
}

fn name_of_path(path: &Path, taken: &BTreeSet<VmName>) -> Option<VmName> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut text: String = stem
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' => c,
            _ => '-',
        })
        .take(VmName::MAX_LEN - 11)
        .collect();
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        text.insert(0, 'f');
    }
    // One more try than names are taken cannot fail.
    (1..=taken.len() + 1)
        .map(|number| match number {
            1 => text.clone(),
            _ => format!("{text}-{number}"),
        })
        .filter_map(|text| VmName::new(&text))
        .find(|name| !taken.contains(name))
}
