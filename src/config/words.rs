// SPDX-License-Identifier: Apache-2.0
//! The words that stand for enum values in a config, the default's first.

use super::types::{Access, Backing, ConsoleDevice, KernelFormat, RestartPolicy, Scheduling};

/// The words of one kind of value.
pub(super) type Words<T> = &'static [(&'static str, T)];

pub(super) const BACKING: Words<Backing> = &[
    ("hugetlb", Backing::Hugetlb),
    ("thp", Backing::Thp),
    ("base", Backing::Base),
];

pub(super) const ACCESS: Words<Access> = &[
    ("auto", Access::Auto),
    ("share", Access::Share),
    ("lend", Access::Lend),
];

pub(super) const KERNEL_FORMAT: Words<KernelFormat> = &[
    ("auto", KernelFormat::Auto),
    ("image", KernelFormat::Image),
    ("elf", KernelFormat::Elf),
    ("gzip", KernelFormat::Gzip),
];

pub(super) const SCHEDULING: Words<Scheduling> = &[
    ("hypervisor", Scheduling::Hypervisor),
    ("proxy", Scheduling::Proxy),
];

pub(super) const CONSOLE_DEVICE: Words<ConsoleDevice> = &[
    ("pl011", ConsoleDevice::Pl011),
    ("16550", ConsoleDevice::Ns16550),
];

pub(super) const RESTART_POLICY: Words<RestartPolicy> = &[
    ("on-failure", RestartPolicy::OnFailure),
    ("never", RestartPolicy::Never),
    ("always", RestartPolicy::Always),
];

/// The word of `value`.
pub(super) fn word_of<T: PartialEq>(words: Words<T>, value: &T) -> &'static str {
    words
        .iter()
        .find(|(_, other)| other == value)
        .map_or("", |(word, _)| word)
}
