// SPDX-License-Identifier: Apache-2.0
//! `gunyahd`: the init service, one VM in the foreground, and the check without a device.

fn main() {}
