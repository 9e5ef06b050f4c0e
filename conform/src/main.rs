// SPDX-License-Identifier: Apache-2.0
//! `gunyah-conform`: see the library and `docs/conformance.md`.

use std::process::ExitCode;
use std::time::Duration;

use gunyah_conform::bench::Bench;
use gunyah_conform::dialect::Dialect;
use gunyah_conform::isolate;
use gunyah_conform::options::{Options, USAGE};
use gunyah_conform::probe::Reach;
use gunyah_conform::rule::{Needs, Rule, Source};
use gunyah_conform::rules;
use gunyah_conform::verdict::{skip, Finding, Found};

/// How long the resource manager may take over a VM that nobody holds any more; it is slow where it
/// is emulated.
const GIVE_BACK: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => return cannot_begin(&what),
    };
    if options.list {
        return list();
    }
    let mut chosen: Vec<_> =
        rules::all().into_iter().filter(|rule| options.wants(rule.id)).collect();
    // What may leave the host without a resource manager comes last.
    chosen.sort_by_key(|rule| rule.danger.is_some());
    if chosen.is_empty() {
        return cannot_begin("no rule of that name; --list tells them");
    }
    let dialect = match options.dialect {
        Some(dialect) => dialect,
        None => match Dialect::detect(&options.device) {
            Ok(dialect) => dialect,
            Err(what) => return cannot_begin(&what),
        },
    };
    let bench = Bench {
        device: options.device.clone(),
        dialect,
        patience: options.patience,
        give_back: GIVE_BACK,
    };
    let counts = try_all(&bench, &options, &chosen);
    if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn cannot_begin(what: &str) -> ExitCode {
    eprintln!("gunyah-conform: {what}");
    ExitCode::from(2)
}

fn list() -> ExitCode {
    println!("| rule | what it says | source | dialects |");
    println!("| --- | --- | --- | --- |");
    for rule in rules::all() {
        println!("{}", rule.row());
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
    seen: u32,
    read: u32,
    inferred: u32,
}

fn try_all(bench: &Bench, options: &Options, chosen: &[&Rule]) -> Counts {
    eprintln!("{}: dialect {}", bench.device.display(), bench.dialect);
    let mut counts = Counts::default();
    let mut reach = None;
    for rule in chosen.iter().filter(|rule| rule.dialects.contains(&bench.dialect)) {
        let found = match rule.danger {
            Some(why) if !options.dangerous => skip(format!("only by --unsafe: {why}")),
            _ => check(bench, options, rule, &mut reach),
        };
        tell(options, rule, bench.dialect, &found);
        match rule.source_for(bench.dialect) {
            Source::Seen => counts.seen += 1,
            Source::Read => counts.read += 1,
            Source::Inferred => counts.inferred += 1,
        }
        match found {
            Ok(()) => counts.passed += 1,
            Err(Finding::Differs(_)) => counts.failed += 1,
            Err(Finding::Skipped(_)) => counts.skipped += 1,
        }
    }
    summary(bench, options, &counts);
    counts
}

fn check(bench: &Bench, options: &Options, rule: &Rule, reach: &mut Option<Reach>) -> Found {
    if rule.needs > Needs::Driver {
        let reach = reach.get_or_insert_with(|| Reach::find(bench, options.timeout));
        if rule.needs > reach.works {
            return skip(&reach.why);
        }
    }
    isolate::run(options.timeout, || (rule.check)(bench))
}

fn tell(options: &Options, rule: &Rule, dialect: Dialect, found: &Found) {
    let (word, detail) = match found {
        Ok(()) => ("holds", None),
        Err(Finding::Differs(what)) => ("differs", Some(what)),
        Err(Finding::Skipped(why)) => ("skipped", Some(why)),
    };
    if options.json {
        let line = serde_json::json!({
            "rule": rule.id, "verdict": word, "detail": detail,
            "source": rule.source_for(dialect).as_str(),
        });
        println!("{line}");
        return;
    }
    match detail {
        None => println!("{}: {word}", rule.id),
        Some(detail) => println!("{}: {word} ({detail})", rule.id),
    }
}

fn summary(bench: &Bench, options: &Options, counts: &Counts) {
    let Counts { passed, failed, skipped, seen, read, inferred } = counts;
    let rules = passed + failed + skipped;
    if options.json {
        let line = serde_json::json!({
            "dialect": bench.dialect.as_str(), "device": bench.device.to_string_lossy(),
            "passed": passed, "failed": failed, "skipped": skipped,
            "rules": rules, "seen": seen, "read": read, "inferred": inferred,
        });
        println!("{line}");
    } else {
        println!(
            "{passed} passed, {failed} failed, {skipped} skipped; of {rules} rules {seen} come from the \
             real stack, {read} from source, {inferred} from inference"
        );
    }
}
