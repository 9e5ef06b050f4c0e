// SPDX-License-Identifier: Apache-2.0
//! Nothing is lost, whatever fails: every call of a launch with every failure, SIGKILL at every
//! call, and many lives one after another.
//!
//! ```text
//! host        gunyahd boot on the simulator, asked and watched
//! record      what the simulator saw
//! left        what there is of fds, processes, threads, memory and huge pages
//! steps       the calls of a launch, what may fail them, and what is expected then
//! ```
#![allow(clippy::unwrap_used)] // A test ends there.

#[path = "../backend/mod.rs"]
mod backend;
mod confinement;
mod cycles;
mod fault_matrix;

mod host;
mod hostile_configs;
mod kill_matrix;
mod short_host;
mod shrinking_files;
#[path = "../host/skip.rs"]
mod skip;

mod left;
#[path = "../host/memlock.rs"]
mod memlock;
mod peers;
mod record;
mod steps;
mod table;
mod threads;
