// SPDX-License-Identifier: Apache-2.0
//! Guest memory: pools and reserve checked, pages mapped and populated, and given back.

mod allocate;
mod choice;
mod guest;
mod host;
mod limit;
mod mapping;
mod pool;
mod reserve;
mod threads;
mod window;

use crate::diagnostic::Kind;

pub(crate) use choice::OTHER_BACKING;
pub use choice::{check_pool, choose, Choice};
pub use guest::GuestMemory;
pub use host::{folio, host, huge_page};
pub use limit::{check_memlock, raise_memlock};
pub use pool::Pool;
pub use reserve::{Allotment, Extent, Past, Reserve};
pub use window::{FilePart, Outside, Segment, Window};

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] =
    &[choice::KINDS, reserve::KINDS, limit::KINDS, allocate::KINDS, guest::KINDS];
