// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::Dialect;

/// What `--help` prints.
pub const USAGE: &str = "\
Usage: gunyah-conform [OPTION…]
Checks of a Gunyah driver's rules, one line a rule: holds, differs (what), skipped (why).

  --device PATH     the device (default /dev/gunyah)
  --dialect NAME    auto (default), lkml, lkml-base, ack61, ack66-early, ack66, ack612,
                    none, qcom-b2
  --only RULE       this rule, or all of a group such as region.; may be repeated
  --unsafe          rules too that are dangerous on a real device
  --list            all rules as a table, nothing is tried
  --json            a line of JSON for each rule
  --patience MS     how long a guest may take to come out of VCPU_RUN (default 10000)
  --timeout S       how long a rule may take (default 60)
  --help            this text

Exit code: 0 all that was tried holds, 1 something differs, 2 it could not begin.
";

/// The parsed command line.
#[derive(Debug)]
pub struct Options {
    /// The device's path.
    pub device: PathBuf,
    /// None: found out.
    pub dialect: Option<Dialect>,
    /// Rules or groups; none: all.
    pub only: Vec<String>,
    /// Dangerous rules too.
    pub dangerous: bool,
    /// Only the table.
    pub list: bool,
    /// JSON.
    pub json: bool,
    /// For a guest to come out.
    pub patience: Duration,
    /// For a rule.
    pub timeout: Duration,
}

impl Options {
    /// Parses the arguments; None: the user asked for help.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut options = Self {
            device: PathBuf::from("/dev/gunyah"),
            dialect: None,
            only: Vec::new(),
            dangerous: false,
            list: false,
            json: false,
            patience: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
        };
        let mut arguments = arguments.into_iter();
        while let Some(word) = arguments.next() {
            let word = word.to_string_lossy().into_owned();
            let (name, given) = match word.split_once('=') {
                Some((name, value)) => (name.to_string(), Some(OsString::from(value))),
                None => (word, None),
            };
            let mut value = || {
                given
                    .clone()
                    .or_else(|| arguments.next())
                    .ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--help" => return Ok(None),
                "--unsafe" => options.dangerous = true,
                "--list" => options.list = true,
                "--json" => options.json = true,
                "--device" => options.device = PathBuf::from(value()?),
                "--only" => options.only.push(value()?.to_string_lossy().into_owned()),
                "--dialect" => {
                    let word = value()?.to_string_lossy().into_owned();
                    options.dialect = match word.as_str() {
                        "auto" => None,
                        word => Some(word.parse()?),
                    };
                }
                "--patience" => options.patience = Duration::from_millis(number(&value()?)?),
                "--timeout" => options.timeout = Duration::from_secs(number(&value()?)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(Some(options))
    }

    /// Whether a rule is meant.
    pub fn wants(&self, id: &str) -> bool {
        self.only.is_empty()
            || self
                .only
                .iter()
                .any(|only| id == only || only.ends_with('.') && id.starts_with(only.as_str()))
    }
}

fn number(word: &OsString) -> Result<u64, String> {
    let word = word.to_string_lossy();
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_in_both_forms() {
        let options = parse("--dialect ack66 --only=region. --only start.twice --json --timeout 5")
            .unwrap()
            .unwrap();
        assert_eq!(options.dialect, Some(Dialect::Ack66));
        assert!(options.json && !options.dangerous && !options.list);
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert!(options.wants("region.taken"));
        assert!(options.wants("start.twice"));
        assert!(!options.wants("start.good"));
        assert_eq!(parse("--dialect auto").unwrap().unwrap().dialect, None);
    }

    #[test]
    fn mistakes_are_told() {
        assert!(parse("--help").unwrap().is_none());
        assert!(parse("--dialect moon").unwrap_err().contains("qcom-b2"));
        assert!(parse("--only").unwrap_err().contains("needs a value"));
        assert!(parse("--patience soon").unwrap_err().contains("not a number"));
        assert!(parse("region").unwrap_err().contains("unknown option"));
    }
}
