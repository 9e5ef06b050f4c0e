// SPDX-License-Identifier: Apache-2.0
//! `gunyah-sim [options] -- COMMAND…`: runs a program with a simulated `/dev/gunyah`.

fn main() {}
