// SPDX-License-Identifier: Apache-2.0
//! Words of a command line, sorted into options and plain ones.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::PathBuf;

use crate::list::Listed;

use super::{usage, Stop};

/// What was given.
#[derive(Debug, Default)]
pub struct Args<'a> {
    /// Each with its value, in order; empty for a flag.
    options: Vec<(&'static str, &'a OsStr)>,
    /// Everything that is not an option, and everything after `--`.
    pub plain: Vec<&'a OsStr>,
    /// `--version` was there.
    pub version: bool,
}

impl<'a> Args<'a> {
    /// Reads `words`; `valued` are the options that take a value, `flags` those that take none. `--help`
    /// stops it with `help`, whatever stands behind.
    pub fn parse(
        words: &'a [OsString],
        help: &dyn Display,
        valued: &[&'static str],
        flags: &[&'static str],
    ) -> Result<Self, Stop> {
        let mut args = Self::default();
        let mut words = words.iter().map(OsString::as_os_str);
        while let Some(word) = words.next() {
            let bytes = word.as_encoded_bytes();
            if bytes == b"--" {
                words.append_to(&mut args.plain);
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                args.plain.push(word);
                continue;
            }
            let Some(text) = word.to_str() else {
                return Err(unknown(&word.to_string_lossy()));
            };
            let (name, attached) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let known = |options: &[&'static str]| options.iter().copied().find(|o| *o == name);
            if let Some(option) = known(valued) {
                let value = attached.map(OsStr::new).or_else(|| words.next());
                let Some(value) = value.filter(|value| !value.is_empty()) else {
                    return Err(usage(format!("{option} needs a value")));
                };
                args.options.push((option, value));
                continue;
            }
            if let Some(value) = attached {
                return Err(usage(format!("{name} takes no value, but has {value}")));
            }
            match name {
                "--help" | "-h" => return Err(Stop::Print(help.to_string())),
                "--version" | "-V" => args.version = true,
                _ => {
                    let option = known(flags).ok_or_else(|| unknown(name))?;
                    args.options.push((option, OsStr::new("")));
                }
            }
        }
        Ok(args)
    }

    /// The only plain word, if there is one.
    pub fn at_most_one(&self) -> Result<Option<&'a OsStr>, Stop> {
        match self.plain.as_slice() {
            [] => Ok(None),
            [word] => Ok(Some(word)),
            [_, more, ..] => Err(unexpected(more)),
        }
    }

    /// Whether an option was given.
    pub fn has(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    /// An option's value, the last one if it was given several times.
    pub fn value(&self, option: &str) -> Option<&'a OsStr> {
        let mut options = self.options.iter().rev();
        options.find(|(name, _)| *name == option).map(|(_, value)| *value)
    }

    /// The paths of an option, in order.
    pub fn paths(&self, option: &str) -> Vec<PathBuf> {
        let options = self.options.iter().filter(|(name, _)| *name == option);
        options.map(|(_, value)| value.into()).listed()
    }

    /// The only path of an option.
    pub fn path(&self, option: &str) -> Option<PathBuf> {
        self.value(option).map(PathBuf::from)
    }
}

fn unknown(option: &str) -> Stop {
    usage(format!("unknown option {option}"))
}

/// A word too many.
pub fn unexpected(word: &OsStr) -> Stop {
    usage(format!("unexpected {}", word.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn args(words: &[OsString]) -> Result<Args<'_>, Stop> {
        Args::parse(words, &"the help", &["--a", "--socket"], &["--flag"])
    }

    #[test]
    fn options_take_their_value_either_way() {
        for line in ["--a v x", "--a=v x", "x --a 1 --a v"] {
            let words = words(line);
            let args = args(&words).unwrap();
            assert_eq!(args.value("--a"), Some("v".as_ref()));
            assert_eq!(args.plain, ["x"]);
            assert!(!args.has("--flag"));
        }
    }

    #[test]
    fn a_value_that_nobody_wants_or_that_is_missing_is_an_error() {
        for (line, word) in [
            ("--flag=v", "--flag takes no value, but has v"),
            ("--socket", "--socket needs a value"),
            ("--socket=", "--socket needs a value"),
            ("--flog", "unknown option --flog"),
            ("-x", "unknown option -x"),
        ] {
            assert_eq!(args(&words(line)).unwrap_err().to_string(), word);
        }
    }

    #[test]
    fn after_two_dashes_all_is_plain_and_after_help_nothing_counts() {
        assert_eq!(args(&words("-- --a -")).unwrap().plain, ["--a", "-"]);
        let help = args(&words("--flag --help --nonsense x")).unwrap_err();
        assert_eq!(help, Stop::Print("the help".to_owned()));
    }
}
