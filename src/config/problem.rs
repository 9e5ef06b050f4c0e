// SPDX-License-Identifier: Apache-2.0
//! A mistake in a file, and the list of them that grows while a file is read.

use std::fmt;
use std::path::{Path, PathBuf};

use super::partial::Partial;
use super::types::{Place, VmConfig};
use crate::text::printable;

/// A mistake in a config file: where it is, what it is and, where it can be told, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in the file; its start for a mistake of the whole file.
    pub place: Place,
    /// The path of the key, `memory.size`; empty for the whole file.
    pub key: String,
    /// What is wrong, with the value found and the values wanted.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake of the whole file.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            place: Place { line: 1, column: 1 },
            key: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        // A file's name must neither forge a line of the log nor drive the terminal.
        let file = self.file.display().to_string();
        write!(f, "{}:{line}:{column}: ", printable(&file))?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// Most problems kept of one file: a file of rubbish must not fill the memory or the log.
const MAX_PROBLEMS: usize = 100;

/// What the reading of one file has found so far.
pub(super) struct Report {
    file: PathBuf,
    /// What could be read, wherever else the mistakes are.
    pub read: Partial,
    problems: Vec<Problem>,
    left_out: usize,
}

impl Report {
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            read: Partial::default(),
            problems: Vec::new(),
            left_out: 0,
        }
    }

    /// A problem of `key`, at its place or the nearest one above it.
    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.at(self.read.places.of(key), key, message, None);
    }

    /// The same, with what to do.
    pub fn problem_hint(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.at(self.read.places.of(key), key, message, Some(hint.into()));
    }

    /// A problem at a place of its own.
    pub fn at(
        &mut self,
        place: Place,
        key: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        self.problems.push(Problem {
            file: self.file.clone(),
            place,
            key: key.to_owned(),
            message: message.into(),
            hint,
        });
    }

    /// Further problems are only counted, so hints for them would be wasted work.
    pub fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// What could be read, and the problems by their place. `config` is there if every value could be.
    pub fn end(mut self, config: Option<VmConfig>) -> (Partial, Vec<Problem>) {
        self.problems.sort_by_key(|problem| problem.place);
        if self.left_out > 0 {
            let more = format!("and {} more problems", self.left_out);
            self.problems.push(Problem::of_file(&self.file, more));
        }
        let places = self.read.places.clone();
        self.read.config = config.map(|config| Box::new(VmConfig { places, ..config }));
        (self.read, self.problems)
    }
}
