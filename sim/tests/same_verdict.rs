// SPDX-License-Identifier: Apache-2.0
//! One table of what the resource manager will not take, of the guest's devicetree and of its memory:
//! `gunyahd check` names each before anything is created, and the model answers as the real one did.
#![allow(clippy::unwrap_used)] // A test ends there.

#[path = "same_verdict/guest.rs"]
mod guest;
#[path = "same_verdict/layouts.rs"]
mod layouts;
#[path = "../../tests/host/skip.rs"]
mod skip;
#[path = "same_verdict/trees.rs"]
mod trees;
