//! System calls by their number, for tests of what is refused.

/// The errno of the call `number`, 0 if it succeeds. All of its arguments are -1: no address, descriptor, process or
/// object has that number.
pub fn errno_of(number: libc::c_long) -> i32 {
    let none = -1_i64;
    // SAFETY: no memory of ours lies at this address, so the kernel reads and writes none. Tests ask for calls that are
    // to be refused.
    match unsafe { libc::syscall(number, none, none, none, none, none, none) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

/// The same, with three arguments, of calls for which these are numbers, or addresses that are null or invalid.
///
/// # Panics
/// The call is not known to be one of those.
pub fn errno_with(number: libc::c_long, arguments: [u64; 3]) -> i32 {
    let of_numbers = [
        libc::SYS_bind,
        libc::SYS_clone,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_ioprio_set,
        libc::SYS_kill,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_setpriority,
        libc::SYS_setsockopt,
        libc::SYS_socket,
        libc::SYS_tgkill,
    ];
    assert!(of_numbers.contains(&number), "{number} is not known to take numbers alone");
    let [first, second, third] = arguments;
    // SAFETY: the calls of the list take numbers, or addresses that are null or no memory of ours here, which the
    // kernel refuses.
    match unsafe { libc::syscall(number, first, second, third, 0, 0, 0) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}
