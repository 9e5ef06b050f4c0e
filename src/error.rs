// SPDX-License-Identifier: Apache-2.0
//! The error of a launch: which step, which value, which errno, why, and what to do.

use std::fmt;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use crate::diagnostic::Step;
use crate::diagnostic::{Diagnostic, Severity};

/// Why a launch failed. The VM's name is added by whoever reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{step}: {what}{}{}{}", Errored(*errno), Clause("likely cause", cause), Clause("cure", cure))]
pub struct LaunchError {
    /// The step that failed.
    pub step: Step,
    /// What was tried, with its values.
    pub what: String,
    /// The system's answer, as a raw errno.
    pub errno: Option<i32>,
    /// The likely cause.
    pub cause: String,
    /// What to do.
    pub cure: String,
    /// No waiting mends it: the same files give the same answer.
    #[serde(default)]
    pub lasting: bool,
}

impl LaunchError {
    /// An error without an errno.
    pub fn new(step: Step, what: impl Into<String>) -> Self {
        Self {
            step,
            what: what.into(),
            errno: None,
            cause: String::new(),
            cure: String::new(),
            lasting: matches!(step, Step::Config | Step::Images | Step::Plan),
        }
    }

    /// The same files would give the same answer.
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// Adds the system's answer.
    pub fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno as i32);
        self
    }

    /// Adds the likely cause.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// Adds what to do.
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }
}

impl From<Diagnostic> for LaunchError {
    fn from(of: Diagnostic) -> Self {
        let mut error = Self::new(of.step, of.what.clone());
        error.errno = of.errno;
        error.cause = of.cause.into_owned();
        error.cure = format!("{} [{}]", of.cure, of.name);
        error.lasting = of.lasting;
        error
    }
}

// Only for the way to the supervisor: the name that the other direction put behind the cure.
impl From<LaunchError> for Diagnostic {
    fn from(of: LaunchError) -> Self {
        let (cure, name) = match of.cure.strip_suffix(']').and_then(|c| c.rsplit_once(" [")) {
            Some((cure, name)) => (cure.to_owned(), name.to_owned()),
            None => (of.cure, format!("{}-failed", of.step)),
        };
        Self {
            name: name.into(),
            severity: Severity::Error,
            step: of.step,
            place: None,
            what: of.what,
            errno: of.errno,
            start_answers: None,
            cause: of.cause.into(),
            cure: cure.into(),
            lasting: of.lasting,
        }
    }
}

struct Errored(Option<i32>);

impl fmt::Display for Errored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Debug prints the name (ENODEV), which is what people search for.
            Some(raw) => write!(
                f,
                ": {:?} ({})",
                Errno::from_raw(raw),
                Errno::from_raw(raw).desc()
            ),
            None => Ok(()),
        }
    }
}

struct Clause<'a>(&'a str, &'a str);

impl fmt::Display for Clause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            return Ok(());
        }
        write!(f, "; {}: {}", self.0, self.1)
    }
}

/// A failed call's answer by its name and meaning: "ENOENT (No such file or directory)".
pub fn errno_text(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{errno:?} ({})", errno.desc()),
        None => error.to_string(),
    }
}
