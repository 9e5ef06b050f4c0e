// SPDX-License-Identifier: Apache-2.0
//! `gunyahd`: the init service, one VM in the foreground, and the check without a device.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use gunyahd::check;
use gunyahd::cli::daemon::{self, Command};
use gunyahd::cli::{self, complain, Stop};
use gunyahd::config;
use gunyahd::diagnostic::Diagnostic;
use gunyahd::doctor;
use gunyahd::explain;
use gunyahd::import::{self, Source};
use gunyahd::list::Listed;
use gunyahd::status::logger::{self, Audience};
use gunyahd::supervisor::{self, BootOptions};
use gunyahd::text::failure;
use gunyahd::worker::Setting;

/// Could not work.
const BROKEN: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// The file has mistakes, or the launch failed.
const LAUNCH_FAILED: u8 = 3;

fn main() -> ExitCode {
    let words = std::env::args_os().listed();
    match daemon::parse(words.get(1..).unwrap_or_default()) {
        Ok(Command::Boot(options)) => boot(options),
        Ok(Command::Run { file, setting }) => run(&file, setting),
        Ok(Command::Check(options)) => check(&options),
        Ok(Command::Doctor(options)) => doctor(&options),
        Ok(Command::Import(source)) => import(&source),
        Ok(Command::Explain(name)) => explain(name.as_deref()),
        Err(Stop::Print(text)) => print(&text),
        Err(Stop::Usage(error)) => {
            complain(&format!("gunyahd: {error}; see gunyahd --help"));
            ExitCode::from(USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match cli::print(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => unwritable(&error),
    }
}

fn explain(name: Option<&str>) -> ExitCode {
    match name.map_or_else(|| Ok(explain::list()), explain::explain) {
        Ok(text) => print(&text),
        Err(unknown) => {
            complain(&format!("gunyahd: {unknown}"));
            ExitCode::from(BROKEN)
        }
    }
}

fn import(source: &Source) -> ExitCode {
    match import::import(source) {
        Ok((config, left)) => {
            for left in left {
                complain(&format!("gunyahd: {left}"));
            }
            print(&config)
        }
        Err(wrong) => {
            complain(&format!("gunyahd: {wrong}"));
            ExitCode::from(BROKEN)
        }
    }
}

// A reader that went away (`| head`) knows why it sees no more.
fn unwritable(error: &std::io::Error) -> ExitCode {
    if error.kind() != ErrorKind::BrokenPipe {
        complain(&format!("gunyahd: standard output: {}", failure(error)));
    }
    ExitCode::from(BROKEN)
}

fn boot(options: BootOptions) -> ExitCode {
    logger::start(Audience::Service, log::LevelFilter::Info);
    match supervisor::boot(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => broken(&error),
    }
}

fn broken(error: &Diagnostic) -> ExitCode {
    logger::say(log::Level::Error, format_args!("{error}"));
    ExitCode::from(BROKEN)
}

fn check(options: &check::Options) -> ExitCode {
    logger::start(Audience::Foreground, log::LevelFilter::Warn);
    match check::run(options, &mut std::io::stdout().lock()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(BROKEN),
        Err(error) => unwritable(&error),
    }
}

fn doctor(options: &doctor::Options) -> ExitCode {
    logger::start(Audience::Foreground, log::LevelFilter::Warn);
    match doctor::run(options, &mut std::io::stdout().lock()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(BROKEN),
        Err(error) => unwritable(&error),
    }
}

fn run(file: &Path, setting: Setting) -> ExitCode {
    logger::start(Audience::Foreground, log::LevelFilter::Info);
    let config = match config::load(file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                complain(&problem.to_string());
            }
            return ExitCode::from(LAUNCH_FAILED);
        }
    };
    match supervisor::run(config, setting) {
        Ok(outcome) => ExitCode::from(daemon::exit_code(outcome)),
        Err(error) => broken(&error),
    }
}
