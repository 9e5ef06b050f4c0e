// SPDX-License-Identifier: Apache-2.0
//! A checker of init scripts: AOSP's grammar (`system/core/init`: tokenizer, service_parser, action_parser,
//! builtins, ueventd_parser) for the keywords that a vendor's service is likely to use, under the rules for
//! files of /vendor. A keyword that it does not know is a mistake.

use std::collections::BTreeSet;

/// A line's mistake: its number and what is wrong.
pub type Mistake = (usize, String);

/// A service, as written.
#[derive(Debug, Default, Clone)]
pub struct Service {
    pub name: String,
    pub program: Vec<String>,
    /// Options with their arguments, in their order.
    pub options: Vec<Vec<String>>,
}

impl Service {
    /// Arguments of the option `name`, if it is there.
    pub fn option(&self, name: &str) -> Option<&[String]> {
        let option = self.options.iter().find(|words| words[0] == name)?;
        Some(&option[1..])
    }
}

/// An action, as written.
#[derive(Debug, Default, Clone)]
pub struct Action {
    pub triggers: Vec<String>,
    pub commands: Vec<Vec<String>>,
}

/// A whole script.
#[derive(Debug, Default)]
pub struct Script {
    pub services: Vec<Service>,
    pub actions: Vec<Action>,
}

/// Users and groups of AOSP's `android_filesystem_config.h` that a vendor's service meets.
const IDS: [&str; 14] = [
    "root",
    "system",
    "shell",
    "log",
    "radio",
    "input",
    "media",
    "drmrpc",
    "wakelock",
    "uhid",
    "readproc",
    "readtracefs",
    "inet",
    "nobody",
];

const CAPABILITIES: [&str; 12] = [
    "BLOCK_SUSPEND",
    "CHOWN",
    "IPC_LOCK",
    "KILL",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SYS_NICE",
    "SYS_RESOURCE",
    "WAKE_ALARM",
];

const LIMITS: [&str; 9] = [
    "as", "core", "data", "fsize", "memlock", "nice", "nofile", "nproc", "rtprio",
];

/// Options of a service: fewest and most arguments.
const OPTIONS: [(&str, usize, usize); 22] = [
    ("capabilities", 0, usize::MAX),
    ("class", 1, usize::MAX),
    ("console", 0, 1),
    ("critical", 0, 2),
    ("disabled", 0, 0),
    ("file", 2, 2),
    ("gentle_kill", 0, 0),
    ("group", 1, 13),
    ("ioprio", 2, 2),
    ("oneshot", 0, 0),
    ("onrestart", 1, usize::MAX),
    ("oom_score_adjust", 1, 1),
    ("priority", 1, 1),
    ("restart_period", 1, 1),
    ("rlimit", 3, 3),
    ("seclabel", 1, 1),
    ("setenv", 2, 2),
    ("shutdown", 1, 1),
    ("socket", 3, 6),
    ("stdio_to_kmsg", 0, 0),
    ("task_profiles", 1, usize::MAX),
    ("user", 1, 1),
];

/// Commands of an action: fewest and most arguments.
const COMMANDS: [(&str, usize, usize); 15] = [
    ("chmod", 2, 2),
    ("chown", 2, 3),
    ("class_start", 1, 1),
    ("copy", 2, 2),
    ("enable", 1, 1),
    ("exec_start", 1, 1),
    ("mkdir", 1, 6),
    ("restart", 1, 2),
    ("rm", 1, 1),
    ("setprop", 2, 2),
    ("start", 1, 1),
    ("stop", 1, 1),
    ("trigger", 1, 1),
    ("wait", 1, 2),
    ("write", 2, 2),
];

/// Events that init, or AOSP's init.rc, triggers on each boot.
const EVENTS: [&str; 14] = [
    "boot",
    "charger",
    "early-boot",
    "early-fs",
    "early-init",
    "firmware_mounts_complete",
    "fs",
    "init",
    "late-fs",
    "late-init",
    "nonencrypted",
    "post-fs",
    "post-fs-data",
    "zygote-start",
];

/// Profiles for processes of AOSP's `task_profiles.json` that a service may take.
const PROFILES: [&str; 12] = [
    "HighIoPriority",
    "HighPerformance",
    "MaxIoPriority",
    "MaxPerformance",
    "NormalIoPriority",
    "NormalPerformance",
    "ProcessCapacityHigh",
    "ProcessCapacityLow",
    "ProcessCapacityMax",
    "ProcessCapacityNormal",
    "ServiceCapacityLow",
    "ServicePerformance",
];

/// Properties that a vendor's trigger may name.
const ACTIONABLE: [&str; 9] = [
    "init.svc.vendor.",
    "ro.vendor.",
    "persist.vendor.",
    "vendor.",
    "init.svc.odm.",
    "ro.odm.",
    "persist.odm.",
    "odm.",
    "ro.boot.",
];

/// Splits a line into words as init does: blanks, double quotes, backslashes, comments.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            '\\' => {
                let next = characters.next().ok_or("a line is continued")?;
                word.get_or_insert_with(String::new).push(next);
            }
            '#' if !quoted && word.is_none() => break,
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

fn lines(text: &str) -> impl Iterator<Item = (usize, Result<Vec<String>, String>)> + '_ {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, words(line)))
        .filter(|(_, words)| !matches!(words, Ok(words) if words.is_empty()))
}

/// Reads an init script and lists every mistake.
pub fn check_script(text: &str) -> (Script, Vec<Mistake>) {
    let mut script = Script::default();
    let mut mistakes = Vec::new();
    // What the lines now belong to.
    let mut in_service: Option<bool> = None;
    for (number, words) in lines(text) {
        let mut mistake = |what: String| mistakes.push((number, what));
        let words = match words {
            Ok(words) => words,
            Err(what) => {
                mistake(what);
                continue;
            }
        };
        match words[0].as_str() {
            "service" => {
                in_service = Some(true);
                let service = Service {
                    name: words.get(1).cloned().unwrap_or_default(),
                    program: words.get(2..).unwrap_or_default().to_vec(),
                    options: Vec::new(),
                };
                for what in service_line(&service, &script.services) {
                    mistake(what);
                }
                script.services.push(service);
            }
            "on" => {
                in_service = Some(false);
                for what in triggers(&words[1..]) {
                    mistake(what);
                }
                script.actions.push(Action {
                    triggers: words[1..].to_vec(),
                    commands: Vec::new(),
                });
            }
            "import" => in_service = None,
            keyword => match (
                in_service,
                script.services.last_mut(),
                script.actions.last_mut(),
            ) {
                (Some(true), Some(service), _) => {
                    for what in option(&words, service) {
                        mistake(what);
                    }
                    service.options.push(words);
                }
                (Some(false), _, Some(action)) => {
                    for what in command(&words) {
                        mistake(what);
                    }
                    action.commands.push(words);
                }
                _ => mistake(format!("{keyword} stands outside of any section")),
            },
        }
    }
    for service in &script.services {
        let whole = |what: &str| (0, format!("service {}: {what}", service.name));
        if service.option("user").is_none() {
            mistakes.push(whole("no user, so it would be root"));
        }
        if service.option("class").is_none() && service.option("disabled").is_none() {
            mistakes.push(whole("class default is started late: name one"));
        }
        if service.option("critical").is_some() && service.option("oneshot").is_some() {
            mistakes.push(whole("critical and oneshot"));
        }
        if service.option("console").is_some() && service.option("stdio_to_kmsg").is_some() {
            mistakes.push(whole("console and stdio_to_kmsg"));
        }
    }
    for action in &script.actions {
        let on = action.triggers.join(" ");
        let mut whole = |what: String| mistakes.push((0, format!("on {on}: {what}")));
        if action.commands.is_empty() {
            whole("no command".into());
        }
        for trigger in &action.triggers {
            if let Some((service, state)) = trigger
                .strip_prefix("property:init.svc.")
                .and_then(|rest| rest.split_once('='))
            {
                let states = ["running", "restarting", "stopping", "stopped", "*"];
                if !states.contains(&state) {
                    whole(format!("{state} is no state of a service"));
                }
                if !script.services.iter().any(|known| known.name == service) {
                    whole(format!("no service {service} in this script"));
                }
            }
        }
        for words in &action.commands {
            let on_services = ["start", "stop", "restart", "enable", "exec_start"];
            let known = |name: &String| script.services.iter().any(|service| service.name == *name);
            if on_services.contains(&words[0].as_str()) && !words.get(1).is_some_and(known) {
                whole(format!(
                    "{}: no such service in this script",
                    words.join(" ")
                ));
            }
            for name in words.iter().flat_map(|word| expanded(word)) {
                // Else it could be unset, and the command would fail.
                let waited = format!("property:{name}=");
                if !action.triggers.iter().any(|word| word.starts_with(&waited)) {
                    whole(format!("{name} is no property of the trigger"));
                }
            }
        }
    }
    (script, mistakes)
}

fn service_line(service: &Service, others: &[Service]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let Some(program) = service.program.first() else {
        return vec!["services must have a name and a program".into()];
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-@:".contains(c);
    let name = &service.name;
    if !name.chars().all(legal) || name.contains("..") || name.ends_with('.') || name.len() > 92 {
        mistakes.push(format!("{name} is no service name"));
    }
    if !name.starts_with("vendor.") {
        mistakes.push(format!(
            "{name}: a vendor's trigger sees only init.svc.vendor.*"
        ));
    }
    if !program.starts_with("/vendor/bin/") {
        mistakes.push(format!("{program} is not in /vendor/bin"));
    }
    if others.iter().any(|other| other.name == *name) {
        mistakes.push(format!("{name} is defined twice"));
    }
    mistakes
}

fn counted(words: &[String], table: &[(&str, usize, usize)], kind: &str) -> Result<(), String> {
    let keyword = &words[0];
    let Some((_, fewest, most)) = table.iter().find(|(name, ..)| name == keyword) else {
        return Err(format!("{keyword} is no {kind}"));
    };
    let count = words.len() - 1;
    if count < *fewest || count > *most {
        return Err(format!("{keyword} with {count} arguments"));
    }
    Ok(())
}

fn id(name: &str) -> Option<String> {
    let known = IDS.contains(&name) || name.parse::<u32>().is_ok();
    (!known).then(|| format!("{name} is no user or group"))
}

fn mode(text: &str) -> Option<String> {
    let octal = !text.is_empty() && text.chars().all(|c| ('0'..='7').contains(&c));
    (!octal || text.len() > 4).then(|| format!("{text} is no octal mode"))
}

fn integer(text: &str, low: i64, high: i64) -> Option<String> {
    match text.parse::<i64>() {
        Ok(n) if (low..=high).contains(&n) => None,
        _ => Some(format!("{text} is not between {low} and {high}")),
    }
}

fn option(words: &[String], service: &Service) -> Vec<String> {
    if let Err(what) = counted(words, &OPTIONS, "option of a service") {
        return vec![what];
    }
    let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let repeated =
        |same: &dyn Fn(&[String]) -> bool| service.options.iter().any(|other| same(other));
    let mut mistakes: Vec<String> = Vec::new();
    match words[0].as_str() {
        "user" => mistakes.extend(id(arguments[0])),
        "group" => mistakes.extend(arguments.iter().filter_map(|name| id(name))),
        "capabilities" => mistakes.extend(
            arguments
                .iter()
                .filter(|name| !CAPABILITIES.contains(name))
                .map(|name| format!("{name} is no capability for a vendor's service")),
        ),
        "rlimit" => {
            if !LIMITS.contains(&arguments[0]) {
                mistakes.push(format!("{} is no resource", arguments[0]));
            }
            for value in &arguments[1..] {
                if *value != "unlimited" && *value != "-1" && value.parse::<u64>().is_err() {
                    mistakes.push(format!("{value} is no limit"));
                }
            }
        }
        "socket" => {
            let mut kinds = arguments[1].split('+');
            if !kinds
                .next()
                .is_some_and(|kind| ["stream", "dgram", "seqpacket"].contains(&kind))
            {
                mistakes.push(format!("{} is no socket type", arguments[1]));
            }
            mistakes.extend(
                kinds
                    .filter(|extra| !["listen", "passcred"].contains(extra))
                    .map(|extra| format!("{extra} is no decoration of a socket type")),
            );
            mistakes.extend(mode(arguments[2]));
            mistakes.extend(arguments.iter().skip(3).take(2).filter_map(|name| id(name)));
            if repeated(&|other| other[0] == "socket" && other[1] == arguments[0]) {
                mistakes.push(format!("socket {} twice", arguments[0]));
            }
        }
        "file" => {
            if !["r", "w", "rw"].contains(&arguments[1]) {
                mistakes.push(format!("{} is not r, w or rw", arguments[1]));
            }
            if !arguments[0].starts_with('/') || arguments[0].contains("../") {
                mistakes.push(format!("{} is relative", arguments[0]));
            }
        }
        "oom_score_adjust" => mistakes.extend(integer(arguments[0], -1000, 1000)),
        "priority" => mistakes.extend(integer(arguments[0], -20, 19)),
        "restart_period" => mistakes.extend(integer(arguments[0], 0, i64::from(i32::MAX))),
        "ioprio" => {
            if !["rt", "be", "idle"].contains(&arguments[0]) {
                mistakes.push(format!("{} is not rt, be or idle", arguments[0]));
            }
            mistakes.extend(integer(arguments[1], 0, 7));
        }
        "shutdown" if arguments[0] != "critical" => {
            mistakes.push(format!("shutdown {} is not critical", arguments[0]));
        }
        "task_profiles" => mistakes.extend(
            arguments
                .iter()
                .filter(|name| !PROFILES.contains(name))
                .map(|name| format!("{name} is no task profile")),
        ),
        "onrestart" => mistakes.extend(command(&words[1..])),
        _ => {}
    }
    let many = ["socket", "file", "setenv", "rlimit", "onrestart"];
    if !many.contains(&words[0].as_str()) && repeated(&|other| other[0] == words[0]) {
        mistakes.push(format!("{} twice", words[0]));
    }
    mistakes.extend(words.iter().flat_map(|word| expansions(word)));
    mistakes
}

fn triggers(words: &[String]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut events = 0;
    if words.is_empty() {
        mistakes.push("an action needs a trigger".into());
    }
    if words.len() % 2 == 0 && !words.is_empty() {
        mistakes.push("&& joins two triggers".into());
    }
    for (index, word) in words.iter().enumerate() {
        if index % 2 == 1 {
            if word != "&&" {
                mistakes.push(format!("{word} is not &&"));
            }
        } else if let Some(property) = word.strip_prefix("property:") {
            match property.split_once('=') {
                None => mistakes.push(format!("{word} has no value")),
                Some((name, _)) if !ACTIONABLE.iter().any(|prefix| name.starts_with(prefix)) => {
                    mistakes.push(format!("{name} is not for a vendor's trigger"));
                }
                Some(_) => {}
            }
        } else {
            events += 1;
            if !EVENTS.contains(&word.as_str()) {
                mistakes.push(format!("{word} is no event"));
            }
        }
    }
    if events > 1 {
        mistakes.push("two events never happen at once".into());
    }
    mistakes
}

fn command(words: &[String]) -> Vec<String> {
    if let Err(what) = counted(words, &COMMANDS, "command of an action") {
        return vec![what];
    }
    let mut mistakes: Vec<String> = words.iter().flat_map(|word| expansions(word)).collect();
    match words[0].as_str() {
        // vendor_init may write sysfs and its own devices, and no proc file.
        "write" if !starts(&words[1], &["/sys/", "/dev/"]) => {
            mistakes.push(format!("vendor_init may not write {}", words[1]));
        }
        "setprop" if !starts(&words[1], &["vendor.", "persist.vendor.", "ro.vendor."]) => {
            mistakes.push(format!("vendor_init may not set {}", words[1]));
        }
        "start" | "stop" | "restart" | "enable" | "exec_start"
            if !words[1].starts_with("vendor.") =>
        {
            mistakes.push(format!("{} is not a vendor's service", words[1]));
        }
        _ => {}
    }
    mistakes
}

fn starts(text: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| text.starts_with(prefix))
}

/// `${name}` and `${name:-default}`; a lone dollar is `$$`.
fn expansions(word: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(next) = rest.strip_prefix('$') {
            rest = next;
        } else if let Some((name, next)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            if name.split(":-").next().is_none_or(str::is_empty) {
                mistakes.push(format!("{word}: an expansion without a name"));
            }
            rest = next;
        } else {
            mistakes.push(format!("{word}: a dollar that is no expansion"));
        }
    }
    mistakes
}

/// The properties that a word expands, without those that have a default.
fn expanded(word: &str) -> impl Iterator<Item = &str> {
    let parts = word.split("${").skip(1);
    parts
        .filter_map(|part| part.split_once('}').map(|(name, _)| name))
        .filter(|name| !name.contains(":-"))
}

/// Lists every mistake of a ueventd script.
pub fn check_ueventd(text: &str) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, words) in lines(text) {
        let mut mistake = |what: String| mistakes.push((number, what));
        let words = match words {
            Ok(words) => words,
            Err(what) => {
                mistake(what);
                continue;
            }
        };
        // /sys/ lines name an attribute behind the path.
        let first = if words[0].starts_with("/dev/") {
            1
        } else if words[0].starts_with("/sys/") {
            2
        } else {
            mistake(format!("{} begins no line of ueventd", words[0]));
            continue;
        };
        if words.len() != first + 3 && words.len() != first + 4 {
            mistake(format!("{} with {} words", words[0], words.len()));
            continue;
        }
        for what in mode(&words[first])
            .into_iter()
            .chain(id(&words[first + 1]))
            .chain(id(&words[first + 2]))
        {
            mistake(what);
        }
        if words
            .get(first + 3)
            .is_some_and(|word| word != "no_fnm_pathname")
        {
            mistake(format!("{} is not no_fnm_pathname", words[first + 3]));
        }
        if !seen.insert(words[0].clone()) {
            mistake(format!("{} twice", words[0]));
        }
    }
    mistakes
}
