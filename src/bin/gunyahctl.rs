// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl`: asks gunyahd and tells it what to do.

fn main() {}
