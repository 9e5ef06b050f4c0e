// SPDX-License-Identifier: Apache-2.0
//! The words of `--script` files and of the control socket: one command a line.

use std::str::FromStr;
use std::time::Duration;

use gunyah::uapi;
use nix::errno::Errno;

use crate::intercept::{driver, host};
use crate::model::rm::Stage;
use crate::vm::{Exit, VmId};

/// Which of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nth {
    /// This one alone, counted from 1.
    Only(u64),
    /// This one and all later ones.
    From(u64),
    /// The one that comes so many after the command, counted from 1.
    Next(u64),
}

impl Nth {
    /// Whether the `count`th is meant.
    pub fn matches(self, count: u64) -> bool {
        match self {
            Nth::Only(wanted) | Nth::Next(wanted) => count == wanted,
            Nth::From(first) => count >= first,
        }
    }
}

/// What happens instead of, or before, a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails; the model never sees it.
    Errno(Errno),
    /// It answers 0, as if it were done; the model never sees it.
    Ignored,
    /// It never comes back.
    Hang,
    /// The model sees it later.
    Delay(Duration),
    /// So many pages are faulted in, then it fails.
    Partial(u64, Errno),
    /// So many bytes are read, though there are more.
    Short(u64),
    /// The caller dies by SIGKILL.
    KillCaller,
    /// COMMAND itself dies by SIGKILL.
    KillCommand,
}

/// What a peer does with those who come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMode {
    /// As the real one.
    Answer,
    /// The property service's error code; a log daemon drops.
    Refuse(u32),
    /// Accepts and says nothing.
    Hang,
    /// The socket is gone.
    Vanish,
    /// The property service answers with 64 KiB of nonsense; the log daemon has no room for a line.
    Flood,
    /// Its socket's file is there, but nobody listens.
    Stale,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A VM ends, some time after it runs.
    Exit {
        /// None: each VM.
        vm: Option<VmId>,
        /// How.
        exit: Exit,
        /// How long after it runs, or from now where it does already.
        after: Duration,
    },
    /// A VM's next VCPU_RUNs answer EBUSY.
    Busy {
        /// The VM.
        vm: VmId,
        /// How many.
        count: u64,
    },
    /// At a VM's next exits a signal is pending: VCPU_RUN answers EINTR though the page has the exit.
    Signals {
        /// The VM.
        vm: VmId,
        /// How many.
        count: u64,
    },
    /// A VM's next VCPU_RUN never comes back, whatever happens to the VM.
    Spin {
        /// The VM.
        vm: VmId,
    },
    /// A VM's vCPUs are not woken for its end: a VCPU_RUN that comes after it is told.
    Untold {
        /// The VM.
        vm: VmId,
    },
    /// A VM's next VCPU_RUN comes back with a page fault (6.6 and later).
    PageFault {
        /// The VM.
        vm: VmId,
        /// What became of it.
        errno: Errno,
        /// Guest address.
        address: u64,
    },
    /// The resource manager refuses a VM's START.
    Refuse {
        /// The VM.
        vm: VmId,
        /// START's answer.
        errno: Errno,
        /// At which of its messages; None: late, when it has everything.
        at: Option<Stage>,
    },
    /// A call fails, hangs, is slow or kills.
    Call {
        /// Its name, in the short form.
        call: String,
        /// Which of them, over all VMs.
        nth: Nth,
        /// Whose, by the name of its process; None: everybody's.
        from: Option<String>,
        /// What happens.
        fault: Fault,
    },
    /// Host calls that the simulator looks at, for `call`.
    Watch(Vec<&'static str>),
    /// No call fails any more.
    Forgive,
    /// How VMs are torn down.
    Teardown {
        /// How long it takes.
        delay: Duration,
        /// Behind the last close, which is back at once.
        behind: Option<bool>,
    },
    /// Teardowns take no longer; those under way end.
    TeardownOver,
    /// The resource manager dies.
    RmDead,
    /// The property service's behaviour.
    Property(PeerMode),
    /// The log daemon's behaviour.
    Log(PeerMode),
    /// Tells all VMs.
    List,
}

const EXIT_TYPES: [(&str, u16); 8] = [
    ("vm-exit", uapi::EXIT_TYPE_VM_EXIT),
    ("off", uapi::EXIT_TYPE_SYSTEM_OFF),
    ("reset", uapi::EXIT_TYPE_SYSTEM_RESET),
    ("reset2", uapi::EXIT_TYPE_SYSTEM_RESET2),
    ("watchdog", uapi::EXIT_TYPE_WATCHDOG_BITE),
    ("error", uapi::EXIT_TYPE_HYP_ERROR),
    ("abort", uapi::EXIT_TYPE_ASYNC_EXT_ABORT),
    ("force-stopped", uapi::EXIT_TYPE_FORCE_STOPPED),
];

/// The short form of a call's name: `VM_ANDROID_LEND_USER_MEM` and `LEND_USER_MEM` are the same.
pub fn short_name(call: &str) -> String {
    let call = call.to_ascii_uppercase();
    let call = call.strip_prefix("VM_").unwrap_or(&call);
    call.strip_prefix("ANDROID_").unwrap_or(call).to_string()
}

/// An errno by name.
fn errno(word: &str) -> Result<Errno, String> {
    // Linux's numbers end at EHWPOISON, 133.
    (1..=133)
        .map(Errno::from_raw)
        .find(|errno| format!("{errno:?}") == word.to_ascii_uppercase())
        .ok_or_else(|| format!("errno {word:?} is not known"))
}

fn exit_type(word: &str) -> Result<u16, String> {
    EXIT_TYPES
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
        .or_else(|| word.parse().ok())
        .ok_or_else(|| format!("exit type {word:?}: a number or one of off, reset, …"))
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

fn milliseconds(word: &str) -> Result<Duration, String> {
    number(word).map(Duration::from_millis)
}

fn peer_mode(words: &[&str]) -> Result<PeerMode, String> {
    match words {
        ["answer"] => Ok(PeerMode::Answer),
        ["refuse"] => Ok(PeerMode::Refuse(0x24)),
        ["refuse", code] => {
            let digits = code.strip_prefix("0x").unwrap_or(code);
            u32::from_str_radix(digits, 16)
                .map(PeerMode::Refuse)
                .map_err(|_| format!("reply code {code:?} is not hexadecimal"))
        }
        ["hang"] => Ok(PeerMode::Hang),
        ["vanish"] => Ok(PeerMode::Vanish),
        ["flood"] => Ok(PeerMode::Flood),
        ["stale"] => Ok(PeerMode::Stale),
        _ => Err("one of answer, refuse [CODE], hang, vanish, flood, stale".to_string()),
    }
}

fn vm_command(vm: &str, words: &[&str]) -> Result<Command, String> {
    let vm = match vm {
        "*" => None,
        number_word => Some(number(number_word)?),
    };
    if let (Some(vm), ["busy", count]) = (vm, words) {
        return Ok(Command::Busy { vm, count: number(count)? });
    }
    match (vm, words) {
        (Some(vm), ["signal", count]) => return Ok(Command::Signals { vm, count: number(count)? }),
        (Some(vm), ["spin"]) => return Ok(Command::Spin { vm }),
        (Some(vm), ["untold"]) => return Ok(Command::Untold { vm }),
        (Some(vm), ["fault", name, address]) => {
            let digits = address.strip_prefix("0x").unwrap_or(address);
            return Ok(Command::PageFault {
                vm,
                errno: errno(name)?,
                address: u64::from_str_radix(digits, 16)
                    .map_err(|_| format!("address {address:?} is not hexadecimal"))?,
            });
        }
        (Some(vm), ["refuse", name]) => {
            return Ok(Command::Refuse { vm, errno: errno(name)?, at: None })
        }
        (Some(vm), ["refuse", name, "at", stage]) => {
            let at = Some(Stage::from_word(stage).ok_or("at lend, configure or start")?);
            return Ok(Command::Refuse { vm, errno: errno(name)?, at });
        }
        _ => {}
    }
    let (words, after) = match words {
        [rest @ .., "after", ms] => (rest, milliseconds(ms)?),
        all => (all, Duration::ZERO),
    };
    let exit = match words {
        ["exit", kind] => Exit::of_type(exit_type(kind)?),
        ["crash"] => Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR),
        ["end", status, kind] => {
            Exit { status: number(status)?, ..Exit::of_type(exit_type(kind)?) }
        }
        _ => {
            return Err(
                "vm N exit TYPE [after MS] | crash [after MS] | end STATUS TYPE [after MS] | \
                 busy COUNT | signal COUNT | spin | untold | fault ERRNO ADDRESS | refuse ERRNO [at STAGE]"
                    .to_string(),
            )
        }
    };
    Ok(Command::Exit { vm, exit, after })
}

/// The short form of a call that can be failed; all others are mistakes.
fn known_call(word: &str) -> Result<String, String> {
    let short = short_name(word);
    let mut names = driver::names().chain(host::names());
    if names.any(|name| short_name(name) == short) {
        return Ok(short);
    }
    let names: Vec<_> = driver::names().chain(host::names()).collect();
    Err(format!("call {word:?}: one of {}", names.join(", ")))
}

/// Calls that touch many pages, and those that read many bytes.
const TOUCHING: [&str; 3] = ["SET_USER_MEM_REGION", "LEND_USER_MEM", "MADV_POPULATE"];
const READING: [&str; 2] = ["READ", "PREAD64"];

fn partial(call: &str, count: &str, errno: Option<Errno>) -> Result<Fault, String> {
    let count = number(count)?;
    if TOUCHING.contains(&call) {
        Ok(Fault::Partial(count, errno.unwrap_or(Errno::ENOMEM)))
    } else if READING.contains(&call) && errno.is_none() {
        Ok(Fault::Short(count))
    } else {
        Err(format!(
            "partial: for {} with an errno or without, for {} without",
            TOUCHING.join(", "),
            READING.join(", ")
        ))
    }
}

fn call_command(call: &str, nth: &str, words: &[&str]) -> Result<Command, String> {
    let call = known_call(call)?;
    let nth = match (nth.strip_prefix('+'), nth.strip_suffix('+')) {
        _ if nth == "*" => Nth::From(1),
        (Some(next), _) => Nth::Next(number(next)?),
        (_, Some(first)) => Nth::From(number(first)?),
        _ => Nth::Only(number(nth)?),
    };
    let (words, from) = match words {
        [rest @ .., "from", name] => (rest, Some((*name).to_string())),
        all => (all, None),
    };
    let fault =
        match words {
            ["errno", name] => Fault::Errno(errno(name)?),
            ["ignored"] => Fault::Ignored,
            ["hang"] => Fault::Hang,
            ["delay", ms] => Fault::Delay(milliseconds(ms)?),
            ["partial", count] => partial(&call, count, None)?,
            ["partial", count, "errno", name] => partial(&call, count, Some(errno(name)?))?,
            ["kill", "caller"] => Fault::KillCaller,
            ["kill", "command"] => Fault::KillCommand,
            _ => return Err(
                "call NAME NTH errno NAME | ignored | hang | delay MS | partial N [errno NAME] | \
                 kill caller | kill command [from PROCESS]"
                    .to_string(),
            ),
        };
    Ok(Command::Call { call, nth, from, fault })
}

fn watch_command(words: &[&str]) -> Result<Command, String> {
    let known = |word: &&str| {
        host::known(word).ok_or_else(|| {
            let names: Vec<_> = host::names().collect();
            format!("host call {word:?}: one of {}", names.join(", "))
        })
    };
    words.iter().map(known).collect::<Result<_, _>>().map(Command::Watch)
}

/// One line; None: empty or a comment.
pub fn parse_line(line: &str) -> Result<Option<Command>, String> {
    let line = line.split('#').next().unwrap_or("");
    let words: Vec<_> = line.split_whitespace().collect();
    let command = match words.as_slice() {
        [] => return Ok(None),
        ["vm", vm, rest @ ..] => vm_command(vm, rest)?,
        ["call", call, nth, rest @ ..] => call_command(call, nth, rest)?,
        ["watch", rest @ ..] => watch_command(rest)?,
        ["forgive"] => Command::Forgive,
        ["teardown", "delay", ms, rest @ ..] => Command::Teardown {
            delay: milliseconds(ms)?,
            behind: match rest {
                [] => None,
                ["behind"] => Some(true),
                ["waiting"] => Some(false),
                _ => return Err("teardown delay MS [behind | waiting]".to_string()),
            },
        },
        ["teardown", "over"] => Command::TeardownOver,
        ["teardown", ..] => return Err("teardown delay MS [behind | waiting] | over".to_string()),
        ["rm", "dead"] => Command::RmDead,
        ["property", rest @ ..] => Command::Property(peer_mode(rest)?),
        ["logd", rest @ ..] => Command::Log(peer_mode(rest)?),
        ["list"] => Command::List,
        [word, ..] => {
            return Err(format!(
                "{word:?}: one of vm, call, watch, forgive, teardown, rm dead, property, logd, list"
            ))
        }
    };
    Ok(Some(command))
}

/// A whole file; errors carry the line's number.
pub fn parse(text: &str) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let command = parse_line(line).map_err(|what| format!("line {}: {what}", index + 1))?;
        commands.extend(command);
    }
    Ok(commands)
}

#[cfg(test)]
mod tests;
