// SPDX-License-Identifier: Apache-2.0
//! Guest memory: pools checked, pages mapped and populated, and given back.

mod allocate;
mod choice;
mod guest;
mod host;
mod limit;
mod mapping;
mod pool;

use crate::diagnostic::Kind;

pub use choice::{choose, Choice};
pub use guest::GuestMemory;
pub use host::{host, huge_page};
pub use limit::raise_memlock;
pub use pool::Pool;

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[choice::KINDS, limit::KINDS, allocate::KINDS, guest::KINDS];
