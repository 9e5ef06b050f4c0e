// SPDX-License-Identifier: Apache-2.0
//! Where states go besides the control socket: system properties and the log.

use std::collections::BTreeMap;

use crate::status::properties::PropertyClient;
use crate::status::property_area::PropertyArea;
use crate::status::State;

/// Names of the properties: `vendor.gunyah.<vm>.state` and so on, and `vendor.gunyah.state`.
const PREFIX: &str = "vendor.gunyah";

/// How gunyahd as a whole does, `vendor.gunyah.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overall {
    /// Some VM is still on its way.
    Starting,
    /// Every VM is where it should be.
    Up,
    /// Some VM crashed or failed.
    Degraded,
    /// gunyahd stops all VMs.
    Stopping,
    /// All are stopped; gunyahd ends.
    Stopped,
}

impl Overall {
    /// From the states of all VMs.
    pub fn of(states: impl Iterator<Item = State>) -> Self {
        let mut overall = Overall::Up;
        for state in states {
            match state {
                State::Failed | State::Crashed => overall = Overall::Degraded,
                State::Waiting | State::Starting if overall == Overall::Up => {
                    overall = Overall::Starting;
                }
                _ => {}
            }
        }
        overall
    }

    /// The property's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Overall::Starting => "starting",
            Overall::Up => "up",
            Overall::Degraded => "degraded",
            Overall::Stopping => "stopping",
            Overall::Stopped => "stopped",
        }
    }
}

/// Properties and log.
pub struct Sinks {
    /// For the poll loop.
    pub properties: PropertyClient,
    area: PropertyArea,
    /// What each VM was last warned of.
    warned: BTreeMap<String, String>,
    overall: Option<Overall>,
}

impl Sinks {
    /// On this host.
    pub fn new() -> Self {
        Self {
            properties: PropertyClient::from_environment(),
            area: PropertyArea::from_environment(),
            warned: BTreeMap::new(),
            overall: None,
        }
    }

    /// A VM's new state.
    pub fn state(&mut self, vm: &str, state: State, reason: &str, restarts: u32) {
        match state {
            State::Crashed | State::Failed => log::error!("{vm}: {state}: {reason}"),
            _ => log::info!("{vm}: {state}: {reason}"),
        }
        // The reason first: who waits for the state finds the reason that belongs to it.
        self.properties
            .set(&format!("{PREFIX}.{vm}.reason"), reason);
        self.properties
            .set(&format!("{PREFIX}.{vm}.restarts"), &restarts.to_string());
        self.properties
            .set(&format!("{PREFIX}.{vm}.state"), state.as_str());
    }

    /// Whether the property that a VM waits for has its value now.
    ///
    /// # Errors
    /// Why it cannot be read, with the cure; each reason is also a warning in the log, once per VM.
    pub fn property_is(&mut self, vm: &str, name: &str, value: &str) -> Result<bool, String> {
        let error = match self.area.get(name) {
            Ok(found) => return Ok(found.as_deref() == Some(value)),
            Err(error) => error.to_string(),
        };
        if self.warned.get(vm) != Some(&error) {
            log::warn!("{vm}: {error}");
            self.warned.insert(vm.to_owned(), error.clone());
        }
        Err(error)
    }

    /// How the whole does; told only if it is new.
    pub fn overall(&mut self, overall: Overall) {
        if self.overall != Some(overall) {
            self.overall = Some(overall);
            self.properties
                .set(&format!("{PREFIX}.state"), overall.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_state_counts() {
        use State::*;
        for (states, overall) in [
            (&[][..], Overall::Up),
            (&[Running, Disabled, Stopped][..], Overall::Up),
            (&[Running, Waiting][..], Overall::Starting),
            (&[Failed, Waiting, Running][..], Overall::Degraded),
        ] {
            assert_eq!(Overall::of(states.iter().copied()), overall, "{states:?}");
        }
    }
}
