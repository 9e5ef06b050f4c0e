// SPDX-License-Identifier: Apache-2.0
//! The flavours of the driver's API that the model plays.

use std::fmt;
use std::str::FromStr;

/// One flavour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The upstream series v7 to v14.
    Lkml,
    /// A driver with the first half of that series: VMs, regions, the devicetree and START, and no
    /// functions.
    LkmlBase,
    /// android14-6.1.
    Ack61,
    /// Early revisions of android15-6.6, whose START can bring the host down.
    Ack66Early,
    /// android15-6.6.
    Ack66,
    /// android16-6.12.
    Ack612,
    /// No such device.
    None,
    /// Another vendor's calls on the same node (type 0xB2).
    QcomB2,
}

impl Dialect {
    /// All, in the order of `--help`.
    pub const ALL: [Dialect; 8] = [
        Dialect::Lkml,
        Dialect::LkmlBase,
        Dialect::Ack61,
        Dialect::Ack66Early,
        Dialect::Ack66,
        Dialect::Ack612,
        Dialect::None,
        Dialect::QcomB2,
    ];

    /// The word of `--dialect`.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Lkml => "lkml",
            Dialect::LkmlBase => "lkml-base",
            Dialect::Ack61 => "ack61",
            Dialect::Ack66Early => "ack66-early",
            Dialect::Ack66 => "ack66",
            Dialect::Ack612 => "ack612",
            Dialect::None => "none",
            Dialect::QcomB2 => "qcom-b2",
        }
    }

    /// Has Android's additions, lending above all.
    pub fn android(self) -> bool {
        self == Dialect::Ack61 || self.since_66()
    }

    /// Has ADD_FUNCTION and REMOVE_FUNCTION.
    pub fn has_functions(self) -> bool {
        self != Dialect::LkmlBase
    }

    /// The memory ioctls pin all pages; newer drivers pin page by page as the guest faults.
    pub fn pins_at_ioctl(self) -> bool {
        matches!(self, Dialect::Lkml | Dialect::LkmlBase | Dialect::Ack61)
    }

    /// Pages are given to the guest as it faults; SET_BOOT_CONTEXT, resume actions and page fault
    /// exits exist; the last close waits for the teardown.
    pub fn since_66(self) -> bool {
        matches!(self, Dialect::Ack66Early | Dialect::Ack66 | Dialect::Ack612)
    }

    /// RECLAIM_REGION, SET_AUTH_TYPE, MAP_CMA_MEM and uevents exist, and the devicetree's offset in
    /// its parcel is always told as 0.
    pub fn since_612(self) -> bool {
        self == Dialect::Ack612
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == word).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|dialect| dialect.as_str()).collect();
            format!("dialect {word:?}: use one of {}", known.join(", "))
        })
    }
}
