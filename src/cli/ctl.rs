// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl`'s command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::status::control::Request;
use crate::supervisor::DEFAULT_SOCKET;

use super::args::{unexpected, Args};
use super::{usage, Stop};

/// Names another socket than the default one.
pub const SOCKET_VARIABLE: &str = "GUNYAHD_SOCKET";

/// `gunyahctl --help`.
pub const HELP: &str = "\
Shows and controls the VMs of gunyahd.

usage: gunyahctl [--socket PATH] COMMAND

  status [VM] [--json]        all VMs, or one with the steps of its last launch
  start VM [--no-wait]        start it, and wait until it runs (or is ready, where it can say so)
  stop VM [--no-wait]         ask the guest to end, where its file says how; close the VM after
                              stop_timeout, or at once where it does not; wait
  restart VM [--no-wait]      stop, then start
  kill VM [--no-wait]         kill its process: for a worker that does not answer. A hard end can cost the
                              host memory, or break the resource manager, until the next reboot
  log VM                      the last lines of its journal and of its console
  console VM [--replay BYTES] [--follow]
                              its console: Ctrl-] leaves, as does ~. at the beginning of a line; the
                              first client types, the others read. In a pipe it types its input and
                              exits when the guest has been silent for a second (--follow: stays).
                              --replay shows that many bytes of earlier output first (default 4096)
  watch [--json]              every change of state, until Ctrl-C or gunyahd's end (3)

  --socket PATH   gunyahd's socket (default: $GUNYAHD_SOCKET, else /dev/socket/gunyahd)
  --version, --help

exit: 0 done                                 3 gunyahd cannot be reached
      1 the VM is unknown, or it failed      4 gunyahd refused: not allowed, or too busy
      2 usage                                5 gunyahd's answer cannot be understood
                                             6 standard output cannot be written
";

/// What who kills a VM's worker should know.
pub const KILL_WARNING: &str = "warning: a hard end can cost the host memory, or break the resource manager, until the next reboot; `stop` waits for the kernel instead";

/// What to ask gunyahd.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// gunyahd's socket.
    pub socket: PathBuf,
    /// What.
    pub request: Request,
    /// Show the answers as they come, for machines.
    pub json: bool,
    /// Stay on a console after the end of piped input.
    pub follow: bool,
}

/// What one sees of the past on coming to a console: a screen or two.
const DEFAULT_REPLAY: u64 = 4096;

/// Reads the command line, without the program's name; `socket` is what the environment says.
pub fn parse(words: &[OsString], socket: Option<OsString>) -> Result<Command, Stop> {
    let valued = ["--socket", "--replay"];
    let args = Args::parse(words, &HELP, &valued, &["--json", "--no-wait", "--follow"])?;
    if args.version {
        return Err(super::version("gunyahctl"));
    }
    let mut plain = args.plain.iter();
    let command = plain.next().ok_or_else(|| usage("a command is missing"))?.to_string_lossy();
    let vm = plain.next().map(|word| word.to_string_lossy().into_owned());
    if let Some(more) = plain.next() {
        return Err(unexpected(more));
    }
    let request = request(&command, vm, &args)?;
    let is_console = matches!(request, Request::Console { .. });
    let shows_changes = matches!(request, Request::Status { .. } | Request::Watch {});
    for (option, has_meaning) in [
        ("--json", shows_changes),
        ("--no-wait", request.changes() && !is_console),
        ("--replay", is_console),
        ("--follow", is_console),
    ] {
        if args.has(option) && !has_meaning {
            return Err(usage(format!("{option} has no meaning for {command}")));
        }
    }
    let from_environment = socket.filter(|path| !path.is_empty());
    let from_environment = from_environment.map(PathBuf::from);
    let socket = args.path("--socket").or(from_environment);
    let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
    Ok(Command { socket, request, json: args.has("--json"), follow: args.has("--follow") })
}

fn request(command: &str, vm: Option<String>, args: &Args<'_>) -> Result<Request, Stop> {
    let wait = !args.has("--no-wait");
    let named = || vm.clone().ok_or_else(|| usage(format!("{command} needs the name of a VM")));
    Ok(match command {
        "help" => return Err(Stop::Print(HELP.to_owned())),
        "status" => Request::Status { vm },
        "watch" => match vm {
            None => Request::Watch {},
            Some(vm) => return Err(unexpected(vm.as_ref())),
        },
        "start" => Request::Start { vm: named()?, wait },
        "stop" => Request::Stop { vm: named()?, wait },
        "kill" => Request::Kill { vm: named()?, wait },
        "restart" => Request::Restart { vm: named()?, wait },
        "log" => Request::Log { vm: named()? },
        "console" => {
            let replay = args.value("--replay").map_or(Ok(DEFAULT_REPLAY), bytes)?;
            Request::Console { vm: named()?, replay: Some(replay), at: None }
        }
        _ => return Err(usage(format!("unknown command {command}"))),
    })
}

fn bytes(value: &OsStr) -> Result<u64, Stop> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| usage("--replay needs a number of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, Stop> {
        let words: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
        parse(&words, None)
    }

    fn ask(request: Request, json: bool) -> Result<Command, Stop> {
        Ok(Command { socket: DEFAULT_SOCKET.into(), request, json, follow: false })
    }

    #[test]
    fn commands_become_requests() {
        let status = |vm: Option<&str>| Request::Status { vm: vm.map(str::to_owned) };
        assert_eq!(parse_line("status"), ask(status(None), false));
        assert_eq!(parse_line("--json status a"), ask(status(Some("a")), true));
        let stop = |wait| Request::Stop { vm: "a".to_owned(), wait };
        assert_eq!(parse_line("stop a"), ask(stop(true), false));
        assert_eq!(parse_line("stop --no-wait a"), ask(stop(false), false));
        let kill = Request::Kill { vm: "a".to_owned(), wait: true };
        assert_eq!(parse_line("kill a"), ask(kill, false));
        assert_eq!(parse_line("watch --json"), ask(Request::Watch {}, true));
    }

    #[test]
    fn a_console_has_a_past_and_may_be_followed() {
        let console = |replay, follow| {
            let request = Request::Console { vm: "a".to_owned(), replay: Some(replay), at: None };
            Ok(Command { socket: DEFAULT_SOCKET.into(), request, json: false, follow })
        };
        assert_eq!(parse_line("console a"), console(4096, false));
        assert_eq!(parse_line("console a --replay 0 --follow"), console(0, true));
    }

    #[test]
    fn the_socket_is_the_options_then_the_environments() {
        let socket = |line: &str, environment: Option<&str>| {
            let words: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
            match parse(&words, environment.map(OsString::from)) {
                Ok(Command { socket, .. }) => socket,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(socket("status", Some("/e")), PathBuf::from("/e"));
        assert_eq!(socket("status --socket /o", Some("/e")), PathBuf::from("/o"));
        assert_eq!(socket("status", Some("")), PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "command"),
            ("reboot a", "reboot"),
            ("stop", "name of a VM"),
            ("stop a b", "unexpected b"),
            ("watch a", "unexpected a"),
            ("log a --json", "--json"),
            ("console", "name of a VM"),
            ("console a --no-wait", "--no-wait"),
            ("console a --replay x", "number of bytes"),
            ("log a --follow", "--follow"),
            ("status --no-wait", "--no-wait"),
            ("status --all", "--all"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }
}
