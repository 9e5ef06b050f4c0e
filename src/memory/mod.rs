// SPDX-License-Identifier: Apache-2.0
//! Guest memory: pools checked, pages mapped and populated, and given back.
