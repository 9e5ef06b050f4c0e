// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::model::{rm, Settings};

/// What `--help` prints.
pub const USAGE: &str = "\
Usage: gunyah-sim [OPTION…] [--] COMMAND [ARGUMENT…]
Runs COMMAND with a simulated /dev/gunyah and ends with its exit code.

  --dialect NAME          lkml, lkml-base, ack61 (default), ack66-early, ack66, ack612,
                          none, qcom-b2
  --engine NAME           null (default): a VM lives until a script ends it
                          qemu: it boots in qemu-system-aarch64
                          exec: its code is executed inside VCPU_RUN (feature `exec`)
  --rm KIND               old: the open-source one of 12/2023, which dies when a running
                          VM without proxy scheduling is stopped (default up to 6.1)
                          new: a newer one (default since 6.6)
                          old-production, new-production: refuse shared main memory
                          debug, production, fragile: of the dialect's generation; the
                          first two survive every stop
                          off: none
  --cores N               cores of the host (default 8): the newer one makes no more vCPUs;
                          COMMAND's sched_getaffinity reports as many
  --rm-entries N          memory entries that the resource manager survives
  --firmware FILE         the boot loader gave the resource manager this firmware for protected
                          VMs (pvmfw); without it a VM with firmware does not start
  --timer-wakeups N       ack612 has CHECK_EXTENSION, which answers this for timer wake-ups
  --device PATH           the device's path (default /dev/gunyah)
  --record FILE           every call and event as a line of JSON
  --console FILE          guests' console output by line, each with its VM's name (- : stdout)
  --script FILE           commands to begin with (see docs/simulator.md)
  --control SOCKET        a socket for commands meanwhile
  --property-socket PATH  plays a property service there
  --logd-socket PATH      plays a log daemon there
  --uevents PATH          sends what newer drivers tell udev to the datagram socket there
  --help                  this text
";

/// The parsed command line.
#[derive(Debug)]
pub struct Options {
    /// Model's set-up.
    pub settings: Settings,
    /// The resource manager that was asked for.
    rm: Option<rm::Kind>,
    /// The cores that COMMAND sees.
    pub cores: Option<u32>,
    /// Engine's name, with its options.
    pub engine: String,
    /// The device's path.
    pub device: PathBuf,
    /// Record's file.
    pub record: Option<PathBuf>,
    /// Where guests' console output goes.
    pub console: Option<PathBuf>,
    /// Script's file.
    pub script: Option<PathBuf>,
    /// Control socket's path.
    pub control: Option<PathBuf>,
    /// Property service's path.
    pub property_socket: Option<PathBuf>,
    /// Log daemon's path.
    pub logd_socket: Option<PathBuf>,
    /// Where uevents go.
    pub uevents: Option<PathBuf>,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

impl Options {
    /// Parses the arguments; None: the user asked for help.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut options = Self {
            settings: Settings::default(),
            rm: None,
            cores: None,
            engine: "null".to_string(),
            device: PathBuf::from("/dev/gunyah"),
            record: None,
            console: None,
            script: None,
            control: None,
            property_socket: None,
            logd_socket: None,
            uevents: None,
            command: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let word = argument.to_string_lossy().into_owned();
            if word == "--" {
                break;
            }
            if !word.starts_with("--") {
                options.command.push(argument);
                break;
            }
            if word == "--help" {
                return Ok(None);
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_string(), OsString::from(value)),
                None => {
                    let value = arguments.next().ok_or_else(|| format!("{word} needs a value"))?;
                    (word, value)
                }
            };
            options.set(&name, value)?;
        }
        options.command.extend(arguments);
        let dialect = options.settings.dialect;
        options.settings.rm = options.rm.unwrap_or(rm::Kind::of(dialect));
        if options.command.is_empty() {
            return Err("no COMMAND".to_string());
        }
        Ok(Some(options))
    }

    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        let text = value.to_string_lossy().into_owned();
        let path = Some(PathBuf::from(value));
        match name {
            "--dialect" => self.settings.dialect = text.parse()?,
            "--engine" => self.engine = text,
            "--rm" => self.rm = Some(text.parse()?),
            "--cores" => {
                self.cores = Some(text.parse().map_err(|_| format!("{text:?} is not a number"))?);
            }
            "--rm-entries" => {
                self.settings.rm_entries =
                    text.parse().map_err(|_| format!("{text:?} is not a number"))?;
            }
            "--firmware" => {
                let bytes = std::fs::read(&text).map_err(|error| format!("{text}: {error}"))?;
                // The settings are copied about, and live as long as the program.
                self.settings.firmware = Some(bytes.leak());
            }
            "--timer-wakeups" => {
                let number = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
                self.settings.timer_wakeups = Some(number);
            }
            "--device" => self.device = PathBuf::from(text),
            "--record" => self.record = path,
            "--console" => self.console = path,
            "--script" => self.script = path,
            "--control" => self.control = path,
            "--property-socket" => self.property_socket = path,
            "--logd-socket" => self.logd_socket = path,
            "--uevents" => self.uevents = path,
            _ => return Err(format!("unknown option {name}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dialect;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_begins_at_the_first_word_or_after_the_dashes() {
        let options = parse("--dialect lkml --record=r.json prog --flag").unwrap().unwrap();
        assert_eq!(options.settings.dialect, Dialect::Lkml);
        assert_eq!(options.record, Some(PathBuf::from("r.json")));
        assert_eq!(options.command, ["prog", "--flag"]);
        let options = parse("-- --odd x").unwrap().unwrap();
        assert_eq!(options.command, ["--odd", "x"]);
    }

    #[test]
    fn mistakes_are_told() {
        assert!(parse("--help").unwrap().is_none());
        assert!(parse("--dialect moon x").unwrap_err().contains("ack612"));
        assert!(parse("--engine").unwrap_err().contains("needs a value"));
        assert!(parse("--bogus 1 x").unwrap_err().contains("--bogus"));
        assert!(parse("--engine null").unwrap_err().contains("COMMAND"));
    }
}
