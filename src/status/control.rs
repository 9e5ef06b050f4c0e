// SPDX-License-Identifier: Apache-2.0
//! The control socket's protocol: one JSON line each way, versioned and bounded.
