// SPDX-License-Identifier: Apache-2.0
//! The whole program: `gunyahd boot` and `run` under the simulator, and gunyahctl beside them.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

mod boot;
mod control;
mod deaf;
mod docs;
mod ends;
mod host;
mod log;
#[path = "../host/memlock.rs"]
mod memlock;
mod order;
mod pages;
mod properties;
mod reload;
mod reserve;
mod run;
#[path = "../host/skip.rs"]
mod skip;
mod trace;
mod workers;
