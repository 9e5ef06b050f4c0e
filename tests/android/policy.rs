// SPDX-License-Identifier: Apache-2.0
//! Our policy on the base in `tests/sepolicy-base`, compiled and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::dir::Dir;
use crate::tools::root;

/// A compiled policy, read back.
pub struct Policy {
    pub rules: Vec<Rule>,
    /// Lines of `type_transition` and `allowxperm`.
    pub others: Vec<String>,
    /// Each attribute's types.
    attributes: BTreeMap<String, BTreeSet<String>>,
}

/// A rule as sesearch prints it: `allow source target:class permissions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub source: String,
    pub target: String,
    pub class: String,
    pub permissions: BTreeSet<String>,
}

impl Policy {
    /// Compiles our policy with `extra` among its rules; the compiler's words if it refuses.
    pub fn compile(extra: &str) -> Result<Self, String> {
        let dir = Dir::new("sepolicy");
        let base = root().join("tests/sepolicy-base");
        let ours = root().join("sepolicy/vendor");
        let extra_file = dir.0.join("extra.te");
        std::fs::write(&extra_file, extra).unwrap();
        let mut files: Vec<PathBuf> = ["classes", "macros", "attributes", "platform.te"]
            .map(|name| base.join(name))
            .into();
        files.extend(te_files());
        files.push(extra_file);
        files.push(base.join("roles_contexts"));
        files.push(ours.join("genfs_contexts"));
        let text = run(Command::new("m4")
            .args(["--fatal-warnings", "-D", "target_build_variant=user", "-s"])
            .args(files))?;
        std::fs::write(dir.0.join("policy.conf"), text).unwrap();
        run(Command::new("checkpolicy")
            .args(["-M", "-c", "30", "-o", "policy", "policy.conf"])
            .current_dir(&dir.0))?;
        let binary = dir.0.join("policy");
        let text = run(Command::new("sesearch").args(["-A", "-T"]).arg(&binary))?;
        let (allows, others): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("allow "));
        let mut attributes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut attribute = String::new();
        for line in run(Command::new("seinfo").args(["-a", "-x"]).arg(&binary))?.lines() {
            if let Some(name) = line.trim().strip_prefix("attribute ") {
                attribute = name.trim_end_matches(';').to_owned();
            } else if line.starts_with("\t") {
                let types = attributes.entry(attribute.clone()).or_default();
                types.insert(line.trim().to_owned());
            }
        }
        Ok(Self {
            rules: allows.into_iter().map(Rule::parse).collect(),
            others: others.into_iter().map(str::to_owned).collect(),
            attributes,
        })
    }

    /// The policy as it is, compiled once.
    pub fn ours() -> &'static Self {
        static POLICY: OnceLock<Policy> = OnceLock::new();
        POLICY.get_or_init(|| Policy::compile("").unwrap())
    }

    /// True if `name` is the type or an attribute of it.
    fn is(&self, name: &str, kind: &str) -> bool {
        name == kind || self.types_of(name).contains(kind)
    }

    /// Rules whose source is `source`, by itself or by an attribute.
    pub fn of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules
            .iter()
            .filter(move |rule| self.is(&rule.source, source))
    }

    /// Rules about objects of a type and class.
    pub fn on<'a>(&'a self, target: &'a str, class: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.class == class && self.is(&rule.target, target))
    }

    pub fn may(&self, source: &str, target: &str, class: &str, permission: &str) -> bool {
        self.on(target, class)
            .any(|rule| self.is(&rule.source, source) && rule.permissions.contains(permission))
    }

    pub fn types_of(&self, attribute: &str) -> &BTreeSet<String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        self.attributes.get(attribute).unwrap_or(&NONE)
    }
}

impl Rule {
    fn parse(line: &str) -> Self {
        let mut words = line.trim_end_matches(';').split_whitespace().skip(1);
        let source = words.next().unwrap().to_owned();
        let (target, class) = words.next().unwrap().split_once(':').unwrap();
        Self {
            source,
            target: target.into(),
            class: class.into(),
            permissions: words
                .filter(|word| !matches!(*word, "{" | "}"))
                .map(str::to_owned)
                .collect(),
        }
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

pub fn te_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("sepolicy/vendor"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "te"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}
