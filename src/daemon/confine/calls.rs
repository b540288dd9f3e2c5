//! System calls that the daemon never makes, refused by seccomp(2).
//!
//! A list of what is denied, and not of what is allowed: the C library and the runtime change the calls that they make with their
//! versions, and one that is missing from a list of allowed ones would fail in the middle of somebody's write. For the same reason a
//! denied call gets EPERM and does not kill. What is on the list is what an intruder needs to get at other processes, at the kernel,
//! or out of the other layers.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::Lack;
use super::grants::Grants;

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

/// Denied as well where no program has to be run, because programs may use them: executing one; the kernel's keys; listening, which needs
/// no bind(2), the one call that Landlock knows of; and changes to owner, times and attributes of files, which Landlock lets pass and root
/// may make without any capability where it owns the file.
const OF_PROGRAMS: [c_long; 16] = [
    libc::SYS_add_key,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_keyctl,
    libc::SYS_listen,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_request_key,
    libc::SYS_setxattr,
    libc::SYS_utimensat,
];

/// The same by calls that the C library's list has not for every architecture, or not yet. Numbers as recent as these are the same for all:
/// fchmodat2, setxattrat, removexattrat, file_setattr.
const OF_PROGRAMS_NEW: [c_long; 4] = [452, 463, 466, 469];
#[cfg(target_arch = "x86_64")]
const OF_PROGRAMS_OLD: [c_long; 5] =
    [libc::SYS_chown, libc::SYS_futimesat, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes];
#[cfg(not(target_arch = "x86_64"))]
const OF_PROGRAMS_OLD: [c_long; 0] = [];

/// chmod(2) by the name of a file, and which argument the mode is.
#[cfg(target_arch = "x86_64")]
const CHMOD: [(c_long, u8); 2] = [(libc::SYS_chmod, 1), (libc::SYS_fchmodat, 2)];
#[cfg(not(target_arch = "x86_64"))]
const CHMOD: [(c_long, u8); 1] = [(libc::SYS_fchmodat, 2)];
/// The mode that the SDK gives to a token which it has renewed, after it has written it.
const MODE_OF_TOKENS: u64 = 0o600;

/// What a daemon talks over that runs no programs: TCP, and the kernel's answers to which addresses there are. A socket with a name in the
/// file system would lead to services that run programs for root; Landlock does not know of them (as of its version 6).
const FAMILIES: [u64; 3] = [libc::AF_INET as u64, libc::AF_INET6 as u64, libc::AF_NETLINK as u64];
/// The bit that `SOCK_DGRAM` and `SOCK_RAW`, which is the same between Unix sockets, have and `SOCK_STREAM` and `SOCK_SEQPACKET` have not; the
/// two are 2 and 3, the others 1 and 5.
const DATAGRAMS: u64 = libc::SOCK_DGRAM as u64;

/// Calls of the x32 ABI have this bit in their number (`__X32_SYSCALL_BIT` of the kernel's unistd.h). Some have numbers of their own there.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERING: u32 = 0x4000_0000;

/// The flag of clone(2) for a user namespace, in which a process has all capabilities again.
const NEW_USER_NAMESPACE: u64 = libc::CLONE_NEWUSER as u64;

/// What a filter holds against a call: any of the rules, and always where there are none.
type Denied = BTreeMap<i64, Vec<SeccompRule>>;

/// Puts the filters on this thread and those that it will start. Filters add up, and none can be taken off.
pub(super) fn restrict(grants: &Grants) -> Result<String, Lack> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| Lack::Unsupported)?;
    #[cfg(target_arch = "x86_64")]
    deny_other_numbering()?;
    let mut denied: Denied = always(&DENIED).collect();
    denied.insert(libc::SYS_clone, any([flag(0, NEW_USER_NAMESPACE)])?);
    denied.insert(libc::SYS_ioctl, any([is(1, libc::TIOCSTI)])?);
    if !grants.runs_programs {
        denied.extend(without_programs(grants.renews_tokens)?);
    }
    install(denied, libc::EPERM, arch)?;
    // The flags of clone3(2) lie in memory, where no filter sees them. The C library falls back to clone(2) when the kernel seems not
    // to know it; containers have relied on that since it came.
    install(always(&[libc::SYS_clone3]).collect(), libc::ENOSYS, arch)?;
    Ok("on".to_owned())
}

fn without_programs(renews_tokens: bool) -> Result<Denied, Lack> {
    let lists = [&OF_PROGRAMS[..], &OF_PROGRAMS_OLD, &OF_PROGRAMS_NEW];
    let mut denied: Denied = lists.into_iter().flat_map(always).collect();
    for (call, argument) in CHMOD {
        let rules = if renews_tokens { any([is_not(argument, &[MODE_OF_TOKENS])])? } else { Vec::new() };
        denied.insert(call, rules);
    }
    denied.insert(libc::SYS_socket, any([is_not(0, &FAMILIES)])?);
    // One of a pair of datagram sockets can be connected to a name later.
    denied.insert(libc::SYS_socketpair, any([flag(1, DATAGRAMS)])?);
    Ok(denied)
}

fn always(calls: &[c_long]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    calls.iter().map(|call| (*call, Vec::new()))
}

/// All conditions of a rule have to hold.
type Conditions = Result<Vec<SeccompCondition>, BackendError>;

fn any<const RULES: usize>(rules: [Conditions; RULES]) -> Result<Vec<SeccompRule>, Lack> {
    rules.into_iter().map(|rule| SeccompRule::new(rule?)).collect::<Result<_, _>>().map_err(|error| refused(&error))
}

fn is(argument: u8, value: u64) -> Conditions {
    Ok(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
}

fn is_not(argument: u8, values: &[u64]) -> Conditions {
    let differs = |value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
    values.iter().map(|value| differs(*value)).collect()
}

fn flag(argument: u8, flag: u64) -> Conditions {
    Ok(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
}

/// A program of three instructions, which seccompiler has no words for: the number of the call, a comparison, a verdict.
#[cfg(target_arch = "x86_64")]
fn deny_other_numbering() -> Result<(), Lack> {
    // The number is the first field of `seccomp_data` (seccomp(2)), at 0.
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let skip_unless = sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, OTHER_NUMBERING) };
    let verdict = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let deny = verdict(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs());
    apply_filter(&[load, skip_unless, deny, verdict(libc::SECCOMP_RET_ALLOW)])
        .map_err(|error| Lack::Refused(error.to_string()))
}

#[cfg(target_arch = "x86_64")]
fn statement(code: u32, k: u32) -> sock_filter {
    // Codes have 16 bits.
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

fn install(denied: Denied, errno: i32, arch: TargetArch) -> Result<(), Lack> {
    // An errno is a small positive number.
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, action, arch).map_err(|error| refused(&error))?;
    let program = BpfProgram::try_from(filter).map_err(|error| refused(&error))?;
    apply_filter(&program).map_err(|error| Lack::Refused(error.to_string()))
}

fn refused(error: &BackendError) -> Lack {
    Lack::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socketpair};

    use super::*;

    /// In a thread of its own: filters stay with it and with what it starts.
    fn confined<T: Send + 'static>(grants: Grants, work: impl FnOnce() -> T + Send + 'static) -> T {
        let work = move || {
            restrict(&grants).unwrap();
            work()
        };
        std::thread::spawn(work).join().unwrap()
    }

    fn with_programs() -> Grants {
        Grants { runs_programs: true, ..Grants::default() }
    }

    #[test]
    fn the_filter_denies_what_is_on_the_list_and_threads_still_start() {
        let started = confined(Grants::default(), || {
            assert_eq!(rustix::thread::secure_computing_mode().unwrap(), rustix::thread::SecureComputingMode::Filter);
            let started = Command::new("/bin/true").status();
            assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EPERM));
            let unmounted = rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty());
            assert_eq!(unmounted, Err(Errno::PERM));
            std::thread::spawn(|| 7).join().unwrap()
        });
        assert_eq!(started, 7);
    }

    #[test]
    fn a_program_can_be_run_where_the_credentials_need_one() {
        let run = || Command::new("/bin/sh").args(["-c", "exit 3"]).status().unwrap().code();
        assert_eq!(confined(with_programs(), run), Some(3));
    }

    #[test]
    fn no_service_of_this_host_can_be_called_by_the_name_of_its_socket() {
        const STREAM: SocketType = SocketType::STREAM;
        let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map(drop);
        confined(Grants::default(), move || {
            for family in [libc::AF_UNIX, libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET, libc::AF_BLUETOOTH] {
                let family = AddressFamily::from_raw(u16::try_from(family).unwrap());
                assert_eq!(socket(family, STREAM, None).unwrap_err(), Errno::PERM, "{family:?}");
            }
            for kind in [SocketType::DGRAM, SocketType::RAW] {
                assert_eq!(pair(kind), Err(Errno::PERM), "{kind:?}");
            }
            // What the runtime, names of hosts, and requests need.
            pair(STREAM).unwrap();
            pair(SocketType::SEQPACKET).unwrap();
            let unbound = socket(AddressFamily::INET, STREAM, None).unwrap();
            assert_eq!(rustix::net::listen(&unbound, 1), Err(Errno::PERM), "the kernel would choose a port");
            socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
            let addresses = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 80)).unwrap();
            assert!(addresses.count() > 0);
            tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        });
        confined(with_programs(), move || drop(socket(AddressFamily::UNIX, STREAM, None).unwrap()));
    }

    #[test]
    fn a_socket_that_was_there_before_finds_a_system_log_that_was_started_again() {
        use std::os::unix::net::UnixDatagram;
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("log");
        let (log, ours) = (UnixDatagram::bind(&name).unwrap(), UnixDatagram::unbound().unwrap());
        ours.connect(&name).unwrap();
        let again = name.clone();
        confined(Grants::default(), move || {
            ours.connect(&again).unwrap();
            ours.send(b"line").unwrap();
        });
        assert_eq!(log.recv(&mut [0; 8]).unwrap(), 4);
    }

    #[test]
    fn files_keep_owner_mode_times_and_attributes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        confined(Grants::default(), move || {
            let opened = File::open(&path).unwrap();
            let outcomes = [
                std::fs::set_permissions(&path, Permissions::from_mode(0o4755)),
                std::fs::set_permissions(&path, Permissions::from_mode(0o600)),
                opened.set_permissions(Permissions::from_mode(0o4755)),
                std::os::unix::fs::chown(&path, None, Some(rustix::process::getgid().as_raw())),
                std::os::unix::fs::lchown(&path, None, None),
                std::os::unix::fs::fchown(&opened, None, None),
                xattr::set(&path, "user.planted", b"value"),
                opened.set_modified(std::time::SystemTime::UNIX_EPOCH),
            ];
            for (call, outcome) in outcomes.into_iter().enumerate() {
                assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EPERM), "{call}");
            }
            assert_eq!(mode(&path), 0o600);
        });
    }

    #[test]
    fn the_sdk_makes_tokens_that_it_renews_private_and_nothing_public() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        confined(Grants { renews_tokens: true, ..Grants::default() }, move || {
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let refused = std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        });
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn no_call_of_the_other_numbering_is_let_through() {
        // getpid(2), and the number that execve(2) has there alone. A kernel without that ABI would say ENOSYS.
        const TRY: &str = "for (39, 520) { $! = 0; syscall(0x40000000 | $_); print 0 + $!, ' ' }";
        let tried = || Command::new("perl").args(["-e", TRY]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(confined(with_programs(), tried)).unwrap(), format!("{0} {0} ", libc::EPERM));
    }
}
