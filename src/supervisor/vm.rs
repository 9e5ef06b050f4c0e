// SPDX-License-Identifier: Apache-2.0
//! One VM: what is known of it, and what drives its life.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{ConfigFile, Dependency, HugePages, VmConfig, VmName};
use crate::console::{lines, Ring, DEFAULT_CAPACITY};
use crate::diagnostic::{Diagnostic, Step};
use crate::launch::{self, Folios};
use crate::list::Listed;
use crate::status::control::{
    ControlError, DeviceStatus, ErrorKind, FolioStatus, Response, StepTime, VmStatus,
};
use crate::status::{clock, logger, shorten, State};
use crate::text::{symbol, Span};
use crate::worker::Report;

use super::journal::Journal;
use super::lifecycle::{Action, Death, Event, Lifecycle, Rules};
use super::order::Peer;
use super::publisher::Publisher;
use super::reserve::RunEnd;
use super::spawn::{Spawner, Worker, FORK};
use crate::json::Json;

/// Steps kept of a launch: every region and function may have its own.
const MAX_STEPS: usize = 128;

/// Longest detail of a step kept, in bytes.
const MAX_DETAIL: usize = 256;

/// Lines of the console shown by `log`: what fits on a few screens.
const MAX_CONSOLE_LINES: usize = 100;

/// Problems shown by status; the log has them all. One file of rubbish must not fill the answer that
/// has all VMs.
const MAX_PROBLEMS: usize = 10;

/// Longest reason published, in bytes. A worker's error is longer only if it was tampered with.
pub const MAX_REASON: usize = 1024;

/// The newest launch.
#[derive(Debug, Default)]
pub struct Launch {
    begun: Option<Instant>,
    steps: Vec<StepTime>,
    micros: Option<u64>,
    end_visible: bool,
    /// What the driver speaks.
    pub dialect: Option<String>,
    /// Huge pages that it took.
    pub huge_pages: HugePages,
    /// What its devices have done.
    devices: Vec<DeviceStatus>,
    /// Its transparent huge pages.
    folios: Option<Folios>,
    /// START was called; it has returned; all was closed.
    starts: bool,
    runs: bool,
    closed: bool,
}

impl Launch {
    /// It has taken its memory.
    pub fn has_memory(&self) -> bool {
        let memory = Step::Memory.as_str();
        self.steps.iter().any(|step| step.step == memory)
    }

    /// How it has ended for its pages, once its worker is gone.
    pub fn end(&self) -> RunEnd {
        let refused = self.starts && !self.runs;
        match self.closed && !refused {
            false => RunEnd::Hard,
            true if self.has_memory() => RunEnd::Closed,
            true => RunEnd::Early,
        }
    }
}

/// One VM.
#[derive(Debug)]
pub struct Vm {
    pub name: VmName,
    pub file: PathBuf,
    /// For its next start; absent if the file never was good.
    pub config: Option<VmConfig>,
    /// What is wrong with its file now.
    pub problems: Vec<String>,
    pub life: Lifecycle,
    pub journal: Journal,
    pub worker: Option<Worker>,
    /// Its worker is gone in this way, and its huge pages are awaited until then.
    pub pending: Option<(Death, u64)>,
    pub launch: Launch,
    /// Its file is gone: it goes as soon as it has ended.
    pub removed: bool,
    /// It waits for what will not come by itself.
    pub stuck: bool,
    /// It waits for huge pages to come back.
    pub awaits_pages: bool,
    /// Why its property cannot be read, as last warned of.
    pub property_warning: Option<String>,
    /// What its guest printed, over all launches.
    console: Option<Arc<Ring>>,
}

impl Vm {
    /// A VM as its file has it; nothing is started.
    pub fn of_file(file: ConfigFile, now: u64) -> Self {
        let (config, problems) = match file.config {
            Ok(config) => (Some(config), Vec::new()),
            Err(problems) => (None, problems.iter().map(ToString::to_string).listed()),
        };
        Self {
            name: file.vm,
            file: file.path,
            life: first_life(config.as_ref(), &problems, now),
            config,
            problems,
            journal: Journal::default(),
            worker: None,
            pending: None,
            launch: Launch::default(),
            removed: false,
            stuck: false,
            awaits_pages: false,
            property_warning: None,
            console: None,
        }
    }

    /// Its file is good for the first time.
    pub fn begin_anew(&mut self, now: u64) {
        self.life = first_life(self.config.as_ref(), &self.problems, now);
    }

    /// Takes an event and does what comes of it.
    pub fn on(&mut self, event: Event<'_>, now: u64, spawner: &mut Spawner, out: &mut Publisher) {
        for action in self.life.on(event, now) {
            match action {
                Action::Publish(state, reason) => out.publish(self, state, &reason, now),
                Action::Fork => {
                    if let Err(error) = self.fork(now, spawner) {
                        self.on(Event::ForkFailed(&error), now, spawner, out);
                    }
                }
                Action::Send(request) => {
                    let sent = self.worker.as_ref().map(|worker| worker.send(request));
                    if let Some(Err(errno)) = sent {
                        logger::warn!(
                            "{}: worker does not take {}: {}",
                            self.name,
                            request.to_json(),
                            symbol(errno)
                        );
                    }
                }
                Action::Kill => {
                    if let Some(worker) = &self.worker {
                        worker.kill();
                    }
                }
            }
        }
    }

    fn fork(&mut self, now: u64, spawner: &mut Spawner) -> Result<(), Diagnostic> {
        self.launch = Launch { begun: Some(Instant::now()), ..Launch::default() };
        let console = self.console_fd();
        // Nobody starts a VM that never had a good file.
        let config = self.config.as_ref();
        let config = config.ok_or_else(|| FORK.case("there is no good file"))?;
        let worker = spawner.fork(config, console)?;
        let line = format!("worker is process {}", worker.pid());
        self.journal.add(now, &line);
        self.worker = Some(worker);
        Ok(())
    }

    /// The console's ring for the next worker, if its file has a console.
    fn console_fd(&mut self) -> Option<OwnedFd> {
        self.config.as_ref()?.console.as_ref()?;
        if self.console.is_none() {
            match Ring::create(self.name.as_str(), DEFAULT_CAPACITY) {
                Ok(ring) => self.console = Some(Arc::new(ring)),
                Err(error) => logger::warn!(
                    "{}: no memory for the console's output: {error}; it will end with the worker",
                    self.name
                ),
            }
        }
        self.console.as_ref()?.fd().try_clone_to_owned().ok()
    }

    /// The last lines that its guest printed, marked as such.
    pub fn console_lines(&self) -> Vec<String> {
        let Some(ring) = &self.console else {
            return Vec::new();
        };
        let lines = lines::last_lines(&ring.tail(), MAX_CONSOLE_LINES);
        let mark = |line: &String| format!("console| {line}");
        lines.iter().map(mark).listed()
    }

    /// What the others need to know.
    pub fn peer(&self) -> Peer<'_> {
        let config = self.config.as_ref();
        Peer {
            name: self.name.as_str(),
            state: self.life.state(),
            after: self.after(),
            priority: config.map_or(0, |config| config.start.priority),
            tells_ready: self.tells_ready(),
            at_rest: self.life.at_rest(),
            is_stuck: self.life.is_stuck(),
        }
    }

    fn after(&self) -> &[Dependency] {
        let config = self.config.as_ref();
        config.map_or(&[], |config| &config.start.after)
    }

    /// Its file says how it is known to be ready.
    pub fn tells_ready(&self) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.ready.is_some())
    }

    /// Keeps what a report says of the launch, and tells journal and log.
    pub fn note(&mut self, report: &Report, now: u64) {
        match report {
            Report::Launch(launch::Event::Step { step, took, detail }) => {
                self.note_step(*step, *took, detail, now)
            }
            Report::Running { end_visible } => {
                self.launch.end_visible = *end_visible;
                self.launch.runs = true;
                self.launch.micros = self.launch.begun.map(|begun| clock::micros(begun.elapsed()));
            }
            Report::Launch(launch::Event::Dialect(dialect)) => {
                self.launch.dialect = Some(dialect.clone());
            }
            Report::Launch(launch::Event::HugePages(pages)) => {
                self.launch.huge_pages = pages.clone()
            }
            Report::Launch(launch::Event::Warning(warning)) => {
                self.journal.add(now, &format!("warning: {warning}"));
                logger::warn!("{}: {warning}", self.name);
            }
            Report::Launch(launch::Event::Folios(folios)) => self.launch.folios = Some(*folios),
            Report::Launch(launch::Event::Starts) => self.launch.starts = true,
            Report::Devices(devices) => self.launch.devices = devices.clone(),
            Report::Closed => self.launch.closed = true,
            Report::Ready | Report::Ended(_) | Report::Failed(_) | Report::Closing(_) => {}
        }
    }

    fn note_step(&mut self, step: Step, took: Duration, detail: &str, now: u64) {
        let detail = shorten(detail, MAX_DETAIL);
        let mut line = format!("{step}: {}", Span(took));
        if !detail.is_empty() {
            line = format!("{line}: {detail}");
        }
        self.journal.add(now, &line);
        logger::info!("{}: {line}", self.name);
        if self.launch.steps.len() < MAX_STEPS {
            let micros = clock::micros(took);
            self.launch.steps.push(StepTime { step: step.to_string(), micros, detail });
        }
    }

    /// For `status`.
    pub fn status(&self, now: u64) -> VmStatus {
        let end = self.life.last_end();
        VmStatus {
            vm: self.name.to_string(),
            state: self.life.state(),
            reason: self.reason(),
            since_ms: self.life.since(),
            age_ms: now.saturating_sub(self.life.since()),
            restarts: self.life.restarts(),
            resets: self.life.resets(),
            pid: self.worker.as_ref().map(|worker| worker.pid().as_raw()),
            file: self.file.display().to_string(),
            problems: bounded(&self.problems),
            stuck: self.stuck || self.life.is_stuck(),
            end_visible: self.launch.end_visible,
            dialect: self.launch.dialect.clone(),
            folios: self.launch.folios.filter(|folios| folios.of > 0).map(|folios| FolioStatus {
                huge: folios.huge,
                of: folios.of,
                reserved: folios.reserved,
            }),
            steps: self.launch.steps.clone(),
            launch_micros: self.launch.micros,
            devices: self.launch.devices.clone(),
            console_end: self.console.as_ref().map(|ring| ring.end()),
            last_end: end.cloned().map(|mut end| {
                end.detail = shorten(&end.detail, MAX_REASON);
                end
            }),
        }
    }

    /// Why it is in its state, of bounded length.
    fn reason(&self) -> String {
        shorten(self.life.reason(), MAX_REASON)
    }

    /// For one who has waited for it.
    pub fn answer(&self, reached: bool, now: u64) -> Response {
        if reached {
            return Response::Done(Box::new(self.status(now)));
        }
        let text = format!("{} is {}: {}", self.name, self.life.state(), self.reason());
        Response::Error(ControlError::new(ErrorKind::Failed, text))
    }
}

fn first_life(config: Option<&VmConfig>, problems: &[String], now: u64) -> Lifecycle {
    let (state, reason) = match config {
        None => (State::Failed, first(problems)),
        Some(config) if config.autostart => (State::Waiting, "to be started".to_owned()),
        Some(_) => (State::Disabled, "autostart is off".to_owned()),
    };
    let rules = config.map_or_else(Rules::none, Rules::of);
    Lifecycle::new(rules, state, &reason, now)
}

fn bounded(problems: &[String]) -> Vec<String> {
    let first = problems.iter().take(MAX_PROBLEMS);
    let mut shown = first.map(|text| shorten(text, MAX_REASON)).listed();
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        shown.push(format!("and {more} more, see the log"));
    }
    shown
}

/// The first problem, and that there are more.
pub fn first(problems: &[String]) -> String {
    match problems {
        [] => "its file has mistakes".to_owned(),
        [one] => one.clone(),
        [one, more @ ..] => format!("{one} (and {} more)", more.len()),
    }
}
