// SPDX-License-Identifier: Apache-2.0
//! Kernel files: headers first, for the plan; then their bytes, straight into guest memory.
