// SPDX-License-Identifier: Apache-2.0
//! `gunyah-sim [options] -- COMMAND…`: runs a program with a simulated `/dev/gunyah`.

use std::process::ExitCode;

use gunyah_sim::options::{Options, USAGE};
use gunyah_sim::session;

/// Wrong use; distinct from most programs' own codes.
const USAGE_ERROR: u8 = 125;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("gunyah-sim: {what}\n{USAGE}");
            return ExitCode::from(USAGE_ERROR);
        }
    };
    match session::run(options) {
        Ok(code) => ExitCode::from(code),
        Err(what) => {
            eprintln!("gunyah-sim: {what}");
            ExitCode::from(USAGE_ERROR)
        }
    }
}
