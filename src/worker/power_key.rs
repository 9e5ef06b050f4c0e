// SPDX-License-Identifier: Apache-2.0
//! The guest's power key: an eventfd whose every count is a press. Its kernel's driver releases the key.

use std::os::fd::AsFd;

use gunyah::{Trigger, Vm};
use nix::sys::eventfd::EventFd;

use crate::config::VmConfig;
use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::launch::refused;
use crate::plan;
use crate::vcpu::eventfd;

kinds! {
    NO_EVENTFD: Error "power-key-eventfd" in Functions {
        "the power key's eventfd cannot be made",
        cause: "this process has as many files as it may, or the host is out of memory",
        cure: "raise `rlimit nofile` in the service's .rc, or free memory",
    }
}

/// A VM's power key.
pub(super) struct PowerKey {
    line: EventFd,
    label: u32,
}

impl PowerKey {
    /// The key of `config`, if it has one.
    pub fn prepare(config: &VmConfig) -> Result<Option<Self>, Diagnostic> {
        let Some(key) = plan::power_key(config) else { return Ok(None) };
        let failed = |errno| NO_EVENTFD.case("making the eventfd of the power key").errno(errno);
        Ok(Some(Self { line: eventfd().map_err(failed)?, label: key.label }))
    }

    /// Binds it to its doorbell; before START.
    pub fn connect(&self, vm: &Vm) -> Result<(), Diagnostic> {
        vm.add_irqfd(self.line.as_fd(), self.label, Trigger::Edge).map_err(|error| {
            let call = format!("VM_ADD_FUNCTION of irqfd of doorbell {}", self.label);
            refused(Step::Functions, call, &error)
        })
    }

    /// Presses it.
    pub fn press(&self) {
        // Fails only where the count is full, and then it is pressed already.
        let _ = self.line.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    #[test]
    fn each_press_is_a_count() {
        let text = r#"{"name": "vm", "memory": {"size": "64M"}, "kernel": {"path": "/Image"},
                       "stop": {"power_key": true}}"#;
        let mut config = parse(Path::new("vm.json"), text).unwrap();
        let key = PowerKey::prepare(&config).unwrap().unwrap();
        assert_eq!(key.label, 6);
        key.press();
        key.press();
        assert_eq!(key.line.read(), Ok(2));
        config.stop = None;
        assert!(PowerKey::prepare(&config).unwrap().is_none());
    }

    #[test]
    fn an_eventfd_that_is_not_there_has_a_name() {
        assert_eq!(NO_EVENTFD.case("x").name, "power-key-eventfd");
    }
}
