// SPDX-License-Identifier: Apache-2.0
//! Adds huge pages to the pool and gives them back, however this program ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};

// Where memory is fragmented, each attempt finds some more pages.
const ATTEMPTS: u32 = 8;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pool's counters, in pages of the default huge page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// HugePages_Total
    pub total: u64,
    /// HugePages_Free
    pub free: u64,
    /// Hugepagesize in bytes.
    pub page: u64,
}

impl Pool {
    /// The counters as they are now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
                .with_context(|| format!("no {key} in /proc/meminfo: a kernel without huge pages"))
        };
        Ok(Self {
            total: value("HugePages_Total:")?,
            free: value("HugePages_Free:")?,
            page: value("Hugepagesize:")? * 1024,
        })
    }

    /// Waits some seconds for the pool to be as `before`; returns what it is then. The pages of a killed process
    /// become free a little after its end if another process is looking at it.
    pub fn settled(before: Self) -> Result<Self> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let now = Self::now()?;
            if now == before || Instant::now() > deadline {
                return Ok(now);
            }
            // The kernel has no event for this.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn file(self) -> PathBuf {
        PathBuf::from(format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            self.page / 1024
        ))
    }
}

/// Pages added to the pool. A keeper process takes them away again when this value is dropped or this process
/// ends, even by SIGKILL.
#[derive(Debug)]
pub struct Reservation {
    keeper: Child,
    added: u64,
}

impl Reservation {
    /// Adds `bytes` of huge pages to the pool.
    pub fn add(bytes: u64) -> Result<Self> {
        let wanted = bytes.div_ceil(Pool::now()?.page);
        let reservation = Self::up_to(bytes)?;
        let added = reservation.added;
        if added < wanted {
            bail!(
                "the kernel found {added} of {wanted} huge pages; memory is too full or fragmented"
            );
        }
        Ok(reservation)
    }

    /// Adds as many as there are, at most `bytes` of them.
    pub fn up_to(bytes: u64) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("only root may reserve huge pages");
        }
        let lock = lock_pool()?;
        let before = Pool::now()?;
        let file = before.file();
        let wanted = bytes.div_ceil(before.page);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let present: u64 = text.trim().parse().context("nr_hugepages")?;
        let mut added = 0;
        for _ in 0..ATTEMPTS {
            fs::write(&file, (present + wanted).to_string())
                .with_context(|| file.display().to_string())?;
            added = Pool::now()?.total.saturating_sub(before.total);
            if added >= wanted {
                break;
            }
            // The page cache is all over memory; the kernel moves it, but not all at the first attempt.
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
        let keeper = spawn_keeper(&file, added);
        drop(lock);
        Ok(Self { keeper: keeper?, added })
    }

    /// How many pages were added.
    pub fn added(&self) -> u64 {
        self.added
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // End of file is the keeper's signal.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

// Two runs at a time must not lose each other's additions.
fn lock_pool() -> Result<Flock<File>> {
    let path = std::env::temp_dir().join("gunyah-hugepages.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow::anyhow!("locking {}: {errno}", path.display()))
}

// Subtracts rather than writes the old number back: others may have changed the pool since.
// It leaves the terminal's process group, so that Ctrl-C does not reach it.
fn spawn_keeper(file: &std::path::Path, added: u64) -> Result<Child> {
    let script = "trap '' INT TERM HUP; read end; exec 9>\"$3\"; flock 9; \
                  now=$(cat \"$1\"); echo $((now > $2 ? now - $2 : 0)) > \"$1\"";
    Command::new("/bin/sh")
        .args(["-c", script, "keeper"])
        .arg(file)
        .arg(added.to_string())
        .arg(std::env::temp_dir().join("gunyah-hugepages.lock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting the process that gives huge pages back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_can_be_read() {
        let pool = Pool::now().expect("meminfo");
        assert!(pool.free <= pool.total);
        assert!(pool.page.is_power_of_two());
    }
}
