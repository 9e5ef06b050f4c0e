// SPDX-License-Identifier: Apache-2.0
//! What a process says of itself (prctl(2)); nix has these for Linux, not for Android.

use std::ffi::CStr;

use libc::{c_int, c_ulong};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The signal that this process gets when the thread that forked it ends.
pub fn set_pdeathsig(signal: Signal) -> Result<(), Errno> {
    call(libc::PR_SET_PDEATHSIG, c_ulong::from(signal as u32))
}

/// The calling thread's name; the kernel keeps 15 bytes.
pub fn set_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads up to 16 bytes, and no further than the NUL.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// From here on no program that this thread runs gets more rights than it has.
pub fn set_no_new_privs() -> Result<(), Errno> {
    call(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn call(option: c_int, value: c_ulong) -> Result<(), Errno> {
    let none: c_ulong = 0;
    // SAFETY: both options take a number.
    Errno::result(unsafe { libc::prctl(option, value, none, none, none) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_name() {
        std::thread::spawn(|| {
            set_name(c"vm:a-long-name-indeed").unwrap();
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(name, "vm:a-long-name-\n");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_signal_of_a_parents_end_is_kept() {
        std::thread::spawn(|| {
            set_pdeathsig(Signal::SIGUSR1).unwrap();
            let mut signal: c_int = 0;
            // SAFETY: the kernel writes one int.
            let done = unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &mut signal) };
            assert_eq!((done, signal), (0, Signal::SIGUSR1 as c_int));
        })
        .join()
        .unwrap();
    }
}
