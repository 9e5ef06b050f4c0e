// SPDX-License-Identifier: Apache-2.0
//! Everything that can be wrong, in one type: a stable name, the place, what is wrong with its values,
//! the likely cause, the cure.
//!
//! A rule declares its [`Kind`] in the file where it finds the fault, by [`kinds!`], and raises it with
//! the values of the case. [`crate::explain`] collects the kinds: `gunyahd explain NAME` and
//! `docs/errors.md` come from them.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::json::{record, Json, Node, Value};
use crate::packed::Packed;
use crate::text::{errno_name, printable, symbol, words};

words! {
    /// A step of a launch, in the order of the way through.
    Step {
        /// Serving: the supervisor's socket and signals.
        Serve = "serve",
        /// Reading and checking the VM's file.
        Config = "config",
        /// Making the VM's process.
        Process = "process",
        /// Opening the Gunyah device.
        Device = "device",
        /// CREATE_VM.
        CreateVm = "create-vm",
        /// Asking which driver it is, and whether it can do what the VM's file asks.
        Dialect = "dialect",
        /// Opening kernel, initrd, devicetree and region files and reading their headers.
        Images = "images",
        /// Deciding every address and size.
        Plan = "plan",
        /// Checking huge page pools and limits.
        Pool = "pool",
        /// Mapping and populating guest memory.
        Memory = "memory",
        /// Reading the kernel into guest memory.
        Kernel = "kernel",
        /// Reading the initrd into guest memory.
        Initrd = "initrd",
        /// Checking the devicetree and writing it into guest memory.
        Dtb = "dtb",
        /// Registering a region.
        Region = "region",
        /// SET_FW_CONFIG.
        Firmware = "firmware",
        /// SET_DTB_CONFIG.
        DtbConfig = "dtb-config",
        /// SET_BOOT_CONTEXT.
        BootContext = "boot-context",
        /// Adding vCPUs and interrupt lines.
        Functions = "functions",
        /// START.
        Start = "start",
        /// Running: the vCPU loop, or holding the fds.
        Run = "run",
        /// Closing the VM.
        Stop = "stop",
    }
}

words! {
    /// Whether it stops the launch.
    Severity {
        /// It does.
        Error = "error",
        /// A person should know of it.
        Warning = "warning",
    }
}

/// What can be wrong, without the values of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Name, summary, cause and cure.
    texts: Packed,
    /// The step that finds it.
    pub step: Step,
    /// Whether it stops the launch.
    pub severity: Severity,
    /// What START would answer, for a fault found before it.
    pub start_answers: Option<Errno>,
}

impl Kind {
    /// Made by [`kinds!`].
    pub(crate) const fn new(
        texts: Packed,
        step: Step,
        severity: Severity,
        start_answers: Option<Errno>,
    ) -> Self {
        Self { texts, step, severity, start_answers }
    }

    fn text(&self, index: usize) -> String {
        self.texts.to_string().split('\0').nth(index).unwrap_or_default().to_owned()
    }

    /// Never changes its meaning: `dtb-no-chosen`.
    pub fn name(&self) -> String {
        self.text(0)
    }

    /// What is wrong, in a sentence without values.
    pub fn summary(&self) -> String {
        self.text(1)
    }

    /// The likely cause; may be empty where the summary says it all.
    pub fn cause(&self) -> String {
        self.text(2)
    }

    /// What to do.
    pub fn cure(&self) -> String {
        self.text(3)
    }

    /// `what` with the name behind it: for a state's reason, which is brief.
    pub fn names(&self, what: impl fmt::Display) -> String {
        format!("{what} [{}]", self.name())
    }

    /// A case of it.
    pub fn case(&self, what: impl Into<String>) -> Diagnostic {
        Diagnostic(Box::new(Details {
            name: self.name(),
            severity: self.severity,
            step: self.step,
            place: None,
            what: what.into(),
            errno: None,
            start_answers: self.start_answers.map(|errno| errno as i32),
            cause: self.cause().into(),
            cure: self.cure().into(),
            lasting: matches!(self.step, Step::Config | Step::Images | Step::Plan),
        }))
    }
}

/// Declares [`Kind`]s, and `KINDS`, the list of them. The cause may be left out where the
/// summary says it all:
///
/// ```ignore
/// kinds! {
///     NO_CHOSEN: Error "dtb-no-chosen" in Dtb, START answers ENODEV {
///         "the devicetree has no /chosen node",
///         cause: "the resource manager's overlay adds to /chosen and fails without it",
///         cure: "add /chosen as the root's first child",
///     }
/// }
/// ```
macro_rules! kinds {
    ($($constant:ident: $severity:ident $name:literal in $step:ident $(, START answers $errno:ident)? {
        $summary:expr, $(cause: $cause:expr,)? cure: $cure:expr $(,)?
    })*) => {
        $(pub(crate) static $constant: $crate::diagnostic::Kind = $crate::diagnostic::Kind::new(
            $crate::packed::packed!(
                $name,
                $summary,
                $crate::diagnostic::kinds!(@cause $($cause)?),
                $cure
            ),
            $crate::diagnostic::Step::$step,
            $crate::diagnostic::Severity::$severity,
            $crate::diagnostic::kinds!(@errno $($errno)?),
        );)*
        /// Every kind that this file declares.
        pub(crate) const KINDS: &[&$crate::diagnostic::Kind] = &[$(&$constant),*];
    };
    (@cause) => { "" };
    (@cause $cause:expr) => { $cause };
    (@errno) => { None };
    (@errno $errno:ident) => { Some(nix::errno::Errno::$errno) };
}
pub(crate) use kinds;

record! {
    /// A place in a VM's file. Line and column count from 1; columns count characters. A directory has line 0.
    Place {
        /// The file.
        file: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
        /// The key's path, `memory.size`; empty for the whole file.
        key: String,
    }
}

/// One thing that is wrong. The VM's name is added by whoever reports it. It is a pointer, because nearly every
/// function returns one or a value: what is on the stack and copied stays small.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostic(Box<Details>);

record! {
    /// What a [`Diagnostic`] says.
    Details {
        /// The [`Kind`]'s name.
        name: String,
        /// Whether it stops the launch.
        severity: Severity,
        /// The step that found it.
        step: Step,
        /// Where in the VM's file, if the file is at fault.
        place: Option<Place>,
        /// What is wrong, or what was tried, with its values.
        what: String,
        /// The system's answer, as a raw errno.
        errno: Option<i32>,
        /// What START would answer, as a raw errno, for a fault found before it.
        start_answers: Option<i32>,
        /// The likely cause.
        cause: Cow<'static, str>,
        /// What to do.
        cure: Cow<'static, str>,
        /// Waiting does not help: the same files give the same answer.
        lasting: bool,
    }
}

impl Deref for Diagnostic {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for Diagnostic {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl Json for Diagnostic {
    fn blank() -> Self {
        Self(Json::blank())
    }

    fn to_json(&self) -> Value<'_> {
        self.0.to_json()
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        self.0.read(node)
    }
}

impl Diagnostic {
    /// Adds the system's answer.
    pub fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno as i32);
        self.start_answers = None;
        self
    }

    /// Adds the place in the VM's file.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// A cause with the values of the case.
    pub fn cause(mut self, cause: impl Into<Cow<'static, str>>) -> Self {
        self.cause = cause.into();
        self
    }

    /// A cure with the values of the case.
    pub fn cure(mut self, cure: impl Into<Cow<'static, str>>) -> Self {
        self.cure = cure.into();
        self
    }

    /// The same, where there is one.
    pub fn cure_if(self, cure: Option<impl Into<Cow<'static, str>>>) -> Self {
        match cure {
            Some(cure) => self.cure(cure),
            None => self,
        }
    }

    /// Waiting does not help.
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// Whether it stops the launch.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => {
                // A file's name must neither forge a line of the log nor drive the terminal.
                let file = place.file.display().to_string();
                match place.line {
                    0 => write!(f, "{}: ", printable(&file))?,
                    line => write!(f, "{}:{line}:{}: ", printable(&file), place.column)?,
                }
                if !place.key.is_empty() {
                    write!(f, "{}: ", place.key)?;
                }
            }
            None => write!(f, "{}: ", self.step)?,
        }
        f.write_str(&self.what)?;
        if let Some(raw) = self.errno {
            write!(f, ": {}", errno_name(Errno::from_raw(raw)))?;
        }
        if let Some(raw) = self.start_answers {
            write!(f, "; START would answer {}", symbol(Errno::from_raw(raw)))?;
        }
        if !self.cause.is_empty() {
            write!(f, "; likely cause: {}", self.cause)?;
        }
        if !self.cure.is_empty() {
            write!(f, "; cure: {}", self.cure)?;
        }
        write!(f, " [{}]", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    kinds! {
        NO_CHOSEN: Error "test-no-chosen" in Dtb, START answers ENODEV {
            "the devicetree has no /chosen node",
            cause: "the overlay adds to it",
            cure: "add it",
        }
        TORN: Warning "test-torn" in Memory {
            "the pages are torn",
            cure: "mend them",
        }
    }

    #[test]
    fn a_line_has_place_values_cause_cure_and_name() {
        let place =
            Place { file: "a\n.json".into(), line: 3, column: 5, key: "dtb.path".to_owned() };
        assert_eq!(
            NO_CHOSEN.case("there is no /chosen").at(place).to_string(),
            "a\\n.json:3:5: dtb.path: there is no /chosen; START would answer ENODEV; \
             likely cause: the overlay adds to it; cure: add it [test-no-chosen]"
        );
        assert_eq!(
            TORN.case("3 pages are torn").errno(Errno::EPERM).to_string(),
            "memory: 3 pages are torn: EPERM (Operation not permitted); cure: mend them [test-torn]"
        );
        assert_eq!(KINDS.len(), 2);
    }

    #[test]
    fn it_crosses_a_channel_whole() {
        let sent = NO_CHOSEN.case("there is none").lasting();
        let text = sent.to_json().to_string();
        assert_eq!(Diagnostic::from_json(&json::read(&text).unwrap()), Ok(sent));
    }
}
