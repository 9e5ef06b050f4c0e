// SPDX-License-Identifier: Apache-2.0
//! The files' bytes, read straight into guest memory.

use super::open::{ReadFrom, PACK_AGAIN, REPLACE_BY_RENAME};
use super::{gzip, Images};
use crate::error::{LaunchError, Step};
use crate::memory::GuestMemory;
use crate::plan::LaunchPlan;

impl Images {
    /// Loads the kernel, and the branch to its entry where the plan has one.
    ///
    /// # Errors
    /// A file that has changed since it was opened, or that cannot be read.
    pub fn load_kernel(
        &self,
        plan: &LaunchPlan,
        memory: &mut GuestMemory,
    ) -> Result<(), LaunchError> {
        for segment in &plan.kernel.segments {
            let room = memory.bytes_mut(Step::Kernel, segment.base, segment.file_size)?;
            if plan.kernel.gzip {
                self.unpack_kernel(room)?;
            } else {
                self.kernel
                    .open
                    .read_at(Step::Kernel, segment.file_offset, room)?;
            }
        }
        if let Some(branch) = plan.kernel.branch {
            let bytes = branch.to_le_bytes();
            memory
                .bytes_mut(Step::Kernel, plan.main().base, bytes.len() as u64)?
                .copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn unpack_kernel(&self, room: &mut [u8]) -> Result<(), LaunchError> {
        let open = &self.kernel.open;
        let what = || format!("unpacking {}", open.path.display());
        let size = gzip::unpack(
            &mut ReadFrom {
                open,
                at: self.kernel.packed_at,
            },
            room,
        )
        .map_err(|error| {
            let failed = LaunchError::new(Step::Kernel, format!("{}: {error}", what()));
            match (open.cut_since(), error) {
                (Some(cause), _) => failed.cause(cause).cure(REPLACE_BY_RENAME),
                (None, gzip::UnpackError::Read(_)) => failed,
                (None, _) => failed.cure(PACK_AGAIN).lasting(),
            }
        })?;
        if size != room.len() {
            // The trailer was read once before and has another value now.
            return Err(LaunchError::new(Step::Kernel, what())
                .cause(format!(
                    "it had {} unpacked bytes when it was opened, and has {size} now",
                    room.len()
                ))
                .cure(REPLACE_BY_RENAME));
        }
        Ok(())
    }

    /// Loads the initrd, where there is one.
    ///
    /// # Errors
    /// As for the kernel.
    pub fn load_initrd(
        &self,
        plan: &LaunchPlan,
        memory: &mut GuestMemory,
    ) -> Result<(), LaunchError> {
        let (Some(planned), Some(open)) = (&plan.initrd, &self.initrd) else {
            return Ok(());
        };
        open.read_at(
            Step::Initrd,
            0,
            memory.bytes_mut(Step::Initrd, planned.base, planned.size)?,
        )
    }

    /// Loads the files that regions begin with.
    ///
    /// # Errors
    /// As for the kernel.
    pub fn load_regions(
        &self,
        plan: &LaunchPlan,
        memory: &mut GuestMemory,
    ) -> Result<(), LaunchError> {
        // Main memory is the plan's first region and has no file.
        for (planned, open) in plan.regions[1..].iter().zip(&self.regions) {
            if let (Some((_, size)), Some(open)) = (&planned.file, open) {
                open.read_at(
                    Step::Memory,
                    0,
                    memory.bytes_mut(Step::Memory, planned.base, *size)?,
                )?;
            }
        }
        Ok(())
    }
}
