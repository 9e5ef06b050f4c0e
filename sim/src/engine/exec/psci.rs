// SPDX-License-Identifier: Apache-2.0
//! PSCI 1.1 by HVC or SMC (Arm DEN 0022), as far as a hypervisor's guest uses it.

use gunyah::uapi;

use crate::engine::Exit;

use super::link::Link;

const VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0xc400_0001;
const CPU_SUSPEND_32: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xc400_0003;
const CPU_ON_32: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;
const AFFINITY_INFO_32: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0xc400_0012;
const SYSTEM_RESET2_32: u32 = 0x8400_0012;

/// The function is none of ours.
pub const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
/// Version 1.1: major in the upper half.
const VERSION_VALUE: i64 = 0x1_0001;
/// No trusted OS that would have to be migrated.
const MIGRATION_NOT_REQUIRED: i64 = 2;

/// What a call leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// x0 gets this.
    Return(i64),
    /// This CPU is off.
    Off,
    /// It waits for an interrupt, then x0 is 0.
    Suspend,
    /// The VM ends.
    End(Exit),
}

/// Answers a call with x0 to x3.
pub fn call(links: &[std::sync::Arc<Link>], x: [u64; 4]) -> Call {
    // SMC Calling Convention: the function is 32 bits.
    let function = u32::try_from(x[0] & 0xffff_ffff).unwrap_or(0);
    let cpu = |affinity: u64| {
        usize::try_from(affinity & 0xff)
            .ok()
            .filter(|_| affinity <= 0xff)
            .and_then(|index| links.get(index))
    };
    match function {
        VERSION => Call::Return(VERSION_VALUE),
        CPU_SUSPEND | CPU_SUSPEND_32 => Call::Suspend,
        CPU_OFF => Call::Off,
        CPU_ON | CPU_ON_32 => match cpu(x[1]) {
            Some(link) if link.power_on(x[2], x[3]) => Call::Return(0),
            Some(_) => Call::Return(ALREADY_ON),
            None => Call::Return(INVALID_PARAMETERS),
        },
        AFFINITY_INFO | AFFINITY_INFO_32 => match cpu(x[1]) {
            // 0 on, 1 off.
            Some(link) => Call::Return(i64::from(!link.is_on())),
            None => Call::Return(INVALID_PARAMETERS),
        },
        MIGRATE_INFO_TYPE => Call::Return(MIGRATION_NOT_REQUIRED),
        SYSTEM_OFF => Call::End(Exit::of_type(uapi::EXIT_TYPE_SYSTEM_OFF)),
        SYSTEM_RESET => Call::End(Exit::of_type(uapi::EXIT_TYPE_SYSTEM_RESET)),
        SYSTEM_RESET2 | SYSTEM_RESET2_32 => Call::End(Exit::of_type(uapi::EXIT_TYPE_SYSTEM_RESET2)),
        FEATURES => {
            let known = [
                VERSION,
                CPU_SUSPEND,
                CPU_SUSPEND_32,
                CPU_OFF,
                CPU_ON,
                CPU_ON_32,
                AFFINITY_INFO,
                AFFINITY_INFO_32,
                MIGRATE_INFO_TYPE,
                SYSTEM_OFF,
                SYSTEM_RESET,
                FEATURES,
                SYSTEM_RESET2,
                SYSTEM_RESET2_32,
            ];
            let asked = u32::try_from(x[1] & 0xffff_ffff).unwrap_or(0);
            Call::Return(if known.contains(&asked) { 0 } else { NOT_SUPPORTED })
        }
        _ => Call::Return(NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn cpus_are_turned_on_once() {
        let links: Vec<Arc<Link>> = vec![Arc::default(), Arc::default()];
        links[0].power_on(0, 0);
        let on = |target| call(&links, [CPU_ON.into(), target, 0x8000_0000, 7]);
        assert_eq!(on(0), Call::Return(ALREADY_ON));
        assert_eq!(on(2), Call::Return(INVALID_PARAMETERS));
        assert_eq!(on(0x100), Call::Return(INVALID_PARAMETERS));
        assert_eq!(call(&links, [AFFINITY_INFO.into(), 1, 0, 0]), Call::Return(1));
        assert_eq!(on(1), Call::Return(0));
        assert_eq!(on(1), Call::Return(ALREADY_ON));
        assert_eq!(call(&links, [AFFINITY_INFO.into(), 1, 0, 0]), Call::Return(0));
    }

    #[test]
    fn ends_have_their_types_and_the_unknown_is_not_supported() {
        let links = [];
        let end = |function: u32| match call(&links, [function.into(), 0, 0, 0]) {
            Call::End(exit) => exit.exit_type,
            other => panic!("{other:?}"),
        };
        assert_eq!(end(SYSTEM_OFF), 1);
        assert_eq!(end(SYSTEM_RESET), 2);
        assert_eq!(end(SYSTEM_RESET2), 3);
        assert_eq!(call(&links, [0x8400_00ff, 0, 0, 0]), Call::Return(-1));
        assert_eq!(call(&links, [FEATURES.into(), SYSTEM_RESET2.into(), 0, 0]), Call::Return(0));
    }
}
