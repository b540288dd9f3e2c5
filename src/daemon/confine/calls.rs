//! System calls that the daemon never makes, refused by seccomp(2).
//!
//! A list of what is denied, and not of what is allowed: the C library and the runtime change the calls that they make with their
//! versions, and one that is missing from a list of allowed ones would fail in the middle of somebody's write. For the same reason a
//! denied call gets EPERM and does not kill. What is on the list is what an intruder needs to get at other processes, at the kernel,
//! or out of the other layers.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::Lack;

/// Other processes' memory and descriptors; the kernel itself and its clock; mounts and namespaces; ways around the other layers.
const DENIED: [c_long; 48] = [
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Denied as well where no program has to be run: executing one, and the kernel's keys, which such programs may use.
const OF_PROGRAMS: [c_long; 5] =
    [libc::SYS_add_key, libc::SYS_execve, libc::SYS_execveat, libc::SYS_keyctl, libc::SYS_request_key];

/// Calls of the x32 ABI have this bit in their number (`__X32_SYSCALL_BIT` of the kernel's unistd.h), and would not be on the list.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERING: c_long = 0x4000_0000;

/// The flag of clone(2) for a user namespace, in which a process has all capabilities again.
const NEW_USER_NAMESPACE: u64 = libc::CLONE_NEWUSER as u64;

/// Puts the filters on this thread and those that it will start. Filters add up, and none can be taken off.
pub(super) fn restrict(runs_programs: bool) -> Result<String, Lack> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| Lack::Unsupported)?;
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().flat_map(|call| numbers(*call)).collect();
    if !runs_programs {
        denied.extend(OF_PROGRAMS.iter().flat_map(|call| numbers(*call)));
    }
    let conditional = [
        (libc::SYS_clone, 0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(NEW_USER_NAMESPACE), NEW_USER_NAMESPACE),
        (libc::SYS_ioctl, 1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::TIOCSTI),
    ];
    for (call, argument, length, operator, value) in conditional {
        let condition = SeccompCondition::new(argument, length, operator, value).map_err(|error| refused(&error))?;
        denied.insert(call, vec![SeccompRule::new(vec![condition]).map_err(|error| refused(&error))?]);
    }
    install(denied, libc::EPERM, arch)?;
    // The flags of clone3(2) lie in memory, where no filter sees them. The C library falls back to clone(2) when the kernel seems not
    // to know it; containers have relied on that since it came.
    install(numbers(libc::SYS_clone3).collect(), libc::ENOSYS, arch)?;
    Ok("on".to_owned())
}

/// A call under each of its numbers, whatever its arguments.
fn numbers(call: c_long) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    #[cfg(target_arch = "x86_64")]
    let all = [call, call | OTHER_NUMBERING];
    #[cfg(not(target_arch = "x86_64"))]
    let all = [call];
    all.into_iter().map(|number| (number, Vec::new()))
}

fn install(denied: BTreeMap<i64, Vec<SeccompRule>>, errno: i32, arch: TargetArch) -> Result<(), Lack> {
    // An errno is a small positive number.
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, action, arch).map_err(|error| refused(&error))?;
    let program = BpfProgram::try_from(filter).map_err(|error| refused(&error))?;
    apply_filter(&program).map_err(|error| Lack::Refused(error.to_string()))
}

fn refused(error: &seccompiler::BackendError) -> Lack {
    Lack::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_denies_what_is_on_the_list_and_threads_still_start() {
        // A thread of its own: the filter stays with it and with what it starts.
        let confined = std::thread::spawn(|| {
            restrict(false).unwrap();
            assert_eq!(rustix::thread::secure_computing_mode().unwrap(), rustix::thread::SecureComputingMode::Filter);
            let started = std::process::Command::new("/bin/true").status();
            assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EPERM));
            let unmounted = rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty());
            assert_eq!(unmounted, Err(rustix::io::Errno::PERM));
            std::thread::spawn(|| 7).join().unwrap()
        });
        assert_eq!(confined.join().unwrap(), 7);
    }

    #[test]
    fn a_program_can_be_run_where_the_credentials_need_one() {
        let confined = std::thread::spawn(|| {
            restrict(true).unwrap();
            std::process::Command::new("/bin/sh").args(["-c", "exit 3"]).status().unwrap().code()
        });
        assert_eq!(confined.join().unwrap(), Some(3));
    }

    #[test]
    fn calls_of_the_other_numbering_are_on_the_list_too() {
        let numbers: Vec<i64> = numbers(libc::SYS_ptrace).map(|(number, _)| number).collect();
        assert!(numbers.contains(&libc::SYS_ptrace));
        #[cfg(target_arch = "x86_64")]
        assert!(numbers.contains(&(0x4000_0000 | libc::SYS_ptrace)));
    }
}
