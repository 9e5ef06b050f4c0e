// SPDX-License-Identifier: Apache-2.0
//! A config back to JSON, with every default written out.

use serde_json::{json, Map, Value};

use super::types::*;
use super::values::{duration_text, Bytes};
use super::words::{self, word_of};

/// The config as the file could have said it. Reading the text again gives the same config.
pub fn render(config: &VmConfig) -> Value {
    let mut root = Map::new();
    root.insert("name".into(), config.name.as_str().into());
    root.insert("autostart".into(), config.autostart.into());
    root.insert("memory".into(), memory(&config.memory));
    let regions: Vec<Value> = config.regions.iter().map(region).collect();
    root.insert("regions".into(), regions.into());
    root.insert("kernel".into(), kernel(&config.kernel));
    if let Some(initrd) = &config.initrd {
        let value = json!({ "path": initrd.path, "offset": initrd.offset });
        root.insert("initrd".into(), without_null(value));
    }
    let dtb = json!({
        "path": config.dtb.path,
        "room": bytes(config.dtb.room),
        "offset": config.dtb.offset,
    });
    root.insert("dtb".into(), without_null(dtb));
    root.insert("vcpus".into(), vcpus(&config.vcpus));
    if let Some(console) = &config.console {
        let value = json!({
            "device": word_of(words::CONSOLE_DEVICE, &console.device),
            "base": address(console.base),
            "label": console.label,
            "interrupt": console.interrupt,
        });
        root.insert("console".into(), value);
    }
    if let Some(ready) = &config.ready {
        let value = json!({
            "console_line": ready.console_line,
            "timeout": duration_text(ready.timeout),
        });
        root.insert("ready".into(), without_null(value));
    }
    root.insert("start".into(), start(&config.start));
    let restart = json!({
        "policy": word_of(words::RESTART_POLICY, &config.restart.policy),
        "max": config.restart.max,
        "window": duration_text(config.restart.window),
        "backoff": duration_text(config.restart.backoff),
        "backoff_max": duration_text(config.restart.backoff_max),
    });
    root.insert("restart".into(), restart);
    if let Some(stop) = &config.stop {
        root.insert("stop".into(), json!({ "console_line": stop.console_line }));
    }
    root.insert(
        "stop_timeout".into(),
        duration_text(config.stop_timeout).into(),
    );
    Value::Object(root)
}

/// The paths of the keys in which two configs differ, `memory.size`; places and file names do not count.
pub fn changed_keys(old: &VmConfig, new: &VmConfig) -> Vec<String> {
    let mut changed = Vec::new();
    compare("", &render(old), &render(new), &mut changed);
    changed
}

fn compare(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(path.to_owned());
        }
        return;
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => compare(&path, old, new, changed),
            _ => changed.push(path),
        }
    }
}

fn memory(memory: &MemoryConfig) -> Value {
    without_null(json!({
        "base": address(memory.base),
        "size": bytes(memory.size),
        "label": memory.label,
        "backing": backing(&memory.backing),
        "page_size": memory.page_size.map(bytes),
        "access": word_of(words::ACCESS, &memory.access),
        "prefault": memory.prefault,
    }))
}

fn region(region: &RegionConfig) -> Value {
    without_null(json!({
        "label": region.label,
        "base": address(region.base),
        "size": bytes(region.size),
        "access": word_of(words::ACCESS, &region.access),
        "flags": region.flags.to_string(),
        "backing": backing(&region.backing),
        "page_size": region.page_size.map(bytes),
        "file": region.file,
    }))
}

fn kernel(kernel: &KernelConfig) -> Value {
    without_null(json!({
        "path": kernel.path,
        "format": word_of(words::KERNEL_FORMAT, &kernel.format),
        "offset": kernel.offset,
        "cmdline": kernel.cmdline,
    }))
}

fn vcpus(vcpus: &VcpuConfig) -> Value {
    let mut value = json!({
        "count": vcpus.count,
        "scheduling": word_of(words::SCHEDULING, &vcpus.scheduling),
        "affinity": vcpus.affinity,
    });
    // Niceness is refused where the hypervisor schedules.
    if vcpus.scheduling == Scheduling::Proxy {
        value["nice"] = vcpus.nice.into();
    }
    value
}

fn start(start: &StartConfig) -> Value {
    let after: Vec<String> = start.after.iter().map(Dependency::to_string).collect();
    let property = start.property.as_ref().map(|property| {
        json!({
            "name": property.name,
            "value": property.value,
            "timeout": duration_text(property.timeout),
        })
    });
    without_null(json!({
        "after": after,
        "property": property,
        "priority": start.priority,
        "timeout": duration_text(start.timeout),
    }))
}

fn backing(list: &[Backing]) -> Value {
    list.iter().map(|backing| backing.as_str()).collect()
}

fn address(address: u64) -> Value {
    format!("{address:#x}").into()
}

fn bytes(bytes: u64) -> Value {
    Bytes(bytes).to_string().into()
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        other => other,
    }
}
