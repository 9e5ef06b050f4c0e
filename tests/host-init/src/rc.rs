// SPDX-License-Identifier: Apache-2.0
//! The part of AOSP's init language that the product's files use. What is unknown is an error.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{bail, Context, Result};

/// What .rc files say.
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

const OPTIONS: [&str; 17] = [
    "class",
    "user",
    "group",
    "capabilities",
    "rlimit",
    "socket",
    "file",
    "gentle_kill",
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
    /// True if the option is there.
    pub fn has(&self, option: &str) -> bool {
        self.all(option).next().is_some()
    }

    /// The arguments of each occurrence of an option.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a [String]> {
        self.options
            .iter()
            .filter(move |words| words[0] == option)
            .map(|words| &words[1..])
    }
}

impl Script {
    /// Adds what `text` says.
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
                    self.services.push(Service {
                        name,
                        command,
                        options: Vec::new(),
                    });
                }
                ("on", _) if words.len() >= 2 => {
                    in_service = Some(false);
                    self.actions.push(Action {
                        trigger: words[1..].to_vec(),
                        commands: Vec::new(),
                    });
                }
                (option, Some(true)) if OPTIONS.contains(&option) => {
                    self.services
                        .last_mut()
                        .context("no service")?
                        .options
                        .push(words);
                }
                (_, Some(false)) => self
                    .actions
                    .last_mut()
                    .context("no action")?
                    .commands
                    .push(words),
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
        other => other
            .parse()
            .with_context(|| format!("user or group {other} is not known here"))?,
    })
}

/// Runs a command of an action.
pub fn run(command: &[String]) -> Result<()> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["write", path, value] => fs::write(path, value)?,
        ["mkdir", path] => fs::create_dir_all(path)?,
        ["mkdir", path, mode, rest @ ..] => {
            fs::create_dir_all(path)?;
            fs::set_permissions(
                path,
                fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?),
            )?;
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
        // The host starts every service that is not disabled when its actions are done.
        ["start" | "enable" | "class_start" | "trigger" | "setprop", ..] => {}
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
    fn refuses_what_it_does_not_know() {
        for text in [
            "service x\n",
            "stray\n",
            "service x /bin/x\n    sokcet s stream\n",
        ] {
            assert!(Script::default().read(text).is_err(), "{text}");
        }
        assert!(run(&["format-the-disk".to_owned()]).is_err());
    }
}
