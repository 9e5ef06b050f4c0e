// SPDX-License-Identifier: Apache-2.0
//! Words of a command line, sorted into options and plain ones.

use std::ffi::{OsStr, OsString};

use super::{usage, Stop};

/// What was given.
#[derive(Debug, Default)]
pub struct Args {
    /// Each with its value, in order; empty for a flag.
    options: Vec<(&'static str, OsString)>,
    /// Everything that is not an option, and everything after `--`.
    pub plain: Vec<OsString>,
    /// `--version` was there.
    pub version: bool,
}

impl Args {
    /// Reads `words`; `valued` are the options that take a value, `flags` those that take none. `--help`
    /// stops it with `help`, whatever stands behind.
    pub fn parse(
        words: impl IntoIterator<Item = OsString>,
        help: &str,
        valued: &[&'static str],
        flags: &[&'static str],
    ) -> Result<Self, Stop> {
        let mut args = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let bytes = word.as_encoded_bytes();
            if bytes == b"--" {
                args.plain.extend(words);
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                args.plain.push(word);
                continue;
            }
            let text = word.to_str();
            let text = text.ok_or_else(|| unknown(&word.to_string_lossy()))?;
            let (name, attached) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            let known = |options: &[&'static str]| options.iter().copied().find(|o| *o == name);
            if let Some(option) = known(valued) {
                let value = attached.or_else(|| words.next()).filter(|v| !v.is_empty());
                let value = value.ok_or_else(|| usage(format!("{option} needs a value")))?;
                args.options.push((option, value));
                continue;
            }
            if let Some(value) = attached {
                let value = value.to_string_lossy();
                return Err(usage(format!("{name} takes no value, but has {value}")));
            }
            match name {
                "--help" | "-h" => return Err(Stop::Print(help.to_owned())),
                "--version" | "-V" => args.version = true,
                _ => {
                    let option = known(flags).ok_or_else(|| unknown(name))?;
                    args.options.push((option, OsString::new()));
                }
            }
        }
        Ok(args)
    }

    /// The only plain word, if there is one.
    pub fn at_most_one(&self) -> Result<Option<&OsStr>, Stop> {
        match self.plain.as_slice() {
            [] => Ok(None),
            [word] => Ok(Some(word)),
            [_, more, ..] => Err(unexpected(more)),
        }
    }

    /// Whether an option was given.
    pub fn has(&self, option: &'static str) -> bool {
        self.value(option).is_some()
    }

    /// An option's value, the last one if it was given several times.
    pub fn value(&self, option: &'static str) -> Option<&OsStr> {
        self.values(option).last()
    }

    /// All values of an option, in order.
    pub fn values(&self, option: &'static str) -> impl Iterator<Item = &OsStr> {
        let of_option = self.options.iter().filter(move |(name, _)| *name == option);
        of_option.map(|(_, value)| value.as_os_str())
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

    fn args(line: &str) -> Result<Args, Stop> {
        let words = line.split(' ').map(OsString::from);
        Args::parse(words, "the help", &["--a", "--socket"], &["--flag"])
    }

    #[test]
    fn options_take_their_value_either_way() {
        for line in ["--a v x", "--a=v x", "x --a 1 --a v"] {
            let args = args(line).unwrap();
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
            assert_eq!(args(line).unwrap_err().to_string(), word);
        }
    }

    #[test]
    fn after_two_dashes_all_is_plain_and_after_help_nothing_counts() {
        assert_eq!(args("-- --a -").unwrap().plain, ["--a", "-"]);
        let help = args("--flag --help --nonsense x").unwrap_err();
        assert_eq!(help, Stop::Print("the help".to_owned()));
    }
}
