// SPDX-License-Identifier: Apache-2.0
//! The sections of a config: each object's keys, defaults and own rules.

use std::path::Path;
use std::time::Duration;

use super::fields::Fields;
use super::json::{Node, Value};
use super::limits;
use super::partial::Partial;
use super::problem::{Problem, Report};
use super::rules;
use super::types::*;
use super::values::{
    address, boolean, duration, found, item_key, items, line, line_or_empty, list, multiple, path,
    shown, size, whole, word, Bytes, SizeRule,
};
use super::words;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const MEMORY_SIZE: SizeRule = SizeRule {
    min: limits::PAGE,
    max: limits::ADDRESS_END,
    multiple: limits::PAGE,
};

const OFFSET: SizeRule = SizeRule {
    min: 0,
    max: limits::ADDRESS_END,
    multiple: limits::PAGE,
};

/// The whole file.
pub(super) fn vm(file: &Path, root: &Node, mut report: Report) -> (Partial, Vec<Problem>) {
    report.read.places.0.insert(String::new(), root.place);
    let config = Fields::open(root, "", "", &mut report)
        .and_then(|fields| sections(file, &fields, &mut report));
    report.end(config)
}

// Every section is read before the first `?`, so that all problems of a file are told at once.
fn sections(file: &Path, fields: &Fields, r: &mut Report) -> Option<VmConfig> {
    let name = fields.required(r, "name", vm_name);
    let autostart = fields.or(r, "autostart", true, boolean);
    let memory = fields.required(r, "memory", memory);
    let regions = fields.or(r, "regions", Vec::new(), regions);
    let kernel = fields.required(r, "kernel", kernel);
    let initrd = fields.optional(r, "initrd", initrd);
    let dtb = fields.or(r, "dtb", DtbConfig::default(), dtb);
    let vcpus = fields.or(r, "vcpus", VcpuConfig::default(), vcpus);
    let console = fields.optional(r, "console", console);
    let ready = fields.optional(r, "ready", ready);
    let start = fields.or(r, "start", StartConfig::default(), start);
    let restart = fields.or(r, "restart", RestartConfig::default(), restart);
    let stop = fields.optional(r, "stop", stop);
    let ten_seconds = 10 * SECOND;
    let stop_timeout = fields.or(r, "stop_timeout", ten_seconds, duration(Duration::ZERO));

    let known_regions: Vec<(usize, &RegionConfig)> = regions
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, region)| Some((index, region.as_ref()?)))
        .collect();
    rules::regions(memory.as_ref(), &known_regions, r);
    rules::offsets(
        memory.as_ref(),
        kernel.as_ref(),
        initrd.as_ref().and_then(Option::as_ref),
        dtb.as_ref(),
        r,
    );
    if let Some(vcpus) = &vcpus {
        rules::proxy(vcpus, console.as_ref().map(Option::is_some), r);
    }
    if let (Some(Some(console)), Some(vcpus), Some(dtb)) = (&console, &vcpus, &dtb) {
        rules::console_base(console, vcpus, dtb, r);
    }
    if let (Some(ready), Some(console)) = (&ready, &console) {
        rules::ready(ready.as_ref(), console.is_some(), r);
    }
    if let (Some(Some(_)), Some(None)) = (&stop, &console) {
        rules::stop_without_console(r);
    }
    rules::after(r);

    Some(VmConfig {
        file: file.to_owned(),
        places: Places::default(),
        name: name?,
        autostart: autostart?,
        memory: memory?,
        regions: regions?.into_iter().collect::<Option<_>>()?,
        kernel: kernel?,
        initrd: initrd?,
        dtb: dtb?,
        vcpus: vcpus?,
        console: console?,
        ready: ready?,
        start: start?,
        restart: restart?,
        stop: stop?,
        stop_timeout: stop_timeout?,
    })
}

fn vm_name(node: &Node, key: &str, r: &mut Report) -> Option<VmName> {
    let text = line(4096)(node, key, r)?;
    let name = VmName::new(text);
    if name.is_none() {
        let message = format!(
            "\"{}\" is no VM name: 1 to {} of a-z, 0-9, _ and -, a letter first",
            shown(text),
            VmName::MAX_LEN
        );
        r.problem(key, message);
    }
    r.read.name.clone_from(&name);
    name
}

fn memory(node: &Node, key: &str, r: &mut Report) -> Option<MemoryConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let base = fields.or(r, "base", MemoryConfig::BASE, |node, key, r| {
        multiple(address(node, key, r)?, limits::MEMORY_ALIGN, key, r)
    });
    let size = fields.required(r, "size", size(MEMORY_SIZE));
    let label = fields.or(r, "label", 0, whole(0, u32::MAX));
    let backing = fields.or(r, "backing", vec![Backing::Hugetlb], backing);
    let page_size = fields.optional(r, "page_size", huge_page);
    let access = fields.or(r, "access", Access::Auto, word(words::ACCESS));
    let prefault = fields.or(r, "prefault", true, boolean);
    rules::huge_page(&fields, backing.as_deref(), page_size, r);
    Some(MemoryConfig {
        base: base?,
        size: size?,
        label: label?,
        backing: backing?,
        page_size: page_size?,
        access: access?,
        prefault: prefault?,
    })
}

// A wrong region is `None`, so that the others can still be held against each other.
fn regions(node: &Node, key: &str, r: &mut Report) -> Option<Vec<Option<RegionConfig>>> {
    let items = items(node, key, limits::REGIONS, r)?;
    let regions = items
        .iter()
        .enumerate()
        .map(|(index, item)| region(item, &item_key(key, index), r))
        .collect();
    Some(regions)
}

fn region(node: &Node, key: &str, r: &mut Report) -> Option<RegionConfig> {
    let fields = Fields::open(node, key, "regions[]", r)?;
    let label = fields.required(r, "label", whole(0, u32::MAX));
    let base = fields.required(r, "base", |node, key, r| {
        multiple(address(node, key, r)?, limits::PAGE, key, r)
    });
    let size = fields.required(r, "size", size(MEMORY_SIZE));
    let access = fields.or(r, "access", Access::Auto, word(words::ACCESS));
    let flags = fields.or(r, "flags", RegionConfig::FLAGS, flags);
    let backing = fields.or(r, "backing", vec![Backing::Base], backing);
    let page_size = fields.optional(r, "page_size", huge_page);
    let file = fields.optional(r, "file", path);
    rules::huge_page(&fields, backing.as_deref(), page_size, r);
    Some(RegionConfig {
        label: label?,
        base: base?,
        size: size?,
        access: access?,
        flags: flags?,
        backing: backing?,
        page_size: page_size?,
        file: file?,
    })
}

fn backing(node: &Node, key: &str, r: &mut Report) -> Option<Vec<Backing>> {
    if let Value::String(_) = node.value {
        return Some(vec![word(words::BACKING)(node, key, r)?]);
    }
    let list = list(8, word(words::BACKING))(node, key, r)?;
    if list.is_empty() {
        r.problem(key, "wants at least one of \"hugetlb\", \"thp\", \"base\"");
        return None;
    }
    for (index, backing) in list.iter().enumerate() {
        if list[..index].contains(backing) {
            r.problem(&item_key(key, index), format!("names \"{backing}\" twice"));
            return None;
        }
    }
    Some(list)
}

fn huge_page(node: &Node, key: &str, r: &mut Report) -> Option<u64> {
    let any = SizeRule {
        min: 0,
        max: u64::MAX,
        multiple: 1,
    };
    let value = size(any)(node, key, r)?;
    if limits::HUGE_PAGES.contains(&value) {
        return Some(value);
    }
    let known: Vec<String> = limits::HUGE_PAGES
        .iter()
        .map(|page| Bytes(*page).to_string())
        .collect();
    let message = format!(
        "{} is no huge page size, wants one of {}",
        Bytes(value),
        known.join(", ")
    );
    r.problem(key, message);
    None
}

fn flags(node: &Node, key: &str, r: &mut Report) -> Option<Permissions> {
    let text = line(64)(node, key, r)?;
    let mut flags = Permissions {
        read: false,
        write: false,
        execute: false,
    };
    for letter in text.chars() {
        let flag = match letter {
            'r' => &mut flags.read,
            'w' => &mut flags.write,
            'x' => &mut flags.execute,
            _ => {
                let message = format!("wants letters of \"rwx\", found \"{}\"", shown(text));
                r.problem(key, message);
                return None;
            }
        };
        if *flag {
            r.problem(
                key,
                format!("has {letter} twice, found \"{}\"", shown(text)),
            );
            return None;
        }
        *flag = true;
    }
    Some(flags)
}

fn kernel(node: &Node, key: &str, r: &mut Report) -> Option<KernelConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let path = fields.required(r, "path", path);
    let format = fields.or(r, "format", KernelFormat::Auto, word(words::KERNEL_FORMAT));
    r.read.kernel_format = format.unwrap_or(KernelFormat::Auto);
    let offset = fields.optional(r, "offset", size(OFFSET));
    let cmdline = fields.or(r, "cmdline", "", line_or_empty(limits::CMDLINE));
    Some(KernelConfig {
        path: path?,
        format: format?,
        offset: offset?,
        cmdline: cmdline?.to_owned(),
    })
}

fn initrd(node: &Node, key: &str, r: &mut Report) -> Option<InitrdConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let path = fields.required(r, "path", path);
    let offset = fields.optional(r, "offset", size(OFFSET));
    Some(InitrdConfig {
        path: path?,
        offset: offset?,
    })
}

fn dtb(node: &Node, key: &str, r: &mut Report) -> Option<DtbConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let (min, max) = limits::DTB_ROOM;
    let rule = SizeRule {
        min,
        max,
        multiple: limits::PAGE,
    };
    let path = fields.optional(r, "path", path);
    let room = fields.or(r, "room", DtbConfig::ROOM, size(rule));
    let offset = fields.optional(r, "offset", size(OFFSET));
    Some(DtbConfig {
        path: path?,
        room: room?,
        offset: offset?,
    })
}

fn vcpus(node: &Node, key: &str, r: &mut Report) -> Option<VcpuConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let count = fields.or(r, "count", 1, whole(1, limits::VCPUS));
    let scheduling = fields.or(
        r,
        "scheduling",
        Scheduling::Hypervisor,
        word(words::SCHEDULING),
    );
    let most = usize::try_from(limits::VCPUS).unwrap_or(usize::MAX);
    let affinity = fields.or(r, "affinity", Vec::new(), list(most, host_cpus));
    let nice = fields.optional(r, "nice", whole(-20_i8, 19));
    if let (Some(Scheduling::Hypervisor), Some(Some(_))) = (scheduling, nice) {
        let message =
            "is for the threads of proxy-scheduled vCPUs, and scheduling is \"hypervisor\"";
        r.problem(&fields.key("nice"), message);
    }
    Some(VcpuConfig {
        count: count?,
        scheduling: scheduling?,
        affinity: affinity?,
        nice: nice?.unwrap_or(0),
    })
}

// One host CPU, or the list of those that a vCPU's thread may run on.
fn host_cpus(node: &Node, key: &str, r: &mut Report) -> Option<Vec<u32>> {
    match node.value {
        Value::Number(_) => Some(vec![whole(0, limits::HOST_CPU)(node, key, r)?]),
        Value::List(_) => {
            let cpus = list(64, whole(0, limits::HOST_CPU))(node, key, r)?;
            if cpus.is_empty() {
                r.problem(key, "names no host CPU, so the vCPU could never run");
                return None;
            }
            Some(cpus)
        }
        _ => {
            let message = format!("wants a host CPU or a list of them, found {}", found(node));
            r.problem(key, message);
            None
        }
    }
}

fn console(node: &Node, key: &str, r: &mut Report) -> Option<ConsoleConfig> {
    let default = ConsoleConfig::default();
    let fields = Fields::open(node, key, key, r)?;
    let device = fields.or(r, "device", default.device, word(words::CONSOLE_DEVICE));
    let base = fields.or(r, "base", default.base, |node, key, r| {
        let base = multiple(address(node, key, r)?, limits::PAGE, key, r)?;
        if base >= limits::DEVICE_SPACE_END {
            let end = limits::DEVICE_SPACE_END;
            r.problem(
                key,
                format!("{base:#x} is not in device space, which ends at {end:#x}"),
            );
            return None;
        }
        Some(base)
    });
    let label = fields.or(r, "label", default.label, whole(0, u32::MAX));
    let interrupt = fields.or(r, "interrupt", default.interrupt, whole(0, limits::SPI));
    Some(ConsoleConfig {
        device: device?,
        base: base?,
        label: label?,
        interrupt: interrupt?,
    })
}

fn ready(node: &Node, key: &str, r: &mut Report) -> Option<ReadyConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let console_line = fields.optional(r, "console_line", line(limits::PATTERN));
    let timeout = fields.or(r, "timeout", ReadyConfig::TIMEOUT, duration(MILLISECOND));
    Some(ReadyConfig {
        console_line: console_line?.map(str::to_owned),
        timeout: timeout?,
    })
}

fn stop(node: &Node, key: &str, r: &mut Report) -> Option<StopConfig> {
    let fields = Fields::open(node, key, key, r)?;
    let console_line = fields.required(r, "console_line", line(limits::PATTERN));
    Some(StopConfig {
        console_line: console_line?.to_owned(),
    })
}

fn start(node: &Node, key: &str, r: &mut Report) -> Option<StartConfig> {
    let default = StartConfig::default();
    let fields = Fields::open(node, key, key, r)?;
    let after = fields.or(r, "after", Vec::new(), list(limits::AFTER, dependency));
    let property = fields.optional(r, "property", property);
    let priority = fields.or(r, "priority", default.priority, whole(i32::MIN, i32::MAX));
    let timeout = fields.or(r, "timeout", default.timeout, duration(MILLISECOND));
    Some(StartConfig {
        after: after?,
        property: property?,
        priority: priority?,
        timeout: timeout?,
    })
}

fn dependency(node: &Node, key: &str, r: &mut Report) -> Option<Dependency> {
    let text = line(4096)(node, key, r)?;
    let (name, ready) = match text.strip_suffix(":ready") {
        Some(name) => (name, true),
        None => (text, false),
    };
    match VmName::new(name) {
        Some(vm) => {
            let dependency = Dependency { vm, ready };
            r.read.after.push((key.to_owned(), dependency.clone()));
            Some(dependency)
        }
        None => {
            let message = format!(
                "wants a VM's name, or \"name:ready\", found \"{}\"",
                shown(text)
            );
            r.problem(key, message);
            None
        }
    }
}

fn property(node: &Node, key: &str, r: &mut Report) -> Option<PropertyWait> {
    let fields = Fields::open(node, key, key, r)?;
    let name = fields.required(r, "name", property_name);
    let value = fields.required(r, "value", line(limits::PROPERTY_VALUE));
    let timeout = fields.or(r, "timeout", PropertyWait::TIMEOUT, duration(MILLISECOND));
    Some(PropertyWait {
        name: name?,
        value: value?.to_owned(),
        timeout: timeout?,
    })
}

fn property_name(node: &Node, key: &str, r: &mut Report) -> Option<String> {
    let text = line(limits::PROPERTY_NAME)(node, key, r)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@:-".contains(c);
    let wrong = if let Some(other) = text.chars().find(|c| !allowed(*c)) {
        format!("has {other:?}, wants only a-z, A-Z, 0-9 and . _ @ : -")
    } else if text.starts_with('.') || text.ends_with('.') {
        "must not begin or end with a dot".to_owned()
    } else if text.contains("..") {
        "must not have two dots in a row".to_owned()
    } else {
        return Some(text.to_owned());
    };
    r.problem(key, format!("{wrong}, found \"{}\"", shown(text)));
    None
}

fn restart(node: &Node, key: &str, r: &mut Report) -> Option<RestartConfig> {
    let default = RestartConfig::default();
    let fields = Fields::open(node, key, key, r)?;
    let policy = fields.or(r, "policy", default.policy, word(words::RESTART_POLICY));
    let max = fields.or(r, "max", default.max, whole(1, limits::RESTARTS));
    let window = fields.or(r, "window", default.window, duration(SECOND));
    let backoff = fields.or(r, "backoff", default.backoff, duration(Duration::ZERO));
    let backoff_max = fields.or(
        r,
        "backoff_max",
        default.backoff_max,
        duration(Duration::ZERO),
    );
    if let (Some(backoff), Some(longest)) = (backoff, backoff_max) {
        rules::backoff(&fields, backoff, longest, r);
    }
    Some(RestartConfig {
        policy: policy?,
        max: max?,
        window: window?,
        backoff: backoff?,
        backoff_max: backoff_max?,
    })
}
