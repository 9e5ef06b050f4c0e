// SPDX-License-Identifier: Apache-2.0
//! The tree as devicetree source that `dtc` compiles to the same tree.

use std::fmt::Write;

use super::property::{cells, text};
use super::tree::{Node, Tree};
use crate::list::Listed;

impl Tree {
    /// Devicetree source. `dtc` makes the same tree of it; `boot_cpu` alone has no form in source.
    pub fn to_source(&self) -> String {
        let mut out = String::from("/dts-v1/;\n");
        for (address, size) in &self.reservations {
            line(&mut out, 0, &format!("/memreserve/ {address:#x} {size:#x};"));
        }
        out.push('\n');
        print_node(&mut out, &self.root, 0);
        out
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.extend(std::iter::repeat_n('\t', depth));
    out.push_str(text);
    out.push('\n');
}

fn print_node(out: &mut String, node: &Node, depth: usize) {
    let name = match node.name.as_str() {
        "" => "/",
        name => name,
    };
    line(out, depth, &format!("{name} {{"));
    for property in &node.properties {
        let value = print_value(&property.name, &property.value);
        line(out, depth + 1, &format!("{}{value};", property.name));
    }
    for (index, child) in node.children.iter().enumerate() {
        if index > 0 || !node.properties.is_empty() {
            out.push('\n');
        }
        print_node(out, child, depth + 1);
    }
    line(out, depth, "};");
}

/// Numbers by the specification or the Gunyah bindings, even where their bytes look like text.
const CELLS: [&str; 9] = [
    "reg",
    "ranges",
    "phandle",
    "interrupt-parent",
    "interrupts",
    "label",
    "#address-cells",
    "#size-cells",
    "affinity-map",
];

fn print_value(name: &str, value: &[u8]) -> String {
    if value.is_empty() {
        return String::new();
    }
    let whole_cells = value.len() % 4 == 0;
    if !(whole_cells && CELLS.contains(&name)) {
        if let Some(strings) = printable(value) {
            let quoted = strings.iter().map(|string| quote(string)).listed();
            return format!(" = {}", quoted.join(", "));
        }
    }
    let mut text = String::new();
    let (start, end) = if whole_cells {
        for cell in cells(value) {
            // Writing to a String cannot fail.
            let _ = write!(text, " {cell:#x}");
        }
        ('<', '>')
    } else {
        for byte in value {
            let _ = write!(text, " {byte:02x}");
        }
        ('[', ']')
    };
    format!(" = {start}{}{end}", text.trim_ascii_start())
}

/// The strings of a value that a person would have written as strings: none empty (a lone one may
/// be), all printable ASCII.
fn printable(value: &[u8]) -> Option<Vec<&str>> {
    let strings = text(value)?;
    let fine = strings
        .iter()
        .all(|string| !string.is_empty() && string.bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
    // A lone NUL byte is an empty string: no number has one byte.
    (fine || value == [0]).then_some(strings)
}

fn quote(string: &str) -> String {
    format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_look_as_a_person_would_write_them() {
        assert_eq!(print_value("a", b""), "");
        assert_eq!(print_value("a", b"x\0"), " = \"x\"");
        assert_eq!(print_value("a", b"x\0yz\0"), " = \"x\", \"yz\"");
        assert_eq!(print_value("a", b"\0"), " = \"\"");
        assert_eq!(print_value("a", b"q\"\\\0"), " = \"q\\\"\\\\\"");
        assert_eq!(print_value("a", &[0, 0, 0, 1]), " = <0x1>");
        assert_eq!(print_value("a", &[0, 0, 0, 0]), " = <0x0>");
        assert_eq!(print_value("reg", b"abc\0"), " = <0x61626300>");
        assert_eq!(print_value("a", &[1, 0xab, 3]), " = [01 ab 03]");
        assert_eq!(print_value("a", "\u{e4}\0".as_bytes()), " = [c3 a4 00]");
    }

    #[test]
    fn a_tree_as_source() {
        let mut tree = Tree::default();
        tree.reservations.push((0x8000_0000, 0x1000));
        tree.root.set_u32("#address-cells", 2);
        tree.root.ensure_child("chosen");
        tree.root.ensure_child("psci").set_str("method", "hvc");
        assert_eq!(
            tree.to_source(),
            "/dts-v1/;\n/memreserve/ 0x80000000 0x1000;\n\n/ {\n\t#address-cells = <0x2>;\n\n\
             \tchosen {\n\t};\n\n\tpsci {\n\t\tmethod = \"hvc\";\n\t};\n};\n"
        );
    }
}
