// SPDX-License-Identifier: Apache-2.0
//! One thread, one poll loop: control socket, signals, timers, and a pidfd and a channel per worker.
