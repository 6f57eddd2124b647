//! What a process and its threads may use: processors, files.

use std::io;

/// Ties the calling thread to one processor.
///
/// # Panics
/// If there is no such processor for this process.
pub fn pin(cpu: usize) {
    // SAFETY: an all-zero set is an empty one, and CPU_SET stays within it by the check.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert!(cpu < 8 * size_of::<libc::cpu_set_t>(), "there is no processor {cpu}");
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    let error = io::Error::last_os_error();
    assert_eq!(
        result, 0,
        "cannot run on processor {cpu}: {error}; these tests need two"
    );
}

/// Lets the process have as many files open as it may ask for. Does nothing that must not be done between fork and exec.
///
/// # Errors
/// Whatever the kernel says.
pub fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take a pointer to a local.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
