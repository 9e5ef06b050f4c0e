// SPDX-License-Identifier: Apache-2.0
//! The part of AOSP's init language that the product's files use. Anything else is an error.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{bail, Context, Result};

use crate::property;

/// The contents of .rc files.
#[derive(Debug, Default)]
pub struct Script {
    /// In their order.
    pub services: Vec<Service>,
    /// In their order.
    pub actions: Vec<Action>,
}

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Options, each with its arguments.
    pub options: Vec<Vec<String>>,
}

/// Commands at a trigger.
#[derive(Debug)]
pub struct Action {
    /// Words of the trigger.
    pub trigger: Vec<String>,
    /// In their order.
    pub commands: Vec<Vec<String>>,
}

const OPTIONS: [&str; 18] = [
    "class",
    "user",
    "group",
    "capabilities",
    "rlimit",
    "socket",
    "file",
    "gentle_kill",
    "stdio_to_kmsg",
    "task_profiles",
    "oom_score_adjust",
    "restart_period",
    "shutdown",
    "disabled",
    "oneshot",
    "onrestart",
    "priority",
    "seclabel",
];

impl Service {
    /// True if the service has the option.
    pub fn has(&self, option: &str) -> bool {
        self.all(option).next().is_some()
    }

    /// The arguments of each occurrence of an option.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a [String]> {
        self.options.iter().filter(move |words| words[0] == option).map(|words| &words[1..])
    }
}

/// Looks up a property.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Action {
    /// Whether the action runs at an event (AOSP, system/core/init/action.cpp: CheckEvent).
    pub fn at_event(&self, event: &str, get: Lookup<'_>) -> bool {
        self.event() == Some(event) && self.conditions_hold(get)
    }

    /// Whether the action runs after the property `name` was set. An action with an event waits for the event.
    pub fn at_change(&self, name: &str, get: Lookup<'_>) -> bool {
        self.event().is_none()
            && self.conditions().any(|(of, _)| of == name)
            && self.conditions_hold(get)
    }

    fn event(&self) -> Option<&str> {
        let words = self.trigger.iter().map(String::as_str);
        words.filter(|word| *word != "&&").find(|word| !word.starts_with("property:"))
    }

    fn conditions(&self) -> impl Iterator<Item = (&str, &str)> {
        let words = self.trigger.iter();
        words.filter_map(|word| word.strip_prefix("property:")?.split_once('='))
    }

    fn conditions_hold(&self, get: Lookup<'_>) -> bool {
        self.conditions().all(|(name, wanted)| match get(name) {
            Some(value) => value == wanted || (wanted == "*" && !value.is_empty()),
            None => wanted.is_empty(),
        })
    }
}

/// A word with each `${property}` replaced; it fails if a property is not set and `${property:-default}` has no
/// default (AOSP, ExpandProps of system/core/init/util.cpp).
pub fn expand(word: &str, get: Lookup<'_>) -> Result<String> {
    let mut parts = word.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').with_context(|| format!("{word} is not closed"))?;
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (name, None),
        };
        let value = get(name).filter(|value| !value.is_empty()).or(default);
        text += &value.with_context(|| format!("property {name} is not set"))?;
        text += rest;
    }
    Ok(text)
}

/// Applies the lines of a ueventd script to the files that exist.
pub fn ueventd(text: &str) -> Result<()> {
    for line in text.lines().filter(|line| line.starts_with("/dev/")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [path, mode, user, group] = words[..] else { bail!("{line:?} is not known here") };
        for command in [vec!["chmod", mode, path], vec!["chown", user, group, path]] {
            run(&command.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        }
        println!("init: ueventd: {line}");
    }
    Ok(())
}

impl Script {
    /// Adds the sections of `text`.
    pub fn read(&mut self, text: &str) -> Result<()> {
        let joined = text.replace("\\\n", " ");
        let mut in_service = None;
        for (number, line) in joined.lines().enumerate() {
            let words: Vec<String> = line
                .split_whitespace()
                .take_while(|word| !word.starts_with('#'))
                .map(|word| word.trim_matches('"').to_owned())
                .collect();
            let Some(first) = words.first() else { continue };
            match (first.as_str(), in_service) {
                ("service", _) if words.len() >= 3 => {
                    in_service = Some(true);
                    let (name, command) = (words[1].clone(), words[2..].to_vec());
                    self.services.push(Service { name, command, options: Vec::new() });
                }
                ("on", _) if words.len() >= 2 => {
                    in_service = Some(false);
                    self.actions
                        .push(Action { trigger: words[1..].to_vec(), commands: Vec::new() });
                }
                (option, Some(true)) if OPTIONS.contains(&option) => {
                    self.services.last_mut().context("no service")?.options.push(words);
                }
                (_, Some(false)) => {
                    self.actions.last_mut().context("no action")?.commands.push(words)
                }
                _ => bail!("line {}: {line:?} is not known here", number + 1),
            }
        }
        Ok(())
    }
}

/// AIDs of AOSP's android_filesystem_config.h.
pub fn aid(name: &str) -> Result<u32> {
    Ok(match name {
        "root" => 0,
        "system" => 1000,
        "log" => 1007,
        "shell" => 2000,
        other => {
            other.parse().with_context(|| format!("user or group {other} is not known here"))?
        }
    })
}

/// Runs a command of an action.
pub fn run(command: &[String]) -> Result<()> {
    let words =
        command.iter().map(|word| expand(word, &property::get)).collect::<Result<Vec<_>>>()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setprop", name, value] => property::set(name, value)?,
        ["write", path, value] => fs::write(path, value)?,
        ["mkdir", path] => fs::create_dir_all(path)?,
        ["mkdir", path, mode, rest @ ..] => {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?))?;
            if let [user, group] = rest {
                std::os::unix::fs::chown(path, Some(aid(user)?), Some(aid(group)?))?;
            }
        }
        ["chown", user, group, path] => {
            std::os::unix::fs::chown(path, Some(aid(user)?), Some(aid(group)?))?
        }
        ["chmod", mode, path] => {
            fs::set_permissions(
                Path::new(path),
                fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?),
            )?;
        }
        _ => bail!("this command is not known here"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_services_and_actions() {
        let mut script = Script::default();
        script
            .read("# a comment\non boot\n    write /a b\nservice x /bin/x \\\n    --flag\n    user system # who\n    socket s stream+listen 0660 system shell\n")
            .unwrap();
        assert_eq!(script.actions[0].commands, [["write", "/a", "b"]]);
        let service = &script.services[0];
        assert_eq!(service.command, ["/bin/x", "--flag"]);
        assert_eq!(service.all("user").next().unwrap(), ["system"]);
        assert_eq!(service.all("socket").next().unwrap()[1], "stream+listen");
    }

    #[test]
    fn actions_wait_for_their_event_and_all_their_properties() {
        let action = |trigger: &str| Action {
            trigger: trigger.split(' ').map(str::to_owned).collect(),
            commands: Vec::new(),
        };
        let get = |name: &str| (name == "a").then(|| "1".to_owned());
        let both = action("boot && property:a=*");
        assert!(both.at_event("boot", &get) && !both.at_event("init", &get));
        assert!(!both.at_change("a", &get));
        assert!(!action("boot && property:b=*").at_event("boot", &get));
        assert!(action("property:a=1").at_change("a", &get));
        assert!(!action("property:a=1").at_change("b", &get));
        assert!(!action("property:a=2").at_change("a", &get));
        assert!(!action("property:a=1 && property:b=1").at_change("a", &get));
        assert_eq!(expand("x${a}y", &get).unwrap(), "x1y");
        assert_eq!(expand("${b:-7}${a:-8}", &get).unwrap(), "71");
        assert!(expand("${b}", &get).is_err() && expand("${a", &get).is_err());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["service x\n", "stray\n", "service x /bin/x\n    sokcet s stream\n"] {
            assert!(Script::default().read(text).is_err(), "{text}");
        }
        assert!(run(&["format-the-disk".to_owned()]).is_err());
    }
}
