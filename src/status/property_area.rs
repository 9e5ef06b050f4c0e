// SPDX-License-Identifier: Apache-2.0
//! Reads system properties from the areas that init shares.
