// SPDX-License-Identifier: Apache-2.0
//! The API of the Gunyah hypervisor's Linux driver, `/dev/gunyah`.

pub mod uapi;
