// SPDX-License-Identifier: Apache-2.0
//! Our policy on the base in `tests/sepolicy-base`, compiled and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::dir::Dir;
use crate::tools::root;

/// The source that a test adds.
pub const PLANTED: &str = "planted.te";

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
        let mut sources = sources();
        sources.insert(PLANTED.into(), extra.into());
        build(&dir, &sources)?;
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

/// Rules and labels of `sepolicy/vendor` by file name: what is compiled.
pub fn sources() -> BTreeMap<String, String> {
    let mut files: Vec<PathBuf> = te_files();
    files.push(root().join("sepolicy/vendor/genfs_contexts"));
    files
        .iter()
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(file).unwrap())
        })
        .collect()
}

/// Compiles the base with `sources` to the file `policy` in a folder.
fn build(dir: &Dir, sources: &BTreeMap<String, String>) -> Result<(), String> {
    let base = root().join("tests/sepolicy-base");
    let mut files: Vec<PathBuf> = ["classes", "macros", "attributes", "platform.te"]
        .map(|name| base.join(name))
        .into();
    let place = |name: &String| dir.0.join(name);
    for (name, text) in sources {
        std::fs::write(place(name), text).unwrap();
    }
    // Rules that a test adds come last, because they name our types.
    let (mut rules, labels): (Vec<&String>, Vec<&String>) =
        sources.keys().partition(|name| name.ends_with(".te"));
    rules.sort_by_key(|name| name.as_str() == PLANTED);
    files.extend(rules.into_iter().map(place));
    files.push(base.join("roles_contexts"));
    files.extend(labels.into_iter().map(place));
    let text = run(Command::new("m4")
        .args(["--fatal-warnings", "-D", "target_build_variant=user", "-s"])
        .args(files))?;
    std::fs::write(dir.0.join("policy.conf"), text).unwrap();
    run(Command::new("checkpolicy")
        .args(["-M", "-c", "30", "-o", "policy", "policy.conf"])
        .current_dir(&dir.0))?;
    Ok(())
}

/// What `sources` add to the base, a permission or attribute a line, as checkpolicy writes a policy out.
pub fn added(sources: &BTreeMap<String, String>) -> Result<BTreeSet<String>, String> {
    static BASE: OnceLock<BTreeSet<String>> = OnceLock::new();
    let base = BASE.get_or_init(|| written_out(&BTreeMap::new()).unwrap());
    // A line of the base that is not whole any more shows too.
    let all = written_out(sources)?;
    let lost = base.difference(&all).map(|line| format!("not {line}"));
    Ok(all
        .difference(base)
        .filter(|line| !of_every_domain(base, line))
        .cloned()
        .chain(lost)
        .collect())
}

/// True for a rule of a domain on itself that the base gives all.
fn of_every_domain(base: &BTreeSet<String>, line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    words.len() > 2
        && words[0] == "allow"
        && words[2].starts_with("self:")
        && base.contains(&format!("allow hal_other_default {}", words[2..].join(" ")))
}

fn written_out(sources: &BTreeMap<String, String>) -> Result<BTreeSet<String>, String> {
    let dir = Dir::new("sepolicy");
    build(&dir, sources)?;
    run(Command::new("checkpolicy")
        .args(["-M", "-c", "30", "-b", "-F", "-o", "rules", "policy"])
        .current_dir(&dir.0))?;
    Ok(lines(
        &std::fs::read_to_string(dir.0.join("rules")).unwrap(),
    ))
}

/// Lines of a policy without comments, one for each word of every list in braces.
pub fn lines(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| line.trim().trim_end_matches(';'))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(|line| match line.strip_prefix("typeattribute ") {
            // The compiler's lists of attributes have commas instead of braces.
            Some(rest) if !rest.contains('{') => {
                let (name, attributes) = rest.split_once(' ').unwrap();
                one_each(&format!(
                    "typeattribute {name} {{ {} }}",
                    attributes.replace(',', "")
                ))
            }
            _ => one_each(line),
        })
        .collect()
}

fn one_each(line: &str) -> Vec<String> {
    let Some((before, rest)) = line.split_once("{ ") else {
        return vec![line.to_owned()];
    };
    let (list, after) = rest.split_once(" }").unwrap();
    list.split(' ')
        .flat_map(|word| one_each(&format!("{before}{word}{after}")))
        .collect()
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
