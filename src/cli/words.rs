// SPDX-License-Identifier: Apache-2.0
//! Words of a command line, one after the other.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::UsageError;

/// One word.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// `--name`, `--name=value` without its value, or `-n`.
    Option(String),
    /// Anything else, and everything after `--`.
    Plain(OsString),
}

/// The words that are left.
pub struct Words {
    rest: std::vec::IntoIter<OsString>,
    /// The value behind the `=` of the last option.
    attached: Option<OsString>,
    plain_only: bool,
}

impl Words {
    /// Of `words`, without the program's name.
    pub fn new(words: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            rest: words.into_iter().collect::<Vec<_>>().into_iter(),
            attached: None,
            plain_only: false,
        }
    }

    /// The next word.
    pub fn next(&mut self) -> Result<Option<Word>, UsageError> {
        if let Some(value) = self.attached.take() {
            return Err(UsageError(format!(
                "the option takes no value, but has {}",
                value.to_string_lossy()
            )));
        }
        let Some(word) = self.rest.next() else {
            return Ok(None);
        };
        if self.plain_only {
            return Ok(Some(Word::Plain(word)));
        }
        let bytes = word.as_encoded_bytes();
        if bytes == b"--" {
            self.plain_only = true;
            return self.next();
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            return Ok(Some(Word::Plain(word)));
        }
        let Some(text) = word.to_str() else {
            return Err(UsageError(format!(
                "unknown option {}",
                word.to_string_lossy()
            )));
        };
        match text.split_once('=') {
            Some((name, value)) => {
                self.attached = Some(OsString::from(value));
                Ok(Some(Word::Option(name.to_owned())))
            }
            None => Ok(Some(Word::Option(text.to_owned()))),
        }
    }

    /// The value of the option just taken.
    pub fn value(&mut self, option: &str) -> Result<OsString, UsageError> {
        self.attached
            .take()
            .or_else(|| self.rest.next())
            .filter(|value| !value.is_empty())
            .ok_or_else(|| UsageError(format!("{option} needs a value")))
    }

    /// The same, as a path.
    pub fn path(&mut self, option: &str) -> Result<PathBuf, UsageError> {
        self.value(option).map(PathBuf::from)
    }
}

/// An option that the command does not have.
pub fn unknown(option: &str) -> UsageError {
    UsageError(format!("unknown option {option}"))
}

/// A word too many.
pub fn unexpected(word: &OsStr) -> UsageError {
    UsageError(format!("unexpected {}", word.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        Words::new(line.split(' ').map(OsString::from))
    }

    #[test]
    fn options_take_their_value_either_way() {
        for line in ["--a v x", "--a=v x"] {
            let mut words = words(line);
            assert_eq!(words.next(), Ok(Some(Word::Option("--a".into()))));
            assert_eq!(words.value("--a"), Ok("v".into()));
            assert_eq!(words.next(), Ok(Some(Word::Plain("x".into()))));
            assert_eq!(words.next(), Ok(None));
        }
    }

    #[test]
    fn a_value_that_nobody_wants_is_an_error() {
        let mut words = words("--flag=v");
        assert_eq!(words.next(), Ok(Some(Word::Option("--flag".into()))));
        assert!(words.next().is_err());
    }

    #[test]
    fn after_two_dashes_all_is_plain() {
        let mut words = words("-- --a -");
        assert_eq!(words.next(), Ok(Some(Word::Plain("--a".into()))));
        assert_eq!(words.next(), Ok(Some(Word::Plain("-".into()))));
        assert_eq!(words.next(), Ok(None));
    }

    #[test]
    fn a_missing_value_is_an_error() {
        let mut words = words("--socket");
        assert_eq!(words.next(), Ok(Some(Word::Option("--socket".into()))));
        assert!(words.value("--socket").is_err());
    }
}
