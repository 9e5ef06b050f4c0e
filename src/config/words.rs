// SPDX-License-Identifier: Apache-2.0
//! Values that a file gives by a word: an enum and its words in one table each.

use gunyah::Dialect;

/// An enum whose values are words in a config.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// Every word.
    const WORDS: &'static [&'static str];
    /// The value of each.
    const VALUES: &'static [Self];
}

/// Makes an enum of words, which are its [`Words`] too. With `or auto`, an `Option` of it has words: `auto`
/// is `None`, what is best on the driver found.
macro_rules! config_words {
    ($(#[$about:meta])* $name:ident or auto { $($(#[$meaning:meta])* $value:ident = $word:literal,)* }) => {
        config_words! { $(#[$about])* $name { $($(#[$meaning])* $value = $word,)* } }

        impl Words for Option<$name> {
            const WORDS: &'static [&'static str] = &["auto", $($word),*];
            const VALUES: &'static [Self] = &[None, $(Some($name::$value)),*];
        }
    };
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $value:ident = $word:literal,)* }) => {
        crate::text::words! { $(#[$about])* $name { $($(#[$meaning])* $value = $word,)* } }

        impl Words for $name {
            const WORDS: &'static [&'static str] = &[$($word),*];
            const VALUES: &'static [Self] = &[$(Self::$value),*];
        }
    };
}

config_words! {
    /// What host pages a region is made of.
    Backing or auto {
        /// Pages of the reserved huge page pool.
        Hugetlb = "hugetlb",
        /// Transparent huge pages that gunyahd took at boot.
        Reserve = "reserve",
        /// A memfd with huge-page advice.
        Thp = "thp",
        /// Ordinary pages.
        Base = "base",
    }
}

/// The dialects that a VM can run on, by the names that [`Dialect::name`] has.
impl Words for Dialect {
    const WORDS: &'static [&'static str] = &["lkml-base", "lkml", "ack61", "ack66", "ack612"];
    const VALUES: &'static [Self] =
        &[Self::LkmlBase, Self::Lkml, Self::Ack61, Self::Ack66, Self::Ack612];
}

/// The dialects that a VM can run on, older ones first.
pub fn kernels() -> Vec<Dialect> {
    Dialect::VALUES.to_vec()
}

config_words! {
    /// Whether the host keeps access to a region.
    Access {
        /// Main memory is lent where the dialect can lend, else shared; other regions are shared.
        Auto = "auto",
        /// The host keeps access.
        Share = "share",
        /// The host loses access.
        Lend = "lend",
    }
}

config_words! {
    /// How the kernel file is read.
    KernelFormat {
        /// By its first bytes.
        Auto = "auto",
        /// An arm64 `Image`.
        Image = "image",
        /// An ELF64 executable.
        Elf = "elf",
        /// A gzip'ed `Image`.
        Gzip = "gzip",
    }
}

config_words! {
    /// Who gives a VM's vCPUs their time.
    Scheduling or auto {
        /// The hypervisor.
        Hypervisor = "hypervisor",
        /// A thread of the worker, in VCPU_RUN.
        Proxy = "proxy",
    }
}

config_words! {
    /// The console's model.
    ConsoleDevice {
        /// Arm's PL011.
        Pl011 = "pl011",
        /// The 16550 of PCs, registers a byte apart.
        Ns16550 = "16550",
    }
}

impl ConsoleDevice {
    /// Bytes of the register frame: a PL011 has a page (Arm DDI 0183), a 16550 what devicetrees give it.
    pub fn frame(self) -> u64 {
        match self {
            ConsoleDevice::Pl011 => 0x1000,
            ConsoleDevice::Ns16550 => 0x100,
        }
    }
}

config_words! {
    /// What a vhost-user backend serves.
    Backend {
        /// A shared directory: virtiofsd.
        Fs = "fs",
        /// A network device: passt.
        Net = "net",
        /// A disk.
        Block = "block",
        /// Randomness.
        Entropy = "entropy",
        /// Sound.
        Sound = "sound",
        /// Lines of GPIO.
        Gpio = "gpio",
        /// A bus of I2C.
        I2c = "i2c",
    }
}

impl Backend {
    /// The type's number (virtio 1.2, 5).
    pub fn number(self) -> u32 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Entropy => 4,
            Self::Sound => 25,
            Self::Fs => 26,
            Self::I2c => 34,
            Self::Gpio => 41,
        }
    }

    /// Queues that it has at least.
    pub fn queues(self) -> u32 {
        match self {
            Self::Sound => 4,
            Self::Net | Self::Fs => 2,
            Self::Block | Self::Entropy | Self::Gpio | Self::I2c => 1,
        }
    }

    /// Bytes of its configuration space.
    pub fn config_bytes(self) -> usize {
        match self {
            Self::Block => 60,
            Self::Fs => 40,
            Self::Net | Self::Sound => 12,
            Self::Gpio => 8,
            Self::Entropy | Self::I2c => 0,
        }
    }
}

config_words! {
    /// How virtio devices are found and driven.
    Transport {
        /// Registers at fixed addresses, a node of the devicetree each.
        Mmio = "mmio",
        /// One PCI bus for all.
        Pci = "pci",
    }
}

config_words! {
    /// When a VM that ended is started again.
    RestartPolicy {
        /// After a crash, a failed start or a dead worker.
        OnFailure = "on-failure",
        /// Never.
        Never = "never",
        /// After any end but a `stop`.
        Always = "always",
    }
}
