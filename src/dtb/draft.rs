// SPDX-License-Identifier: Apache-2.0
//! A devicetree on its way: whole but for the addresses, then finished with the plan's.

use crate::config::VmConfig;
use crate::plan::LaunchPlan;

use super::complete;
use super::facts::DtbFacts;
use super::generate;
use super::problem::DtbProblem;
use super::rules::{self, Expected};
use super::tree::{Position, Tree};
use super::write::WriteError;

/// A devicetree that lacks only the plan's addresses and the seeds. Its blob has its final length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    tree: Tree,
    facts: DtbFacts,
    expected: Expected,
    warnings: Vec<DtbProblem>,
    mended: Vec<DtbProblem>,
}

/// Random bytes for the guest, drawn by the caller so that finishing stays pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// `/chosen/rng-seed`: for the guest's random number generator.
    pub rng: [u8; 32],
    /// `/chosen/kaslr-seed`. The resource manager writes its own over it.
    pub kaslr: u64,
}

impl Seeds {
    /// What `check` prints in their place.
    pub const PLACEHOLDER: Self = Self {
        rng: [0; 32],
        kaslr: 0,
    };
}

/// A finished devicetree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// To be printed.
    pub tree: Tree,
    /// To be put into guest memory.
    pub blob: Vec<u8>,
}

impl Draft {
    /// A given devicetree, checked against the config and completed.
    pub fn given(bytes: &[u8], config: &VmConfig) -> Result<Self, Vec<DtbProblem>> {
        let tree = Tree::parse(bytes).map_err(|error| vec![DtbProblem::Unreadable(error)])?;
        let expected = Expected::of_config(config);
        let broken = rules::check(&tree, Some(&expected));
        let mut draft = Self::of(tree, config)?;
        let left = rules::check(&draft.tree, Some(&expected));
        draft.mended = broken
            .into_iter()
            // A tree without /memory, which is added, breaks nothing by that.
            .filter(|problem| !matches!(problem, DtbProblem::MemoryCells { .. }))
            .filter(|problem| !left.contains(problem))
            .collect();
        Ok(draft)
    }

    /// A devicetree made from the config alone.
    pub fn generated(config: &VmConfig) -> Result<Self, Vec<DtbProblem>> {
        Self::of(generate::tree(config), config)
    }

    fn of(mut tree: Tree, config: &VmConfig) -> Result<Self, Vec<DtbProblem>> {
        let expected = Expected::of_config(config);
        let mut problems = complete::complete(&mut tree, config);
        problems.append(&mut rules::check(&tree, Some(&expected)));
        let mut facts = DtbFacts::of(&tree);
        match tree.to_blob() {
            // Every address has a fixed width, so this is the final length.
            Ok(blob) => facts.blob_len_max = u64::try_from(blob.len()).unwrap_or(u64::MAX),
            // Told already, in words of their own.
            Err(_) if problems.iter().any(DtbProblem::is_unwritable) => {}
            Err(error) => problems.push(DtbProblem::Unwritable(error)),
        }
        if problems.iter().all(DtbProblem::is_warning) {
            Ok(Self {
                tree,
                facts,
                expected,
                warnings: problems,
                mended: Vec::new(),
            })
        } else {
            Err(problems)
        }
    }

    /// The tree, with placeholders where the plan's addresses and the seeds will be.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What the plan and the vCPU loop need to know.
    pub fn facts(&self) -> &DtbFacts {
        &self.facts
    }

    /// Problems that do not stop the launch.
    pub fn warnings(&self) -> &[DtbProblem] {
        &self.warnings
    }

    /// Rules that a given tree broke as it was, and that completing it has mended.
    pub fn mended(&self) -> &[DtbProblem] {
        &self.mended
    }

    /// Fills in the plan's addresses and the seeds.
    pub fn finish(&self, plan: &LaunchPlan, seeds: &Seeds) -> Result<Finished, Vec<DtbProblem>> {
        let mut tree = self.tree.clone();
        let expected = self.expected.with_plan(plan);
        place(&mut tree, &expected, seeds);
        let mut problems = rules::check(&tree, Some(&expected));
        problems.retain(|problem| !problem.is_warning());
        match tree.to_blob() {
            Ok(blob) => {
                problems.extend(unlike(&blob, &tree));
                if problems.is_empty() {
                    return Ok(Finished { tree, blob });
                }
                Err(problems)
            }
            Err(error) => {
                problems.push(DtbProblem::Unwritable(error));
                Err(problems)
            }
        }
    }
}

/// What a reader finds wrong with the blob of `tree`: nothing, or the guest must not get it.
fn unlike(blob: &[u8], tree: &Tree) -> Option<DtbProblem> {
    match Tree::parse(blob) {
        Ok(read) if read == *tree => None,
        Ok(_) => Some(DtbProblem::Unwritable(WriteError {
            place: "/".to_owned(),
            fault: "what was written reads back as another tree".to_owned(),
        })),
        Err(error) => Some(DtbProblem::Unreadable(error)),
    }
}

/// Overwrites the placeholders, each with a value of its own length.
fn place(tree: &mut Tree, expected: &Expected, seeds: &Seeds) {
    complete::set_memory(tree, expected.base, expected.size);
    let chosen = tree.root.ensure_child("chosen", Position::First);
    chosen.set("rng-seed", seeds.rng.to_vec());
    chosen.set_u64("kaslr-seed", seeds.kaslr);
    if let Some((start, end)) = expected.initrd {
        chosen.set_u64("linux,initrd-start", start);
        chosen.set_u64("linux,initrd-end", end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::config::Scheduling;

    #[test]
    fn a_generated_draft_says_what_the_config_says() {
        let config = fixture::proxy();
        let draft = Draft::generated(&config).unwrap();
        assert_eq!(draft.warnings(), []);
        let facts = draft.facts();
        assert_eq!(facts.image_name.as_deref(), Some("lab-vm"));
        assert_eq!(facts.base_address, Some(fixture::BASE));
        assert_eq!(facts.cpus, 1);
        assert_eq!(facts.scheduling, Some(Scheduling::Proxy));
        assert_eq!(facts.doorbells[0].label, 5);
        assert_eq!(facts.doorbells[0].spi, Some((5, 4)));
        assert_eq!(facts.shm[0].label, 7);
        assert_eq!(facts.shm[0].base, Some(0xa000_0000));
        assert_eq!(facts.serials[0].base, 0x0900_0000);
        assert_eq!(facts.serials[0].compatible, "arm,pl011");
        let gic = facts.gic.as_ref().unwrap();
        assert_eq!(
            gic.ranges,
            [(0x3fff_0000, 0x1_0000), (0x3ffd_0000, 0x2_0000)]
        );
        assert_eq!(facts.memory, [(fixture::BASE, fixture::SIZE)]);
        assert_eq!(facts.bootargs.as_deref(), Some("console=ttyAMA0 quiet"));
    }

    #[test]
    fn finishing_fills_in_the_plan_and_keeps_the_length() {
        for config in [fixture::config(), fixture::proxy()] {
            let draft = Draft::generated(&config).unwrap();
            for (initrd, seed) in [(0x8100_0000, 0), (0xf_8100_0000, u64::MAX)] {
                let plan = fixture::plan(&config, initrd, 0x1234);
                let seeds = Seeds {
                    rng: [0xa5; 32],
                    kaslr: seed,
                };
                let done = draft.finish(&plan, &seeds).unwrap();
                assert_eq!(
                    u64::try_from(done.blob.len()).unwrap(),
                    draft.facts().blob_len_max
                );
                let read = Tree::parse(&done.blob).unwrap();
                assert_eq!(read, done.tree);
                assert_eq!(read.root.children[0].name, "chosen");
                let chosen = read.at("/chosen").unwrap();
                assert_eq!(DtbFacts::of(&read).initrd, Some((initrd, initrd + 0x1234)));
                assert_eq!(chosen.value("rng-seed").unwrap(), [0xa5; 32]);
                assert_eq!(chosen.number("kaslr-seed").unwrap(), seed);
            }
        }
    }

    #[test]
    fn a_finished_tree_given_again_comes_out_the_same() {
        let config = fixture::proxy();
        let plan = fixture::plan(&config, 0x8100_0000, 0x1234);
        let generated = Draft::generated(&config)
            .unwrap()
            .finish(&plan, &Seeds::PLACEHOLDER)
            .unwrap();
        let given = Draft::given(&generated.blob, &config)
            .unwrap()
            .finish(&plan, &Seeds::PLACEHOLDER)
            .unwrap();
        assert_eq!(given, generated);
    }
}
