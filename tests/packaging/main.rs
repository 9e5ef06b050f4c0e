// SPDX-License-Identifier: Apache-2.0
//! What an Android tree gets of this one: policy, init scripts, Android.bp, devicetrees and the pages about them.

#![allow(clippy::unwrap_used)]

#[path = "../android/dir.rs"]
mod dir;

mod aosp;
mod docs;
mod dts;
mod init;
mod labels;
mod policy;
#[path = "../host/skip.rs"]
mod skip;
mod soong;
mod tools;
