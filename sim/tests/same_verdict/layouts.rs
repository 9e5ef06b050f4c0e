// SPDX-License-Identifier: Apache-2.0
//! The rules of the guest's memory: one layout, as a config and as the driver's calls.

use gunyah_sim::engine::Access;
use gunyah_sim::model::dialect::Dialect;
use gunyah_sim::model::{rm, Settings};
use gunyahd::config::parse;
use gunyahd::dtb::{build, Seeds};
use nix::errno::Errno;

use crate::guest::{sentences, verdict, Calls, Region, Vendor, Verdict, BASE, MAIN_LABEL, SIZE};
use crate::skip::skip;

/// A VM's memory.
#[derive(Debug, Clone)]
struct Layout {
    base: u64,
    size: u64,
    shared: bool,
    rm: rm::Kind,
    /// Made of base pages: an entry each.
    scattered: bool,
    dtb_offset: u64,
    dtb_size: u64,
    same_pages: bool,
    /// Label, base, size and flags.
    further: Option<(u32, u64, u64, &'static str)>,
}

const GOOD: Layout = Layout {
    base: BASE,
    size: SIZE,
    shared: false,
    rm: rm::Kind::Debug,
    scattered: false,
    dtb_offset: 2 << 20,
    dtb_size: 0x2_0000,
    same_pages: false,
    further: None,
};

/// What `gunyahd check` says.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// Nothing is wrong.
    Nothing,
    /// A problem or a warning with these words.
    Words(&'static str),
    /// No config can ask for it.
    Inexpressible,
}
use Told::{Inexpressible, Nothing, Words};

const INVAL: Verdict = Verdict::Start(Errno::EINVAL);
const NODEV: Verdict = Verdict::Start(Errno::ENODEV);

/// What is broken, what check says, what the driver and the resource manager answer, the break.
type Row = (&'static str, Told, Verdict, fn(&mut Layout));

#[rustfmt::skip] // A table.
const TABLE: &[Row] = &[
    ("nothing", Nothing, Verdict::Runs, |_| {}),
    ("a base that is rounded up", Words("is not a multiple of 2M"), Verdict::Runs, |l| l.base = BASE + 0x1000),
    ("a base that is not page aligned", Words("is not a multiple of 2M"), Verdict::Before(Errno::EINVAL), |l| l.base = BASE + 0x800),
    // What the model is: QEMU's platform. Elsewhere it can be right.
    ("a base in device space", Words("is not above the page"), NODEV, |l| l.base = 0x2880_0000),
    ("the page that is taken", Words("is not above the page"), NODEV, |l| l.base = 0x4000_0000),
    ("a base beyond 36 bits", Words("beyond the 36 bits"), INVAL, |l| l.base = 1 << 36),
    ("an end beyond 36 bits", Words("beyond the 36 bits"), INVAL, |l| l.base = (1 << 36) - (2 << 20)),
    ("an end at the limit", Nothing, Verdict::Runs, |l| l.base = (1 << 36) - SIZE),
    ("a size that is no power of two", Nothing, Verdict::Runs, |l| l.size = SIZE + 0x3000),
    ("a size that is not whole pages", Words("is not a multiple of 4K"), Verdict::Before(Errno::EINVAL), |l| l.size = SIZE + 0x800),
    ("a devicetree off a page", Words("is not a multiple of 4K"), INVAL, |l| l.dtb_offset += 0x800),
    // The plan rounds the room's size by itself: below, at every good row.
    ("a devicetree's size off a page", Inexpressible, INVAL, |l| l.dtb_size += 0x800),
    ("a devicetree beyond its region", Words("goes past"), INVAL, |l| l.dtb_offset = SIZE - 0x1000),
    ("a label twice", Words("is the label of memory too"), Verdict::Before(Errno::EEXIST), |l| {
        l.further = Some((MAIN_LABEL, 0xa000_0000, 0x10_0000, "rw"));
    }),
    ("an overlap", Words("overlaps"), Verdict::Before(Errno::EEXIST), |l| {
        l.further = Some((7, BASE + 0x10_0000, 0x10_0000, "rw"));
    }),
    ("a region without any permission", Words("flags"), INVAL, |l| {
        l.further = Some((7, 0xa000_0000, 0x10_0000, ""));
    }),
    ("the same pages twice", Inexpressible, INVAL, |l| {
        l.further = Some((7, 0xa000_0000, 0x10_0000, "rw"));
        l.same_pages = true;
    }),
    ("a further region", Nothing, Verdict::Runs, |l| l.further = Some((7, 0xa000_0000, 0x10_0000, "rw"))),
    ("shared main memory, production", Words("production resource manager"), NODEV, |l| {
        l.shared = true;
        l.rm = rm::Kind::Production;
    }),
    ("shared main memory, debug", Words("production resource manager"), Verdict::Runs, |l| l.shared = true),
    ("lent main memory, production", Nothing, Verdict::Runs, |l| l.rm = rm::Kind::Production),
    ("more entries than it survives", Words("memory entries"), Verdict::Hangs, |l| l.scattered = true),
];

impl Layout {
    fn keys(&self) -> String {
        let access = if self.shared { "share" } else { "auto" };
        // So many base pages that the resource manager would not survive them.
        let (size, backing) = match self.scattered {
            true => (64 << 20, r#", "backing": "base""#),
            false => (self.size, ""),
        };
        let regions = self.further.map_or(String::new(), |(label, base, size, flags)| {
            format!(
                r#", "regions": [{{ "label": {label}, "base": {base}, "size": {size}, "flags": "{flags}" }}]"#
            )
        });
        format!(
            r#""memory": {{ "base": {}, "size": {size}, "access": "{access}"{backing} }},
               "vcpus": {{ "scheduling": "proxy" }}, "dtb": {{ "offset": {} }}{regions}"#,
            self.base, self.dtb_offset
        )
    }

    fn calls(&self, blob: Vec<u8>) -> Calls {
        let mut regions =
            vec![Region { label: MAIN_LABEL, base: self.base, size: self.size, flags: 7 }];
        regions.extend(self.further.map(|(label, base, size, flags)| Region {
            label,
            base,
            size,
            flags: if flags.is_empty() { 0 } else { 3 },
        }));
        Calls {
            settings: Settings {
                dialect: Dialect::Ack61,
                rm: self.rm,
                // One page is one entry too many: as many as the config's would take minutes.
                rm_entries: if self.scattered { 0 } else { rm::ENTRIES_SURVIVED },
                ..Settings::default()
            },
            access: if self.shared { Access::Share } else { Access::Lend },
            regions,
            dtb_offset: self.dtb_offset,
            dtb_size: self.dtb_size,
            blob,
        }
    }

    /// The tree that a VM like this would have, checked by nobody: its base is written over.
    fn blob(&self, vendor: &Vendor) -> Vec<u8> {
        let keys = GOOD.keys();
        let report = vendor.check(&keys);
        let text = format!(r#"{{ "name": "vm", "kernel": {{ "path": "/Image" }}, {keys} }}"#);
        let config = parse(std::path::Path::new("vm.json"), &text).unwrap();
        let plan = report.vms[0].plan.as_ref().unwrap();
        let mut tree = build(&config, None, plan, &Seeds::default()).unwrap().tree;
        tree.find_mut("/gunyah-vm-config/memory").unwrap().set_u64("base-address", self.base);
        tree.to_blob().unwrap()
    }
}

#[test]
fn check_names_each_layout_and_the_model_answers_as_the_real_one_did() {
    let vendor = Vendor::new();
    for (what, told, wanted, breaks) in TABLE {
        let mut layout = GOOD.clone();
        breaks(&mut layout);
        let calls = layout.calls(layout.blob(&vendor));
        match verdict(&calls, layout.same_pages) {
            // Frames are hidden from the unprivileged: then nothing is counted, and nothing hangs.
            Verdict::Runs if *wanted == Verdict::Hangs && !nix::unistd::geteuid().is_root() => {
                skip(&format!("{what}: only root sees page frames"));
            }
            verdict => assert_eq!(verdict, *wanted, "{what}"),
        }
        if let Inexpressible = told {
            continue;
        }
        let report = vendor.check(&layout.keys());
        let sentences = sentences(&report);
        match told {
            Words(words) => {
                assert!(sentences.iter().any(|told| told.contains(words)), "{what}: {sentences:#?}")
            }
            _ => assert_eq!(sentences, [] as [String; 0], "{what}"),
        }
        if let Some(plan) = report.vms.first().and_then(|vm| vm.plan.as_ref()) {
            assert_eq!(plan.dtb.size % 4096, 0, "{what}");
        }
    }
}
