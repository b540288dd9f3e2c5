//! The system calls that the filters refuse, and the arguments of those that they refuse in part.
//!
//! Every call of x86-64 and of the other architectures (Linux 6.18, numbers up to 471) was looked at once. The calls
//! that are not on the lists act on this process, on its own descriptors, or on files that Landlock allows. Others only
//! return information, or no kernel has them any more.

use libc::c_long;

/// Refused to the daemon and to programs that it runs.
pub(super) const ALWAYS: &[c_long] = &[
    // The kernel, its clock, its log, and what measures it.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Mounts and namespaces.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Other processes: their memory, descriptors, and events on their files.
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_get_robust_list,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Objects that every process of the host finds by a number or a name: those of System V, and the message queues of
    // POSIX. Landlock does not know of them.
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
    // Ways around the filters, and parts of the kernel in which many errors were found.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
];

/// Refused as well where no program has to be run, because programs may use them.
pub(super) const WITHOUT_PROGRAMS: &[c_long] = &[
    // Programs, and identities other than the daemon's own.
    libc::SYS_capset,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_memfd_create,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // The kernel's keys.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Signals and scheduling of other processes. The daemon changes its own neither.
    libc::SYS_ioprio_set,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
    libc::SYS_tkill,
    // Listening needs no bind(2): the kernel chooses a port.
    libc::SYS_listen,
    // Events on files, which Landlock does not restrict, and kernel threads that read and write.
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_name_to_handle_at,
    // Changes to owner, times and attributes of files, which Landlock lets pass. Root may make them without any
    // capability where it owns the file.
    FCHMODAT2,
    FILE_SETATTR,
    REMOVEXATTRAT,
    SETXATTRAT,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_mknodat,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
    libc::SYS_utimensat,
];

/// Calls that the C library's list does not have yet on every architecture. Numbers as recent as these are the same on
/// all of them.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

/// Calls that only the oldest of the 64-bit architectures has.
#[cfg(target_arch = "x86_64")]
pub(super) const ALWAYS_OLD: &[c_long] =
    &[libc::SYS__sysctl, libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALWAYS_OLD: &[c_long] = &[];

/// The same, of [`WITHOUT_PROGRAMS`].
#[cfg(target_arch = "x86_64")]
pub(super) const WITHOUT_PROGRAMS_OLD: &[c_long] = &[
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_inotify_init,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_setrlimit,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const WITHOUT_PROGRAMS_OLD: &[c_long] = &[];

/// chmod(2) by the name of a file, and which argument the mode is.
#[cfg(target_arch = "x86_64")]
pub(super) const CHMOD: &[(c_long, u8)] = &[(libc::SYS_chmod, 1), (libc::SYS_fchmodat, 2)];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const CHMOD: &[(c_long, u8)] = &[(libc::SYS_fchmodat, 2)];
/// The mode that the SDK gives to a token which it has renewed, after it has written it.
pub(super) const MODE_OF_TOKENS: u64 = 0o600;

/// Which calls take a process as their first argument; 0 is the caller.
pub(super) const SCHEDULING: [c_long; 4] =
    [libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler];

/// Commands of fcntl(2) by which the kernel sends signals to another process, holds up another one that opens a file,
/// or tells of changes.
pub(super) const FCNTL: &[u64] =
    &[F_SETSIG, F_SETOWN_EX, libc::F_SETOWN as u64, libc::F_SETLEASE as u64, libc::F_NOTIFY as u64];
/// From the kernel's asm-generic/fcntl.h; the C library's list does not have them.
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;

/// Requests of ioctl(2) by which the kernel sends signals to another process (FIOSETOWN, SIOCSPGRP, FIOASYNC). Others
/// put input into a terminal, or take one over.
pub(super) const IOCTL: &[u64] = &[
    FIOSETOWN,
    SIOCSPGRP,
    libc::FIOASYNC,
    libc::TIOCCONS,
    libc::TIOCLINUX,
    libc::TIOCSCTTY,
    libc::TIOCSETD,
    libc::TIOCSPGRP,
    libc::TIOCSTI,
];
/// From the kernel's asm-generic/sockios.h.
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
/// Requests for the consoles of Linux (ioctl_console(2)) have these in the second byte, and zeros above.
pub(super) const IOCTL_CONSOLE: [u64; 2] = [0x4B00, 0x5600];
pub(super) const IOCTL_CLASS: u64 = 0xFFFF_FF00;

/// Options of prctl(2) that concern other processes: who may trace this one, and with whom it shares a core.
pub(super) const PRCTL: &[u64] = &[libc::PR_SET_PTRACER as u64, PR_SCHED_CORE];
const PR_SCHED_CORE: u64 = 62;

/// Options of a socket that hand a BPF program to the kernel: SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF
/// and _EBPF.
pub(super) const ATTACH: [u64; 4] = [26, 50, 51, 52];

/// The flags of clone(2) for new namespaces. In a new user namespace a process has all capabilities again.
pub(super) const NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWNET as u64,
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWUTS as u64,
];
/// The flag of clone(2) for a thread.
pub(super) const THREAD: u64 = libc::CLONE_THREAD as u64;

/// What a daemon talks over that runs no programs: TCP, UDP for DNS, and the kernel's answers to which addresses there
/// are. A socket with a name in the file system would lead to services that run programs for root. Landlock does not
/// know of such sockets (as of its version 6).
pub(super) const FAMILIES: [u64; 3] = [INET, INET6, NETLINK];
/// Programs have services of the host to ask as well.
pub(super) const FAMILIES_OF_PROGRAMS: [u64; 4] = [INET, INET6, NETLINK, UNIX];
const INET: u64 = libc::AF_INET as u64;
const INET6: u64 = libc::AF_INET6 as u64;
pub(super) const NETLINK: u64 = libc::AF_NETLINK as u64;
pub(super) const UNIX: u64 = libc::AF_UNIX as u64;

/// The bits of a socket's type that are not flags (the kernel's `SOCK_TYPE_MASK`).
pub(super) const TYPE: u64 = 0xF;
pub(super) const STREAM: u64 = libc::SOCK_STREAM as u64;
pub(super) const DGRAM: u64 = libc::SOCK_DGRAM as u64;
pub(super) const RAW: u64 = libc::SOCK_RAW as u64;
/// Bits of types that are none of stream, datagram and raw.
pub(super) const TYPE_OTHERS: [u64; 2] = [4, 8];
/// The bit that tells datagrams from streams: `SOCK_DGRAM` (2) and `SOCK_RAW` (3) have it, `SOCK_STREAM` (1) and
/// `SOCK_SEQPACKET` (5) do not. Between Unix sockets `SOCK_RAW` is the same as `SOCK_DGRAM`.
pub(super) const DATAGRAMS: u64 = DGRAM;

/// The protocols of a stream: 0 stands for TCP. MPTCP, which Landlock does not take for TCP, is none of them.
pub(super) const STREAM_PROTOCOLS: [u64; 2] = [0, libc::IPPROTO_TCP as u64];
/// The protocols of datagrams: 0 stands for UDP, and for routes of netlink.
pub(super) const DGRAM_PROTOCOLS: [u64; 2] = [0, libc::IPPROTO_UDP as u64];
/// Addresses and routes, which the C library asks for before it connects.
pub(super) const NETLINK_PROTOCOLS: [u64; 1] = [libc::NETLINK_ROUTE as u64];
/// And devices that come and go: tokens in a USB port.
pub(super) const NETLINK_PROTOCOLS_OF_PROGRAMS: [u64; 2] =
    [libc::NETLINK_ROUTE as u64, libc::NETLINK_KOBJECT_UEVENT as u64];

/// Bytes of a netlink address. The C library binds such a socket before it asks for addresses. The addresses of all
/// other families of [`FAMILIES`] are longer, and the kernel takes no shorter ones for them (ip(7), ipv6(7)).
pub(super) const NETLINK_ADDRESS_BYTES: u64 = size_of::<libc::sockaddr_nl>() as u64;
