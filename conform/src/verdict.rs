// SPDX-License-Identifier: Apache-2.0
//! What a rule's check comes to, and how it gets there.

use std::fmt::{Debug, Display};

use crate::errno::Errno;

/// Why a rule does not simply hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The driver does otherwise.
    Differs(String),
    /// It could not be tried here.
    Skipped(String),
}

/// Of a check that may stop early with what it found.
pub type Found<T = ()> = Result<T, Finding>;

/// Stops: it could not be tried.
pub fn skip<T>(why: impl Display) -> Found<T> {
    Err(Finding::Skipped(why.to_string()))
}

/// Stops: the driver does otherwise.
pub fn differs<T>(what: impl Display) -> Found<T> {
    Err(Finding::Differs(what.to_string()))
}

/// Something has to succeed, by the rule or on the way to it.
pub fn succeeds<T>(what: impl Display, got: Result<T, Errno>) -> Found<T> {
    match got {
        Ok(value) => Ok(value),
        Err(errno) => differs(format!("{what}: {errno}, expected success")),
    }
}

/// Something has to fail, with one of these error numbers; none given: with any.
pub fn fails<T: Debug>(what: impl Display, got: Result<T, Errno>, wanted: &[i32]) -> Found {
    let names: Vec<_> = wanted.iter().map(|number| Errno(*number).to_string()).collect();
    let wanted_text = if names.is_empty() { "a failure".to_string() } else { names.join(" or ") };
    match got {
        Ok(value) => differs(format!("{what}: success ({value:?}), expected {wanted_text}")),
        Err(errno) if wanted.is_empty() || wanted.contains(&errno.0) => Ok(()),
        Err(errno) => differs(format!("{what}: {errno}, expected {wanted_text}")),
    }
}

/// Two values have to be the same.
pub fn same<T: PartialEq + Debug>(what: impl Display, got: T, wanted: T) -> Found {
    if got == wanted {
        Ok(())
    } else {
        differs(format!("{what}: {got:?}, expected {wanted:?}"))
    }
}
