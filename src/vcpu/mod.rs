// SPDX-License-Identifier: Apache-2.0
//! Proxy-scheduled vCPUs: run loops and MMIO.
