// SPDX-License-Identifier: Apache-2.0
//! `gunyahd doctor`: the porting guide's checks, by the device itself.
//!
//! ```text
//! node       /dev/gunyah: mode, owner, label, who holds it, which driver is behind it
//! processes  what can be seen of other processes
//! kernel     options that the kernel was built with
//! host       the service, its program, the sockets of properties and log, the kernel's log
//! pages      pools, reserve, transparent huge pages, the limit of pinned memory
//! ```

mod host;
mod kernel;
mod node;
mod pages;
mod processes;

use std::io::{self, Write};
use std::path::PathBuf;

use gunyah::Dialect;

use crate::check::{self, diagnostic_json, Report};
use crate::diagnostic::{Diagnostic, Kind};
use crate::json::{object, Value};
use crate::list::Listed;
use crate::memory;
use crate::text::printable;

use processes::Process;

/// What to examine, and how to report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directories of VMs' files.
    pub config_dirs: Vec<PathBuf>,
    /// gunyahd's control socket.
    pub socket: PathBuf,
    /// The driver's node.
    pub device: PathBuf,
    /// The kernel's options, as `.config` or gzip'ed; absent: /proc/config.gz.
    pub kernel_config: Option<PathBuf>,
    /// Print the findings as JSON.
    pub json: bool,
}

/// One line of the report.
enum Finding {
    /// As it should be.
    Good(&'static str, String),
    /// Neither good nor bad: what could not be seen, or what is left out.
    Note(&'static str, String),
    /// Not as it should be. An error stops VMs, a warning does not.
    Bad(Diagnostic),
}

/// Every line so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, about: &'static str, what: impl Into<String>) {
        self.0.push(Finding::Good(about, what.into()));
    }

    fn note(&mut self, about: &'static str, what: impl Into<String>) {
        self.0.push(Finding::Note(about, what.into()));
    }

    fn bad(&mut self, fault: Diagnostic) {
        self.0.push(Finding::Bad(fault));
    }

    fn faults(&self, errors: bool) -> usize {
        let is = |finding: &&Finding| matches!(finding, Finding::Bad(fault) if fault.is_error() == errors);
        self.0.iter().filter(is).count()
    }
}

/// Examines and prints. Returns the exit code: 1 if something stops VMs, else 0.
///
/// # Errors
/// When `out` takes no more.
pub fn run(options: &Options, out: &mut impl Write) -> io::Result<i32> {
    let findings = examine(options);
    if options.json {
        writeln!(out, "{:#}", as_json(&findings))?;
    } else {
        for finding in &findings.0 {
            let (word, text) = match finding {
                Finding::Good(about, what) => ("ok", format!("{about}: {what}")),
                Finding::Note(about, what) => ("note", format!("{about}: {what}")),
                Finding::Bad(fault) => (fault.severity.as_str(), fault.to_string()),
            };
            writeln!(out, "{word:<8} {}", printable(&text))?;
        }
        let (errors, warnings) = (findings.faults(true), findings.faults(false));
        writeln!(out, "errors: {errors}, warnings: {warnings}")?;
    }
    out.flush()?;
    Ok(i32::from(findings.faults(true) > 0))
}

fn examine(options: &Options) -> Findings {
    let mut all = Findings::default();
    let processes = processes::all(&options.device);
    node::file(&options.device, &mut all);
    node::holders(&options.device, &processes, &mut all);
    let dialect = node::dialect(&options.device, &mut all);
    let report = files(options, dialect, &mut all);
    kernel::options(options.kernel_config.as_deref(), dialect, &report, &mut all);
    host::program(&mut all);
    let service = host::service(&options.socket, &processes, &mut all);
    let serving = service.is_some() || processes.iter().any(Process::is_service);
    pages::pools(&report, serving, &mut all);
    pages::transparent(dialect, &report, service.as_ref(), &mut all);
    pages::reserve(&report, service.as_ref(), &mut all);
    pages::pinned(&report, service.and_then(|service| service.pid), &mut all);
    host::sockets(&mut all);
    host::kernel_log(&mut all);
    all
}

/// What `gunyahd check` says of the VMs' files on this host and, where it is known, its driver.
fn files(options: &Options, dialect: Option<Dialect>, all: &mut Findings) -> Report {
    let report = check::check(&check::Options {
        paths: options.config_dirs.clone(),
        dtb: false,
        json: false,
        host: memory::host(dialect.unwrap_or(Dialect::Ack61)),
        kernel: dialect,
        root: None,
    });
    let launchable = report.vms.iter().filter(|vm| vm.plan.is_some()).count();
    // A directory that is not there was looked at as a file, and has a line of its own.
    let absent = options.config_dirs.iter().filter(|dir| !dir.exists()).count();
    let files = report.files.saturating_sub(absent);
    let what = format!("{files} of VMs, and {launchable} VMs can be launched");
    match launchable {
        0 => all.note("files", what),
        _ => all.good("files", what),
    }
    let warnings = report.vms.iter().flat_map(|vm| &vm.warnings);
    for fault in report.problems.iter().chain(&report.warnings).chain(warnings) {
        all.bad(fault.clone());
    }
    report
}

fn as_json(findings: &Findings) -> Value<'_> {
    object(vec![
        ("version", 1u32.into()),
        ("findings", findings.0.iter().map(line).listed().into()),
        ("errors", findings.faults(true).into()),
        ("warnings", findings.faults(false).into()),
    ])
}

fn line(finding: &Finding) -> Value<'_> {
    let (result, about, what) = match finding {
        Finding::Good(about, what) => ("ok", about, what),
        Finding::Note(about, what) => ("note", about, what),
        Finding::Bad(fault) => {
            let mut members = diagnostic_json(fault);
            members.push(("result", fault.severity.as_str().into()));
            return object(members);
        }
    };
    object(vec![
        ("result", result.into()),
        ("about", (*about).into()),
        ("message", what.as_str().into()),
    ])
}

/// Every kind of fault that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[host::KINDS, kernel::KINDS, node::KINDS, pages::KINDS];
