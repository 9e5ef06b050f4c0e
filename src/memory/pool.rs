// SPDX-License-Identifier: Apache-2.0
//! The kernel's pools of huge pages.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::text::{excerpt, Size};

/// A folder `hugepages-<KiB>kB` a pool (Documentation/admin-guide/mm/hugetlbpage.rst).
const HUGE_PAGE_FOLDER: &str = "/sys/kernel/mm/hugepages";

/// The pages that init/gunyah-hugepages.rc can reserve, in bytes.
const INIT_PAGE: u64 = 2 << 20;

/// A pool, as it was when it was read, and as far as it had to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Bytes of a page.
    pub page: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody has faulted in.
    pub free: u64,
    /// Free pages that are promised to a mapping.
    pub reserved: u64,
    /// Pages that the kernel may still add by itself.
    pub spare: u64,
}

impl Pool {
    /// Reads the pool of `page`-byte pages; NotFound where the kernel has no pages of that size.
    pub fn read(page: u64) -> io::Result<Self> {
        Self::read_for(page, u64::MAX)
    }

    /// The same, for one who wants to know whether a new mapping can have `wanted` pages: where so many are free,
    /// `total` and `spare` are left out and 0.
    pub fn read_for(page: u64, wanted: u64) -> io::Result<Self> {
        Self::read_in(Path::new(HUGE_PAGE_FOLDER), page, wanted)
    }

    fn read_in(folder: &Path, page: u64, wanted: u64) -> io::Result<Self> {
        let folder = folder.join(format!("hugepages-{}kB", page >> 10));
        let number = |file: &str| {
            let text = fs::read_to_string(folder.join(file))?;
            let no_number = |_| {
                let what = format!("{file} is not a number: {}", excerpt(&text));
                io::Error::new(io::ErrorKind::InvalidData, what)
            };
            text.trim_ascii().parse::<u64>().map_err(no_number)
        };
        let (free, reserved) = (number("free_hugepages")?, number("resv_hugepages")?);
        let free_alone = Self { page, total: 0, free, reserved, spare: 0 };
        if free_alone.available() >= wanted {
            return Ok(free_alone);
        }
        let overcommit = number("nr_overcommit_hugepages")?;
        let spare = overcommit.saturating_sub(number("surplus_hugepages")?);
        Ok(Self { total: number("nr_hugepages")?, spare, ..free_alone })
    }

    /// Pages that a new mapping can have.
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved).saturating_add(self.spare)
    }

    /// What makes the pool large enough for `wanted` more pages, with the number filled in.
    pub(super) fn cure(&self, wanted: u64) -> String {
        let missing = wanted.saturating_sub(self.available());
        let pages = self.total.saturating_add(missing);
        let size = Size(self.page);
        let by_init = match self.page {
            INIT_PAGE => {
                format!(", or set ro.vendor.gunyah.hugepages={pages} (init/gunyah-hugepages.rc)")
            }
            _ => String::new(),
        };
        format!(
            "put `hugepagesz={size:#} hugepages={pages}` on the kernel command line{by_init}; `gunyahd check` adds up what all VMs need"
        )
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free of {} reserved at boot", self.available(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_new_mapping_can_have() {
        let folder = std::env::temp_dir().join(format!("gunyahd-pool-{}", std::process::id()));
        let pool = folder.join("hugepages-2048kB");
        fs::create_dir_all(&pool).unwrap();
        for (file, text) in [
            ("nr_hugepages", "96\n"),
            ("free_hugepages", "90\n"),
            ("resv_hugepages", "10\n"),
            ("nr_overcommit_hugepages", "8\n"),
            ("surplus_hugepages", "6\n"),
        ] {
            fs::write(pool.join(file), text).unwrap();
        }
        let read = |page, wanted| Pool::read_in(&folder, page, wanted);
        let all = read(2 << 20, 81).unwrap();
        assert_eq!(all.available(), 82);
        assert_eq!(all.to_string(), "82 free of 96 reserved at boot");
        assert_eq!(read(2 << 20, 80).unwrap().available(), 80);
        assert_eq!(read(1 << 30, 0).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(pool.join("free_hugepages"), "x").unwrap();
        assert_eq!(read(2 << 20, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&folder).unwrap();
    }
}
