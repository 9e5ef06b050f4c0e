// SPDX-License-Identifier: Apache-2.0
//! A host whose memory is in pieces: the reserve, taken at boot, and beside it a VM that has to take what
//! comes at each start.

use std::ffi::c_void;
use std::fs;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::{ensure, Context, Result};
use nix::sys::mman::{madvise, mlock, mmap_anonymous, MapFlags, MmapAdvise, ProtFlags};
use serde_json::Value;

use crate::story::{gunyah, signal_worker, status, text, wait_for, Story};

/// Restarts of the VM that has the reserve.
const RESTARTS: u64 = 100;
/// Restarts of the VM that has none: each costs the kernel a long search.
const WITHOUT: u64 = 10;
/// Hard ends, after which folios are given back and taken again.
const KILLS: u64 = 5;
/// Pages between two that stay: no free piece is half as large as a huge page.
const APART: usize = 128;
/// What is left to the host while memory is filled, in KiB.
const LEFT: u64 = 48 << 10;
/// What is filled at a time, in bytes.
const CHUNK: usize = 16 << 20;

/// Tells the story of "a", which has the reserve, and "b", which has not.
pub fn tell() -> Result<()> {
    let mut story = Story::default();
    story.chapter("the reserve is whole after boot", || {
        wait_for("a", "running")?;
        println!("{}", text(gunyah("gunyahctl", &["status"])?)?);
        all_huge(&status("a")?)?;
        reserve_is_whole()
    });
    story.chapter("memory is broken into pieces", || {
        let pieces = fragment()?;
        println!(
            "{pieces} pages of it stay; free, by order:\n{}",
            fs::read_to_string("/proc/buddyinfo")?
        );
        Ok(())
    });
    story.chapter("every restart has all its folios huge", || {
        for number in 1..=RESTARTS {
            text(gunyah("gunyahctl", &["restart", "a"])?)?;
            all_huge(&status("a")?).with_context(|| format!("restart {number}"))?;
        }
        println!("with the reserve: all folios huge in {RESTARTS} of {RESTARTS} restarts");
        Ok(())
    });
    story.chapter("so has every start after a hard end", || {
        for number in 1..=KILLS {
            let before = wait_for("a", "running")?;
            signal_worker(&before)?;
            crate::story::wait(|| {
                let now = status("a")?;
                Ok((now["state"] == "running" && now["pid"] != before["pid"]).then_some(()))
            })?;
            all_huge(&status("a")?).with_context(|| format!("kill {number}"))?;
        }
        Ok(())
    });
    story.chapter("without the reserve there are fewer", || {
        let (mut huge, mut of) = (0, 0);
        for _ in 1..=WITHOUT {
            text(gunyah("gunyahctl", &["restart", "b"])?)?;
            let (got, all) = folios(&status("b")?)?;
            huge += got;
            of += all;
        }
        println!("without the reserve: {huge} of {of} folios huge in {WITHOUT} restarts");
        // Else the host was not in pieces, and the rest of the story shows nothing.
        ensure!(huge * 2 < of, "{huge} of {of}: memory was not in pieces");
        Ok(())
    });
    story.chapter("the reserve is as it was after boot", reserve_is_whole);
    story.end()
}

/// The supervisor sees all of it huge, too.
fn reserve_is_whole() -> Result<()> {
    let told = text(gunyah("gunyahctl", &["status", "--json"])?)?;
    let all: Value = serde_json::from_str(&told)?;
    let reserve = &all["reserve"];
    println!("reserve: {reserve}");
    ensure!(reserve["huge"] == reserve["folios"] && reserve["huge"] != 0, "{reserve}");
    Ok(())
}

/// Those of a VM that are huge, and all.
fn folios(status: &Value) -> Result<(u64, u64)> {
    let number = |name: &str| status["folios"][name].as_u64();
    number("huge").zip(number("of")).with_context(|| format!("no folios in {status}"))
}

fn all_huge(status: &Value) -> Result<()> {
    let (huge, of) = folios(status)?;
    ensure!(huge == of && status["folios"]["reserved"] == of, "{}", status["folios"]);
    Ok(())
}

/// Fills memory with base pages and gives all back but some that the kernel may not move, as it may not
/// move its own; they stay until this process ends. Returns how many.
fn fragment() -> Result<usize> {
    fs::write("/proc/sys/vm/compact_unevictable_allowed", "0")?;
    let page = usize::try_from(
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")?,
    )?;
    let size = NonZeroUsize::new(CHUNK).context("no chunk")?;
    let mut chunks: Vec<NonNull<c_void>> = Vec::new();
    while available()? > LEFT {
        // SAFETY: new mappings, which nobody else knows of; only their pages are touched here.
        let chunk = unsafe {
            let chunk = mmap_anonymous(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )?;
            madvise(chunk, CHUNK, MmapAdvise::MADV_NOHUGEPAGE)?;
            for offset in (0..CHUNK).step_by(page) {
                chunk.as_ptr().cast::<u8>().add(offset).write_volatile(1);
            }
            chunk
        };
        chunks.push(chunk);
    }
    let mut pieces = 0;
    for chunk in chunks {
        for offset in (0..CHUNK).step_by(page * APART) {
            // SAFETY: as above; each range is inside the chunk.
            unsafe {
                let at = NonNull::new(chunk.as_ptr().byte_add(offset)).context("null")?;
                mlock(at, page)?;
                let rest = NonNull::new(at.as_ptr().byte_add(page)).context("null")?;
                madvise(rest, page * (APART - 1), MmapAdvise::MADV_DONTNEED)?;
            }
            pieces += 1;
        }
    }
    println!("{} huge pages were left, and are taken", take_huge_pages()?);
    Ok(pieces)
}

/// Takes the huge pages that are left, as other programs do; they stay until this process ends.
fn take_huge_pages() -> Result<usize> {
    /// include/uapi/asm-generic/mman-common.h
    const MADV_COLLAPSE: i32 = 25;
    const HUGE: usize = 2 << 20;
    let size = NonZeroUsize::new(2 * HUGE).context("no size")?;
    for taken in 0.. {
        // SAFETY: a new mapping, which nobody else knows of; one byte of it is written.
        let result = unsafe {
            let both = mmap_anonymous(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )?;
            let at = both.as_ptr().cast::<u8>();
            let at = at.add(at.align_offset(HUGE));
            at.write_volatile(1);
            nix::libc::madvise(at.cast(), HUGE, MADV_COLLAPSE)
        };
        if result != 0 {
            return Ok(taken);
        }
    }
    Ok(0)
}

/// MemAvailable, in KiB.
fn available() -> Result<u64> {
    let told = fs::read_to_string("/proc/meminfo")?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("MemAvailable")?;
    Ok(number.parse()?)
}
