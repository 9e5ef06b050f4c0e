// SPDX-License-Identifier: Apache-2.0
//! All files of a host: every `*.json` of the directories, and what the files must keep together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::circle::circle;
use super::compound::item_key;
use super::json::Position;
use super::keys::nearest;
use super::load::{errno, parse_named, read};
use super::names::{Dependency, VmName};
use super::report::sort;
use super::sections::VmConfig;
use crate::diagnostic::{kinds, Diagnostic, Place};

kinds! {
    DIRECTORY: Error "config-directory" in Config {
        "a config directory cannot be read",
        cure: "check the path, and the directory's mode, owner and SELinux label",
    }
    EMPTY: Warning "config-empty-directory" in Config {
        "a config directory has no config in it",
        cure: "name the configs *.json",
    }
    NAME_TAKEN: Error "config-name-taken" in Config {
        "two files describe a VM of the same name",
        cure: "give each VM its own name",
    }
    UNKNOWN_VM: Error "config-unknown-vm" in Config {
        "a VM waits for one that no file describes",
        cure: "add a file for the other VM, or remove it from start.after",
    }
    NEVER_READY: Error "config-never-ready" in Config {
        "a VM waits until another one is ready, which never says so",
        cure: "give the other VM a `ready`, or wait for it to run",
    }
    CIRCLE: Error "config-circle" in Config {
        "VMs wait for each other",
        cure: "remove one of them from the start.after of another",
    }
}

/// One file of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The VM's name: the one in the config; for a file with mistakes the one it had before, or one made
    /// of the file's name. No two files of a set have the same.
    pub vm: VmName,
    /// The config, or everything that is wrong with it.
    pub config: Result<VmConfig, Vec<Diagnostic>>,
}

/// The files of some directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigSet {
    /// In the order of the directories, by name within each.
    pub files: Vec<ConfigFile>,
    /// Directories that could not be read; each is the file of its place.
    pub problems: Vec<Diagnostic>,
    /// Directories that have no config in them, likewise.
    pub warnings: Vec<Diagnostic>,
}

impl ConfigSet {
    /// Every problem: of directories, then of files.
    pub fn all_problems(&self) -> impl Iterator<Item = &Diagnostic> {
        let of_files = self.files.iter().filter_map(|file| file.config.as_ref().err());
        self.problems.iter().chain(of_files.flatten())
    }

    /// Whether nothing is known of `file` now, because its directory could not be read.
    pub fn is_unread(&self, file: &Path) -> bool {
        let unread = |problem: &Diagnostic| match &problem.place {
            Some(place) => file.parent() == Some(&place.file),
            None => false,
        };
        self.problems.iter().any(unread)
    }

    /// The configs without a problem.
    pub fn good(&self) -> impl Iterator<Item = &VmConfig> {
        self.files.iter().filter_map(|file| file.config.as_ref().ok())
    }

    /// The configs in `directory`; notes if there are none, or if it cannot be read.
    fn files_in(&mut self, directory: &Path) -> Vec<PathBuf> {
        let place = Position::WHOLE.place(directory, "");
        let found = json_files(directory);
        match &found {
            Ok(found) if !found.is_empty() => {}
            Ok(_) => {
                let empty = EMPTY.case("there is no *.json in the directory");
                self.warnings.push(empty.at(place));
            }
            Err(error) => {
                let unread = DIRECTORY.case("the directory cannot be read");
                self.problems.push(unread.errno(errno(error)).at(place));
            }
        }
        found.unwrap_or_default()
    }
}

/// Reads all `*.json` of some directories and checks them together. `known` are the VMs that files
/// described before: a file that has mistakes now still belongs to its VM, and the names of VMs in a
/// directory that cannot be read are taken.
pub fn load_dirs(directories: &[PathBuf], known: &BTreeMap<PathBuf, VmName>) -> ConfigSet {
    let mut set = ConfigSet::default();
    let mut paths = Vec::new();
    for directory in directories {
        paths.extend(set.files_in(directory));
    }
    // A VM that no file describes may be in a directory that could not be read.
    let whole = set.problems.is_empty();
    fill(&mut set, paths, whole, known);
    set
}

/// Reads files and directories and checks them together. Where only files are given, a VM that none of
/// them describes may have another file, so waiting for it is not a mistake.
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

/// The configs in a directory, by name. Hidden files are an editor's.
fn json_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(b".json") && !name.starts_with(b".") {
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
    let owners = known
        .iter()
        .filter(|(path, _)| set.is_unread(path))
        .map(|(path, vm)| (vm.clone(), path.display().to_string()));
    set.files = name_all(loaded, owners.collect());
    refuse_waits(&mut set.files, whole);
}

/// Why a file may have its name; the first is the best reason.
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
    /// The name that it is known by.
    name: Option<VmName>,
    claim: Claim,
    config: Result<VmConfig, Vec<Diagnostic>>,
}

fn load_named(path: PathBuf, before: Option<&VmName>) -> Loaded {
    let (said, config) = match read(&path) {
        Ok(text) => parse_named(&path, &text),
        Err(problem) => (None, Err(vec![problem])),
    };
    let (name, claim) = match (&config, before) {
        (Ok(_), _) => (said, Claim::Good),
        (Err(_), Some(before)) => (Some(before.clone()), Claim::Known),
        (Err(_), None) => (said, Claim::Said),
    };
    Loaded { path, name, claim, config }
}

/// Gives each file a name of its own. `owners` are the names that are taken, and where. The first file
/// of the best claim keeps a name; a good file that comes later is refused. A file without a name is
/// known by its file's name, made unique.
fn name_all(mut loaded: Vec<Loaded>, mut owners: BTreeMap<VmName, String>) -> Vec<ConfigFile> {
    for claim in [Claim::Good, Claim::Known, Claim::Said] {
        for file in loaded.iter_mut().filter(|file| file.claim == claim) {
            let Some(name) = file.name.clone() else {
                continue;
            };
            let mut place = file.path.display().to_string();
            if let Ok(config) = &file.config {
                let Place { line, column, .. } = config.place("name");
                place.push_str(&format!(":{line}:{column}"));
            }
            let Some(owner) = owners.get(&name) else {
                owners.insert(name, place);
                continue;
            };
            file.name = None;
            if let Ok(config) = &file.config {
                let taken = format!("\"{name}\" is the name of another VM, in {owner}");
                file.config = Err(vec![NAME_TAKEN.case(taken).at(config.place("name"))]);
            }
        }
    }
    let mut taken: BTreeSet<VmName> = owners.into_keys().collect();
    let mut files = Vec::new();
    for Loaded { path, name, config, .. } in loaded {
        let Some(vm) = name.or_else(|| name_of_path(&path, &taken)) else {
            continue;
        };
        taken.insert(vm.clone());
        files.push(ConfigFile { path, vm, config });
    }
    files
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

/// Refuses files that wait for what never comes. All are looked at before any is refused, so that one
/// mistake does not hide another. Where the files are not the `whole`, a VM may have its file elsewhere.
fn refuse_waits(files: &mut [ConfigFile], whole: bool) {
    let waits: Vec<Vec<Diagnostic>> = files
        .iter()
        .map(|file| match &file.config {
            Ok(config) => wrong_waits(config, files, whole),
            Err(_) => Vec::new(),
        })
        .collect();
    for (file, mut mistakes) in files.iter_mut().zip(waits) {
        if !mistakes.is_empty() {
            sort(&mut mistakes);
            file.config = Err(mistakes);
        }
    }
}

/// What is wrong with the `start.after` of one VM.
fn wrong_waits(config: &VmConfig, files: &[ConfigFile], whole: bool) -> Vec<Diagnostic> {
    let after = &config.start.after;
    let mut mistakes = Vec::new();
    for (index, Dependency { vm, ready }) in after.iter().enumerate() {
        let place = config.place(&item_key("start.after", index));
        let other = files.iter().find(|file| file.vm == *vm);
        match other.map(|file| &file.config) {
            None if whole => {
                let mut mistake =
                    UNKNOWN_VM.case(format!("waits for \"{vm}\", which no file describes"));
                let names = files.iter().map(|file| file.vm.as_str());
                if let Some(near) = nearest(vm.as_str(), names) {
                    mistake = mistake.cure(format!("did you mean \"{near}\"?"));
                }
                mistakes.push(mistake.at(place));
            }
            Some(Ok(other)) if *ready && other.ready.is_none() => {
                let mistake = NEVER_READY
                    .case(format!("waits for {vm} to be ready, and {vm} has no `ready`"))
                    .cure(format!("give {vm} a `ready`, or wait for \"{vm}\" to run"));
                mistakes.push(mistake.at(place));
            }
            _ => {}
        }
    }
    let after_of = |name: &str| {
        let file = files.iter().find(|file| file.vm.as_str() == name);
        let config = file.and_then(|file| file.config.as_ref().ok());
        config.map_or(&[][..], |config| &config.start.after)
    };
    if let Some(circle) = circle(config.name.as_str(), after_of) {
        let next = after.iter().position(|wait| wait.vm.as_str() == circle[1]);
        let key = next.map_or("start.after".to_owned(), |index| item_key("start.after", index));
        let what = format!("these VMs wait for each other: {}", circle.join(" -> "));
        mistakes.push(CIRCLE.case(what).at(config.place(&key)));
    }
    mistakes
}
