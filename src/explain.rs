// SPDX-License-Identifier: Apache-2.0
//! Every kind of error and warning: `gunyahd explain NAME`, and `docs/errors.md`.

use std::fmt::Write as _;

use crate::diagnostic::{Kind, Severity};

/// The kinds of each folder, in the order of the way through.
const FOLDERS: &[&[&[Kind]]] = &[
    crate::config::KINDS,
    crate::image::KINDS,
    crate::plan::KINDS,
    crate::memory::KINDS,
    crate::dtb::KINDS,
    crate::launch::KINDS,
    crate::confine::KINDS,
    crate::vcpu::KINDS,
    crate::console::KINDS,
    crate::worker::KINDS,
    crate::supervisor::KINDS,
    crate::check::KINDS,
];

const HEAD: &str = "\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made from the program by tests/errors.rs: GUNYAHD_WRITE_DOCS=1 cargo test --test errors -->
# Errors and their cures

Every error and warning is one line, in the log, in `gunyahctl status`, in `vendor.gunyah.VM.reason` and from
`gunyahd check`:

    STEP or FILE:LINE:COLUMN: KEY: what is wrong: ERRNO (its meaning); likely cause: …; cure: … [NAME]

The name in brackets never changes its meaning. `gunyahd explain NAME` prints its entry on the device;
this page has all of them, by step. `gunyahctl log VM` shows the steps before the failed one, each with its
time. `gunyahd check FILE` on a workstation finds everything that needs no device, all at once.
";

/// Every kind, in the order of the steps.
pub fn kinds() -> Vec<&'static Kind> {
    let mut kinds: Vec<&Kind> = FOLDERS.iter().copied().flatten().copied().flatten().collect();
    kinds.sort_by_key(|kind| kind.step);
    kinds
}

/// The entry of `name`; without one, the names that contain it.
///
/// # Errors
/// What to print instead.
pub fn explain(name: &str) -> Result<String, String> {
    let kinds = kinds();
    if let Some(kind) = kinds.iter().find(|kind| kind.name == name) {
        return Ok(entry(kind));
    }
    let near: Vec<&str> =
        kinds.iter().map(|kind| kind.name).filter(|known| known.contains(name)).collect();
    match near.is_empty() {
        true => Err(format!(
            "there is no error or warning named {name}; `gunyahd explain` lists all names"
        )),
        false => Err(format!(
            "there is no error or warning named {name}; did you mean {}?",
            near.join(", ")
        )),
    }
}

/// All names with their summaries, a line each.
pub fn list() -> String {
    let kinds = kinds();
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    kinds.iter().fold(String::new(), |mut text, kind| {
        let _ = writeln!(text, "{:width$}  {}", kind.name, kind.summary);
        text
    })
}

fn entry(kind: &Kind) -> String {
    let severity = match kind.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut text = format!("{}: {severity} of step {}\n\n", kind.name, kind.step);
    let _ = writeln!(text, "  {}", kind.summary);
    if let Some(errno) = kind.start_answers {
        let _ = writeln!(text, "  START would answer: {errno:?}");
    }
    if !kind.cause.is_empty() {
        let _ = writeln!(text, "  likely cause: {}", kind.cause);
    }
    if !kind.cure.is_empty() {
        let _ = writeln!(text, "  cure: {}", kind.cure);
    }
    text
}

/// `docs/errors.md`.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut step = None;
    for kind in kinds() {
        if step != Some(kind.step) {
            step = Some(kind.step);
            let _ = write!(
                page,
                "\n## {}\n\n| name | what is wrong | likely cause | cure |\n| --- | --- | --- | --- |\n",
                kind.step
            );
        }
        let warning = match kind.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        let answers = kind
            .start_answers
            .map_or_else(String::new, |errno| format!(" (START would answer {errno:?})"));
        let _ = writeln!(
            page,
            "| `{}` | {warning}{}{answers} | {} | {} |",
            kind.name,
            cell(kind.summary),
            cell(kind.cause),
            cell(kind.cure)
        );
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
