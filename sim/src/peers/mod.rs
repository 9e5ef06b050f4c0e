// SPDX-License-Identifier: Apache-2.0
//! The rest of an Android host: a property service and a log daemon, with their bad days.

mod logd;
mod property;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::poll::PollFd;
use serde_json::Value;

use crate::script::PeerMode;

use logd::Logd;
use property::PropertyService;

/// Those that were asked for.
#[derive(Debug, Default)]
pub struct Peers {
    property: Option<PropertyService>,
    logd: Option<Logd>,
}

impl Peers {
    /// Makes the sockets.
    pub fn listen(property: Option<&Path>, logd: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            property: property.map(PropertyService::listen).transpose()?,
            logd: logd.map(Logd::listen).transpose()?,
        })
    }

    /// What to poll.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        if let Some(property) = &self.property {
            fds.extend(property.poll_fds());
        }
        if let Some(logd) = &self.logd {
            fds.extend(logd.poll_fds());
        }
        fds
    }

    /// Serves whoever came; the lines are for the record.
    pub fn serve(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        if let Some(property) = &mut self.property {
            property.serve(&mut events);
        }
        if let Some(logd) = &mut self.logd {
            logd.serve(&mut events);
        }
        events
    }

    /// Changes the property service's behaviour. False: there is none, or it cannot come back.
    pub fn set_property_mode(&mut self, mode: PeerMode) -> bool {
        self.property.as_mut().is_some_and(|property| property.set_mode(mode).is_ok())
    }

    /// Changes the log daemon's behaviour. False: there is none, or it cannot come back.
    pub fn set_log_mode(&mut self, mode: PeerMode) -> bool {
        self.logd.as_mut().is_some_and(|logd| logd.set_mode(mode).is_ok())
    }
}

/// Removes the socket of an earlier run; whatever else has that name is somebody's and stays.
pub(crate) fn remove_leftover(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // bind tells of what is there.
        _ => Ok(()),
    }
}
