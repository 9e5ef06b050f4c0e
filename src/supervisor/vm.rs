// SPDX-License-Identifier: Apache-2.0
//! What the supervisor knows of one VM.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{ConfigFile, VmConfig, VmName};
use crate::console::{lines, Ring, DEFAULT_CAPACITY};
use crate::error::Step;
use crate::status::control::{LastEnd, StepTime, VmStatus};
use crate::status::State;
use crate::worker::Report;

use super::journal::{shorten, Journal};
use super::lifecycle::{Lifecycle, Rules};
use super::order::Peer;
use super::pages::HugePages;
use super::spawn::Worker;

/// Steps kept of a launch: every region and function may have its own.
const MAX_STEPS: usize = 128;

/// Longest detail of a step kept, in bytes.
const MAX_DETAIL: usize = 256;

/// Lines of the console shown by `log`: what fits on a few screens.
const MAX_CONSOLE_LINES: usize = 100;

/// Problems told by status; the log has them all. One file of rubbish must not fill the answer that
/// tells of all VMs.
const MAX_PROBLEMS: usize = 10;

/// Longest reason published, in bytes. A worker's error is longer only if it was tampered with.
pub(super) const MAX_REASON: usize = 1024;

/// The newest launch.
#[derive(Debug, Default)]
pub struct Launch {
    begun: Option<Instant>,
    steps: Vec<StepTime>,
    micros: Option<u64>,
    end_visible: bool,
    huge_pages: HugePages,
}

impl Launch {
    /// It has taken its memory.
    pub fn has_memory(&self) -> bool {
        let memory = Step::Memory.as_str();
        self.steps.iter().any(|step| step.step == memory)
    }

    /// The huge pages that it took, once.
    pub fn take_pages(&mut self) -> HugePages {
        std::mem::take(&mut self.huge_pages)
    }
}

/// One VM.
#[derive(Debug)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// Its file.
    pub file: PathBuf,
    /// For its next start; absent if the file never was good.
    pub config: Option<VmConfig>,
    /// What is wrong with its file now.
    pub problems: Vec<String>,
    /// Its state.
    pub life: Lifecycle,
    /// Its story.
    pub journal: Journal,
    /// Its process.
    pub worker: Option<Worker>,
    /// Its newest launch.
    pub launch: Launch,
    /// Its file is gone: it goes as soon as it has ended.
    pub removed: bool,
    /// It waits for what will not come by itself.
    pub stuck: bool,
    /// It waits for huge pages to come back.
    pub awaits_pages: bool,
    /// What its guest printed, over all launches.
    console: Option<Arc<Ring>>,
}

impl Vm {
    /// A VM as its file has it; nothing is started.
    pub fn of_file(file: ConfigFile, now: u64) -> Self {
        let (config, problems) = match file.config {
            Ok(config) => (Some(config), Vec::new()),
            Err(problems) => (None, problems.iter().map(ToString::to_string).collect()),
        };
        let life = first_life(config.as_ref(), &problems, now);
        Self {
            name: file.vm,
            file: file.path,
            config,
            problems,
            life,
            journal: Journal::default(),
            worker: None,
            launch: Launch::default(),
            removed: false,
            stuck: false,
            awaits_pages: false,
            console: None,
        }
    }

    /// The console's ring for the next worker, if its file has a console.
    pub fn console_fd(&mut self) -> Option<OwnedFd> {
        self.config.as_ref()?.console.as_ref()?;
        if self.console.is_none() {
            match Ring::create(self.name.as_str(), DEFAULT_CAPACITY) {
                Ok(ring) => self.console = Some(Arc::new(ring)),
                Err(errno) => log::warn!(
                    "{}: no memory for the console's output: {errno:?}; it will end with the worker",
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
        let lines = lines::last_lines(&ring.tail(ring.capacity()), MAX_CONSOLE_LINES);
        lines
            .iter()
            .map(|line| format!("console| {line}"))
            .collect()
    }

    /// Its file is good for the first time.
    pub fn begin_anew(&mut self, now: u64) {
        self.life = first_life(self.config.as_ref(), &self.problems, now);
    }

    /// What the others need to know.
    pub fn peer(&self) -> Peer<'_> {
        let config = self.config.as_ref();
        Peer {
            name: self.name.as_str(),
            state: self.life.state(),
            after: config.map_or(&[], |config| &config.start.after),
            priority: config.map_or(0, |config| config.start.priority),
            tells_ready: self.tells_ready(),
            at_rest: self.life.at_rest(),
            alive: self.life.has_worker(),
        }
    }

    /// Its file says how it is known to be ready.
    pub fn tells_ready(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.ready.is_some())
    }

    /// A launch begins.
    pub fn begin_launch(&mut self) {
        self.launch = Launch {
            begun: Some(Instant::now()),
            ..Launch::default()
        };
    }

    /// Keeps what a report says of the launch, and its line for journal and log.
    pub fn note(&mut self, report: &Report, now: u64) -> Option<String> {
        match report {
            Report::Step {
                step,
                micros,
                detail,
            } => {
                let detail = shorten(detail, MAX_DETAIL);
                let time = span_micros(*micros);
                let line = match detail.as_str() {
                    "" => format!("{step}: {time}"),
                    _ => format!("{step}: {time}: {detail}"),
                };
                self.journal.add(now, &line);
                if self.launch.steps.len() < MAX_STEPS {
                    self.launch.steps.push(StepTime {
                        step: step.to_string(),
                        micros: *micros,
                        detail,
                    });
                }
                Some(line)
            }
            Report::Running { end_visible } => {
                self.launch.end_visible = *end_visible;
                self.launch.micros = self
                    .launch
                    .begun
                    .map(|begun| u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
                None
            }
            Report::HugePages(pages) => {
                self.launch.huge_pages = pages.clone();
                None
            }
            _ => None,
        }
    }

    /// For `status`.
    pub fn status(&self, now: u64) -> VmStatus {
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
            stuck: self.stuck,
            end_visible: self.launch.end_visible,
            steps: self.launch.steps.clone(),
            launch_micros: self.launch.micros,
            console_end: self.console.as_ref().map(|ring| ring.end()),
            last_end: self.life.last_end().map(|end| LastEnd {
                reason: end.reason.clone(),
                detail: shorten(&end.detail, MAX_REASON),
            }),
        }
    }

    /// Why it is in its state, of bounded length.
    pub fn reason(&self) -> String {
        shorten(self.life.reason(), MAX_REASON)
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
    let told = problems.iter().take(MAX_PROBLEMS);
    let mut told: Vec<String> = told.map(|text| shorten(text, MAX_REASON)).collect();
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        told.push(format!("and {more} more, see the log"));
    }
    told
}

/// The first problem, and that there are more.
pub fn first(problems: &[String]) -> String {
    match problems {
        [] => "its file has mistakes".to_owned(),
        [one] => one.clone(),
        [one, more @ ..] => format!("{one} (and {} more)", more.len()),
    }
}

/// Microseconds for people.
fn span_micros(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} µs"),
        _ => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
    }
}
