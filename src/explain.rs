// SPDX-License-Identifier: Apache-2.0
//! Every kind of error and warning: `gunyahd explain NAME`. docs/errors.md is made of them by tests/errors.rs.

use std::fmt::Write as _;

use crate::diagnostic::Kind;
use crate::list::{self, Listed};
use crate::text::symbol;

/// The kinds of each folder, in the order of the way through.
const FOLDERS: &[&[&[&Kind]]] = &[
    crate::config::KINDS,
    crate::image::KINDS,
    crate::plan::KINDS,
    crate::memory::KINDS,
    crate::dtb::KINDS,
    crate::launch::KINDS,
    crate::confine::KINDS,
    crate::status::KINDS,
    crate::vcpu::KINDS,
    crate::console::KINDS,
    crate::device::KINDS,
    crate::worker::KINDS,
    crate::supervisor::KINDS,
    crate::check::KINDS,
    crate::doctor::KINDS,
    crate::import::FOLDER,
];

/// Every kind, in the order of the steps.
pub fn kinds() -> Vec<&'static Kind> {
    let mut kinds = FOLDERS.iter().copied().flatten().copied().flatten().copied().listed();
    list::sort(&mut kinds, |a, b| a.step < b.step);
    kinds
}

/// The entry of `name`; without one, the names that contain it.
///
/// # Errors
/// What to print instead.
pub fn explain(name: &str) -> Result<String, String> {
    // As it is copied from a message.
    let name = name.trim_matches(['[', ']']);
    let kinds = kinds();
    if let Some(kind) = kinds.iter().find(|kind| kind.name() == name) {
        return Ok(entry(kind));
    }
    let near = kinds.iter().map(|kind| kind.name()).filter(|known| known.contains(name)).listed();
    let hint = match near.is_empty() {
        true => "`gunyahd explain` lists all names".to_owned(),
        false => format!("did you mean {}?", near.join(", ")),
    };
    Err(format!("there is no error or warning named {name}; {hint}"))
}

/// All names with their summaries, a line each.
pub fn list() -> String {
    let kinds = kinds();
    let width = kinds.iter().map(|kind| kind.name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for kind in &kinds {
        let _ = writeln!(text, "{:width$}  {}", kind.name(), kind.summary());
    }
    text
}

fn entry(kind: &Kind) -> String {
    let mut text = format!("{}: {} of step {}\n\n", kind.name(), kind.severity, kind.step);
    let _ = writeln!(text, "  {}", kind.summary());
    if let Some(errno) = kind.start_answers {
        let _ = writeln!(text, "  START would answer: {}", symbol(errno));
    }
    if !kind.cause().is_empty() {
        let _ = writeln!(text, "  likely cause: {}", kind.cause());
    }
    let _ = writeln!(text, "  cure: {}", kind.cure());
    text
}
