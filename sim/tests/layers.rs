// SPDX-License-Identifier: Apache-2.0
//! Every module imports only modules that stand before it in the list, and of the product only the
//! crate `gunyah`.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::fs;
use std::path::{Path, PathBuf};

/// As in `src/lib.rs`, the lowest first; those of one line do not import each other.
const LAYERS: [&[&str]; 11] = [
    &["caller"],
    &["fdt"],
    &["vm"],
    &["overlay"],
    &["model", "engine"],
    &["intercept"],
    &["script"],
    &["peers", "uevents", "console", "record", "options"],
    &["control"],
    &["session"],
    &["lib", "main"],
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The modules of this crate that a text names, and other crates of the workspace.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut group = false;
    for (line, text) in text.lines().enumerate() {
        let code = text.split("//").next().unwrap_or("");
        for part in code.split("crate::").skip(1) {
            let name = |part: &str| {
                let end = part.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
                part[..end.unwrap_or(part.len())].to_string()
            };
            match part.strip_prefix('{') {
                Some(names) => {
                    let names = names.split(',').map(|of| name(of.trim()));
                    found.extend(names.map(|name| (line + 1, name)));
                    group = !part.contains('}');
                }
                None => found.push((line + 1, name(part))),
            }
        }
        assert!(!group, "line {}: a group of modules on one line", line + 1);
        if code.contains("gunyahd::") || code.contains("gunyah_conform::") {
            found.push((line + 1, "the product".to_string()));
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn modules_import_only_what_is_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "{files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap();
        let own = first.as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let here = layer(own).unwrap_or_else(|| panic!("{own}: in no layer"));
        for (line, name) in imports(&fs::read_to_string(&file).unwrap()) {
            let function = name == "page_size" || name == own;
            if !function && layer(&name).is_none_or(|there| there >= here) {
                wrong.push(format!("{}:{line}: {name}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_arrow_upward_is_found() {
    let text = "use crate::{fdt, overlay};\n// crate::model\nlet x = crate::engine::Exit;\nuse gunyahd::dtb;";
    let names: Vec<_> = imports(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["fdt", "overlay", "engine", "the product"]);
    assert!(layer("engine") == layer("model"));
}
