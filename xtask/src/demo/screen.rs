// SPDX-License-Identifier: Apache-2.0
//! What the demo shows: consoles and log, and on a terminal a live table of the VMs below them. Without a
//! terminal the log alone shows each change of state.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
// One a guest, readable on light and dark backgrounds.
const COLOURS: [&str; 3] = ["\x1b[36m", "\x1b[33m", "\x1b[35m"];
// A long line must not wrap, or the table could not be erased.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

#[derive(Debug)]
struct Row {
    state: String,
    reason: String,
    since: Instant,
}

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    rows: BTreeMap<String, Row>,
    drawn: usize,
}

impl Screen {
    /// With the live table if this is a terminal.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            rows: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// A line of a guest's console or of gunyahd's log.
    pub fn output(&mut self, line: &str) {
        let shown = match (self.terminal, split_console(line)) {
            (true, Some((name, text))) => {
                let known = self.rows.keys().position(|vm| vm == name).unwrap_or(0);
                let colour = COLOURS[known % COLOURS.len()];
                let style = if text.starts_with("gunyah guest:") { BOLD } else { DIM };
                format!("{colour}[{name:<8}]{RESET} {style}{text}{RESET}")
            }
            (false, Some((name, text))) => format!("[{name:<8}] {text}"),
            (_, None) => line.to_owned(),
        };
        self.above(&shown);
    }

    /// The states of all VMs, which a client gets when it begins to watch.
    pub fn vms(&mut self, vms: &Value) -> Result<()> {
        for vm in vms.as_array().context("a list of VMs")? {
            let age = Duration::from_millis(vm["age_ms"].as_u64().unwrap_or(0));
            let now = Instant::now();
            self.take(vm, now.checked_sub(age).unwrap_or(now));
        }
        self.redraw();
        Ok(())
    }

    /// One VM has changed.
    pub fn change(&mut self, change: &Value) {
        self.take(change, Instant::now());
        self.redraw();
    }

    fn take(&mut self, vm: &Value, since: Instant) {
        let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        let (name, state, reason) = (text("vm"), text("state"), text("reason"));
        self.rows.insert(name, Row { state, reason, since });
    }

    /// Redraws the table, whose ages have changed.
    pub fn tick(&mut self) {
        self.redraw();
    }

    /// Erases the table.
    pub fn clear_table(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}F\x1b[J", self.drawn);
            self.drawn = 0;
            let _ = std::io::stdout().flush();
        }
    }

    fn above(&mut self, line: &str) {
        self.clear_table();
        println!("{line}");
        self.redraw();
    }

    fn redraw(&mut self) {
        if !self.terminal || self.rows.is_empty() {
            return;
        }
        self.clear_table();
        let mut lines = vec![format!(
            "{DIM}── {:<8} ── {:<9} ── {:>7} ── reason ──────────────{RESET}",
            "VM", "state", "since"
        )];
        for (name, row) in &self.rows {
            lines.push(format!(
                "   {BOLD}{name:<8}{RESET}    {:<9}    {:>5.1} s    {}",
                row.state,
                row.since.elapsed().as_secs_f64(),
                row.reason
            ));
        }
        print!("{NO_WRAP}{}\n{WRAP}", lines.join("\n"));
        self.drawn = lines.len();
        let _ = std::io::stdout().flush();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear_table();
    }
}

/// `[name] text` of the simulator's consoles.
fn split_console(line: &str) -> Option<(&str, &str)> {
    let (name, text) = line.strip_prefix('[')?.split_once("] ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    (letter && name.chars().all(plain)).then_some((name, text))
}

/// A line of a console that gunyahd has logged, as the simulator prints those of other engines.
pub fn of_console(line: String, names: &[&str]) -> String {
    let logged = |name: &&str| {
        let (_, text) = line.split_once(&format!(" gunyah.{name}:"))?;
        // Carriage returns are escaped in the log.
        Some(format!("[{name}]{}", text.replace("\\r", "")))
    };
    names.iter().find_map(logged).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_consoles_are_recognised() {
        assert_eq!(split_console("[media] [    0.1] x"), Some(("media", "[    0.1] x")));
        assert_eq!(split_console("[    0.1] x"), None);
        assert_eq!(split_console("gunyahd: boot"), None);
        let logged = "[    1.0] I gunyah.debian: \\rINIT: version\\r".to_owned();
        assert_eq!(of_console(logged, &["media", "debian"]), "[debian] INIT: version");
        let other = "[    1.0] I gunyahd: debian: ready".to_owned();
        assert_eq!(of_console(other.clone(), &["debian"]), other);
    }
}
