// SPDX-License-Identifier: Apache-2.0
//! The chart of docs/performance.md: bars of launches and of their floors.

use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 460.0;
const TOP: f64 = 56.0;
const ROW: f64 = 34.0;
const BAR: f64 = 12.0;

/// Of the results, as SVG: one warm launch of each size and backing, and many at once.
pub fn of(results: &Value) -> String {
    let launches = rows(
        &results["launch"],
        |row| {
            let warm = row["cold"] == false;
            warm.then(|| format!("{} {}", size(&row["mib"]), row["backing"].as_str().unwrap_or("")))
        },
        "floor_ms",
    );
    let at_once = |row: &Value| Some(format!("{} × {} at once", row["vms"], size(&row["mib"])));
    let many = rows(&results["many"], at_once, "ideal_ms");
    let all: Vec<Bar> = launches.into_iter().chain(many).collect();
    draw(&all, &place(&results["where"]))
}

struct Bar {
    name: String,
    ours: f64,
    floor: f64,
}

fn rows(part: &Value, name: impl Fn(&Value) -> Option<String>, floor: &str) -> Vec<Bar> {
    let rows = part["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let bar = |row: &Value| {
        Some(Bar { name: name(row)?, ours: row["ms"].as_f64()?, floor: row[floor].as_f64()? })
    };
    rows.iter().filter_map(bar).collect()
}

fn size(mib: &Value) -> String {
    match mib.as_u64().unwrap_or(0) {
        mib if mib >= 1024 && mib % 1024 == 0 => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    }
}

fn place(place: &Value) -> String {
    let text = |key: &str| place[key].as_str().unwrap_or("?").to_owned();
    let (processor, kernel, load) = (text("processor"), text("kernel"), text("load"));
    format!("{} cores of {processor}, Linux {kernel}, load {load} before; medians", place["cores"])
}

/// Bars are as long as the logarithm of their time says: a millisecond and a second are in one picture.
fn length(ms: f64, longest: f64) -> f64 {
    let scale = (longest.max(1.0) + 1.0).ln();
    LONGEST * (ms.max(0.0) + 1.0).ln() / scale
}

fn draw(bars: &[Bar], place: &str) -> String {
    let longest = bars.iter().map(|bar| bar.ours.max(bar.floor)).fold(1.0, f64::max);
    let mut rows = String::new();
    let mut y = TOP;
    for bar in bars {
        let (ours, floor) = (length(bar.ours, longest), length(bar.floor, longest));
        let _ = writeln!(
            rows,
            r##"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text>
<rect x="{LEFT}" y="{y:.0}" width="{ours:.1}" height="{BAR}" fill="#3b6ea5"/>
<rect x="{LEFT}" y="{:.0}" width="{floor:.1}" height="{BAR}" fill="#b8b8b8"/>
<text x="{:.0}" y="{:.0}">{:.1} ms, {:.2} × the floor</text>"##,
            LEFT - 8.0,
            y + BAR + 4.0,
            escaped(&bar.name),
            y + BAR,
            LEFT + ours.max(floor) + 8.0,
            y + BAR + 4.0,
            bar.ours,
            bar.ours / bar.floor,
        );
        y += ROW;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{:.0}" font-family="sans-serif" font-size="12">
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by `cargo xtask bench`. -->
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="12" y="20" font-size="14">Launches (blue) and their floors (grey); lengths are logarithmic</text>
<text x="12" y="38" fill="#555555">{}</text>
{rows}</svg>
"##,
        y + 8.0,
        escaped(place)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_two_bars_and_its_numbers() {
        let results = json!({
            "where": { "cores": 2, "processor": "A & B", "kernel": "6.1", "load": "0.10" },
            "launch": { "rows": [
                { "backing": "hugetlb", "mib": 1024, "cold": false, "ms": 90.0, "floor_ms": 80.0 },
                { "backing": "hugetlb", "mib": 1024, "cold": true, "ms": 99.0, "floor_ms": 80.0 },
            ] },
            "many": { "rows": [{ "vms": 8, "mib": 64, "ms": 50.0, "ideal_ms": 40.0 }] },
        });
        let chart = of(&results);
        assert_eq!(chart.matches("<rect x=").count(), 4, "{chart}");
        for words in ["1 GiB hugetlb", "90.0 ms, 1.12 ×", "8 × 64 MiB at once", "A &amp; B"] {
            assert!(chart.contains(words), "{words}: {chart}");
        }
        assert!(chart.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_measured_is_an_empty_chart() {
        assert!(!of(&json!({})).contains("<rect x="));
    }
}
