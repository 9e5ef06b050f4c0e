// SPDX-License-Identifier: Apache-2.0
//! All files of a host: every `*.json` of the directories, and what the files must keep together.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::circle::circle;
use super::compound::item_key;
use super::keys::nearest;
use super::load::{parse, read, said_name};
use super::names::{Dependency, VmName};
use super::report::sort;
use super::sections::VmConfig;
use crate::diagnostic::{kinds, Diagnostic, Place};
use crate::json::Position;
use crate::list;
use crate::text::errno_of;

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
        match json_files(directory) {
            Ok(files) if files.is_empty() => {
                let empty = EMPTY.case("there is no *.json in the directory");
                self.warnings.push(empty.at(place));
            }
            Ok(files) => return files,
            Err(error) => {
                let unread = DIRECTORY.case("the directory cannot be read");
                self.problems.push(unread.errno(errno_of(&error)).at(place));
            }
        }
        Vec::new()
    }
}

/// Reads all `*.json` of some directories and checks them together. `known` are the VMs that files
/// described before: a file that has mistakes now still belongs to its VM, and the names of VMs in a
/// directory that cannot be read are taken.
pub fn load_dirs(directories: &[PathBuf], known: &[(PathBuf, VmName)]) -> ConfigSet {
    load_all(directories, &|_| true, known)
}

/// Reads files and directories and checks them together. Where only files are given, a VM that none of
/// them describes may have another file, so waiting for it is not a mistake.
pub fn load_paths(given: &[PathBuf]) -> ConfigSet {
    load_all(given, &Path::is_dir, &[])
}

fn load_all(
    given: &[PathBuf],
    is_directory: &dyn Fn(&Path) -> bool,
    known: &[(PathBuf, VmName)],
) -> ConfigSet {
    let mut set = ConfigSet::default();
    let mut paths = Vec::new();
    let mut whole = false;
    for path in given {
        if is_directory(path) {
            whole = true;
            paths.extend(set.files_in(path));
        } else {
            paths.push(path.clone());
        }
    }
    // A VM that no file describes may be in a directory that could not be read.
    whole &= set.problems.is_empty();
    // The same file by two ways is one file.
    let mut seen = Vec::new();
    paths.retain(|path| {
        let file = fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let file = file.map_err(|_| path.clone());
        let new = !seen.contains(&file);
        seen.push(file);
        new
    });

    let mut names = Names::default();
    for (path, vm) in known.iter().filter(|(path, _)| set.is_unread(path)) {
        names.take(vm, path.display().to_string());
    }
    let mut loaded = Vec::new();
    for path in paths {
        loaded.push(Loaded::read(path));
    }
    set.files = names.give(loaded, known);
    refuse_waits(&mut set.files, whole);
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
    // As bytes: they differ in their last part only.
    list::sort(&mut paths, |a: &PathBuf, b| a.as_os_str() < b.as_os_str());
    Ok(paths)
}

struct Loaded {
    path: PathBuf,
    config: Result<VmConfig, Vec<Diagnostic>>,
    /// The name in a file with mistakes.
    said: Option<VmName>,
    /// The name that it is known by.
    vm: Option<VmName>,
}

impl Loaded {
    fn read(path: PathBuf) -> Self {
        let (config, said) = match read(&path) {
            Ok(text) => {
                let config = parse(&path, &text);
                let said = if config.is_err() { said_name(&text) } else { None };
                (config, said)
            }
            Err(wrong) => (Err(vec![wrong]), None),
        };
        Self { path, config, said, vm: None }
    }
}

/// The names that are taken, each with the place that has it.
#[derive(Default)]
struct Names(Vec<(VmName, String)>);

impl Names {
    /// Gives each file a name of its own. The first good file with a name keeps it, a later one is
    /// refused. A file with mistakes keeps the name that it had before, or else has the one that it
    /// says, or else one made of its path.
    fn give(mut self, mut loaded: Vec<Loaded>, known: &[(PathBuf, VmName)]) -> Vec<ConfigFile> {
        for file in &mut loaded {
            let Ok(config) = &file.config else { continue };
            let place = config.place("name");
            if let Some(owner) = self.owner(&config.name) {
                let what = format!("\"{}\" is the name of another VM, in {owner}", config.name);
                file.config = Err(vec![NAME_TAKEN.case(what).at(place)]);
                continue;
            }
            let Place { line, column, .. } = place;
            let owner = format!("{}:{line}:{column}", file.path.display());
            self.take(&config.name, owner);
            file.vm = Some(config.name.clone());
        }
        for file in &mut loaded {
            let before = known.iter().find(|(path, _)| *path == file.path);
            self.claim(file, before.map(|(_, vm)| vm.clone()));
        }
        for file in &mut loaded {
            self.claim(file, file.said.clone());
        }
        for file in &mut loaded {
            self.claim(file, self.name_of_path(&file.path));
        }
        let mut files = Vec::new();
        for Loaded { path, config, vm, .. } in loaded {
            files.extend(vm.map(|vm| ConfigFile { path, vm, config }));
        }
        files
    }

    /// The place that has a name.
    fn owner(&self, name: &VmName) -> Option<&str> {
        self.0.iter().find(|(taken, _)| taken == name).map(|(_, place)| &**place)
    }

    fn take(&mut self, name: &VmName, place: String) {
        self.0.push((name.clone(), place));
    }

    /// Gives a file without a name this one, if it is free.
    fn claim(&mut self, file: &mut Loaded, name: Option<VmName>) {
        let Some(name) = name.filter(|name| file.vm.is_none() && self.owner(name).is_none()) else {
            return;
        };
        self.take(&name, file.path.display().to_string());
        file.vm = Some(name);
    }

    /// A free name made of a file's path.
    fn name_of_path(&self, path: &Path) -> Option<VmName> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let allowed = |c: char| match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' => c,
            _ => '-',
        };
        let mut text: String = stem.chars().map(allowed).take(VmName::MAX_LEN - 11).collect();
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            text.insert(0, 'f');
        }
        let mut name = VmName::new(&text)?;
        // One more try than names are taken cannot fail.
        for number in 2..=self.0.len() + 1 {
            if self.owner(&name).is_none() {
                break;
            }
            name = VmName::new(&format!("{text}-{number}"))?;
        }
        Some(name)
    }
}

/// Refuses files that wait for what never comes. All are looked at before any is refused, so that one
/// mistake does not hide another. Where the files are not the `whole`, a VM may have its file elsewhere.
fn refuse_waits(files: &mut [ConfigFile], whole: bool) {
    let mut waits = Vec::new();
    for file in &*files {
        waits.push(match &file.config {
            Ok(config) => wrong_waits(config, files, whole),
            Err(_) => Vec::new(),
        });
    }
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
                let near = nearest(vm.as_str(), &mut files.iter().map(|file| file.vm.as_str()));
                let mistake = UNKNOWN_VM
                    .case(format!("waits for \"{vm}\", which no file describes"))
                    .cure_if(near.map(|near| format!("did you mean \"{near}\"?")));
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
