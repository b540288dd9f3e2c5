//! System calls that the daemon never makes, refused by seccomp(2).
//!
//! The filter has a list of denied calls, not of allowed ones. Each version of the C library and of the runtime makes
//! other calls. One that is missing from a list of allowed calls would fail in the middle of a program's write. For the
//! same reason a denied call gets EPERM and does not kill. The list ([`super::denied`]) has the calls that an intruder
//! needs to reach other processes or the kernel, or to leave the other layers.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::Lack;
use super::denied::{
    ALWAYS, ALWAYS_OLD, ATTACH, CHMOD, DATAGRAMS, DGRAM, DGRAM_PROTOCOLS, FAMILIES, FAMILIES_OF_PROGRAMS, FCNTL, IOCTL,
    IOCTL_CLASS, IOCTL_CONSOLE, MODE_OF_TOKENS, NAMESPACES, NETLINK, NETLINK_ADDRESS_BYTES, NETLINK_PROTOCOLS,
    NETLINK_PROTOCOLS_OF_PROGRAMS, PRCTL, RAW, SCHEDULING, STREAM, STREAM_PROTOCOLS, THREAD, TYPE, TYPE_OTHERS, UNIX,
    WITHOUT_PROGRAMS, WITHOUT_PROGRAMS_OLD,
};
use super::grants::Grants;

/// Calls of the x32 ABI have this bit in their number (`__X32_SYSCALL_BIT` of the kernel's unistd.h). Some have numbers
/// of their own there.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERING: u32 = 0x4000_0000;

/// What a filter holds against a call: any of the rules, and always where there are none.
type Denied = BTreeMap<i64, Vec<SeccompRule>>;

/// Puts the filters on this thread and those that it will start. Filters add up, and none can be taken off.
pub(super) fn restrict(grants: &Grants) -> Result<String, Lack> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| Lack::Unsupported)?;
    #[cfg(target_arch = "x86_64")]
    deny_other_numbering()?;
    install(denied(grants).map_err(|error| refused(&error))?, libc::EPERM, arch)?;
    // The flags of clone3(2) lie in memory, where no filter sees them. The C library falls back to clone(2) when the
    // kernel seems not to know it; containers have relied on that since it came.
    install(always(&[libc::SYS_clone3]).collect(), libc::ENOSYS, arch)?;
    Ok("on".to_owned())
}

fn denied(grants: &Grants) -> Result<Denied, BackendError> {
    let mut denied: Denied = [ALWAYS, ALWAYS_OLD].into_iter().flat_map(always).collect();
    denied.insert(libc::SYS_clone, each(NAMESPACES, |namespace| vec![bits(0, namespace, namespace)])?);
    denied.insert(libc::SYS_fcntl, each(FCNTL.iter().copied(), |command| vec![is(1, command)])?);
    denied.insert(libc::SYS_prctl, each(PRCTL.iter().copied(), |option| vec![is(0, option)])?);
    denied.insert(libc::SYS_ioctl, terminals()?);
    // Of itself alone a program changes limits and scheduling. For setpriority(2) and ioprio_set(2), a process is the
    // kind 0 and 1.
    denied.insert(libc::SYS_prlimit64, any([is_not(0, &[0])])?);
    for call in SCHEDULING {
        denied.insert(call, any([is_not(0, &[0])])?);
    }
    denied.insert(libc::SYS_setpriority, any([is_not(0, &[0]), is_not(1, &[0])])?);
    denied.insert(libc::SYS_ioprio_set, any([is_not(0, &[1]), is_not(1, &[0])])?);
    denied.insert(libc::SYS_socket, sockets_of_programs()?);
    if !grants.runs_programs {
        denied.extend(without_programs(grants.renews_tokens)?);
    }
    Ok(denied)
}

fn without_programs(renews_tokens: bool) -> Result<Denied, BackendError> {
    let mut denied: Denied = [WITHOUT_PROGRAMS, WITHOUT_PROGRAMS_OLD].into_iter().flat_map(always).collect();
    for (call, argument) in CHMOD {
        let rules = if renews_tokens { any([is_not(*argument, &[MODE_OF_TOKENS])])? } else { Vec::new() };
        denied.insert(*call, rules);
    }
    let new_namespaces = each(NAMESPACES, |namespace| vec![bits(0, namespace, namespace)])?;
    let new_process = any([vec![bits(0, THREAD, 0)]])?;
    denied.insert(libc::SYS_clone, [new_namespaces, new_process].concat());
    // The C library ends a process that has found an error by a signal to itself.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        denied.insert(call, any([is_not(0, &[own])])?);
    }
    // The pages of content look at the limit of locked memory.
    denied.insert(libc::SYS_prlimit64, any([is_not(0, &[0]), vec![is_some(2)]])?);
    denied.insert(libc::SYS_socket, sockets()?);
    // One of a pair of datagram sockets can be connected to a name later.
    denied.insert(libc::SYS_socketpair, any([is_not(0, &[UNIX]), vec![bits(1, DATAGRAMS, DATAGRAMS)]])?);
    denied.insert(libc::SYS_bind, any([is_not(2, &[NETLINK_ADDRESS_BYTES])])?);
    let of_the_socket = || is(1, libc::SOL_SOCKET as u64);
    denied.insert(libc::SYS_setsockopt, each(ATTACH, |option| vec![of_the_socket(), is(2, option)])?);
    Ok(denied)
}

/// Requests of ioctl(2).
fn terminals() -> Result<Vec<SeccompRule>, BackendError> {
    let requests = each(IOCTL.iter().copied(), |request| vec![is(1, request)])?;
    let console = each(IOCTL_CONSOLE, |class| vec![bits(1, IOCTL_CLASS, class)])?;
    Ok([requests, console].concat())
}

/// All but streams of TCP, datagrams of UDP, and netlink about routes.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let of_type = |kind| bits(1, TYPE, kind);
    let others = TYPE_OTHERS.map(|bit| vec![bits(1, bit, bit)]);
    let rules = [
        is_not(0, &FAMILIES),
        vec![of_type(0)],
        and(of_type(RAW), is_not(0, &[NETLINK])),
        and(of_type(STREAM), is_not(2, &STREAM_PROTOCOLS)),
        and(of_type(DGRAM), is_not(2, &DGRAM_PROTOCOLS)),
        and(is(0, NETLINK), is_not(2, &NETLINK_PROTOCOLS)),
    ];
    Ok([any(rules)?, any(others)?].concat())
}

/// Programs listen where they want, and talk to services of the host. They need no raw packets, and of netlink little.
fn sockets_of_programs() -> Result<Vec<SeccompRule>, BackendError> {
    any([
        is_not(0, &FAMILIES_OF_PROGRAMS),
        and(bits(1, TYPE, RAW), is_not(0, &[NETLINK, UNIX])),
        and(is(0, NETLINK), is_not(2, &NETLINK_PROTOCOLS_OF_PROGRAMS)),
    ])
}

fn always(calls: &[c_long]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    calls.iter().map(|call| (*call, Vec::new()))
}

/// Something that is asked of one argument.
type Condition = Result<SeccompCondition, BackendError>;

/// A call is denied if one of these rules matches. A rule matches if all of its conditions hold.
fn any<const RULES: usize>(rules: [Vec<Condition>; RULES]) -> Result<Vec<SeccompRule>, BackendError> {
    rules.into_iter().map(|rule| SeccompRule::new(rule.into_iter().collect::<Result<_, _>>()?)).collect()
}

/// A rule for each of the values.
fn each(
    values: impl IntoIterator<Item = u64>,
    rule: impl Fn(u64) -> Vec<Condition>,
) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| SeccompRule::new(rule(value).into_iter().collect::<Result<_, _>>()?)).collect()
}

/// The kernel looks at the lower half of the arguments that are numbers.
fn is(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, values: &[u64]) -> Vec<Condition> {
    let differs = |value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
    values.iter().map(|value| differs(*value)).collect()
}

fn and(condition: Condition, others: Vec<Condition>) -> Vec<Condition> {
    std::iter::once(condition).chain(others).collect()
}

fn bits(argument: u8, mask: u64, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

/// An address that is not null.
fn is_some(argument: u8) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)
}

/// A program of three instructions, which seccompiler has no words for: the number of the call, a comparison, a
/// verdict.
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

    use dssefs_seal::secret::raw::{errno_of, errno_with};

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
    fn listed_calls_are_denied_and_threads_start() {
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
    fn a_credential_process_can_run() {
        let run = || Command::new("/bin/sh").args(["-c", "exit 3"]).status().unwrap().code();
        assert_eq!(confined(with_programs(), run), Some(3));
    }

    #[test]
    fn connecting_to_a_named_socket_is_refused() {
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

    /// A process of this user that disturbs no other.
    struct Victim(std::process::Child);

    impl Victim {
        fn new() -> Victim {
            Victim(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> rustix::process::Pid {
            rustix::process::Pid::from_child(&self.0)
        }

        /// What others could change of it: its limits, priority and processors.
        fn state(&self) -> String {
            let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.0.id())).unwrap();
            let (status, stat) = (file("status"), file("stat"));
            let processors = status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap();
            let nice = stat.split(' ').nth(18).unwrap();
            format!("{} {processors} {nice}", file("limits"))
        }
    }

    impl Drop for Victim {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }

    #[test]
    fn every_call_of_the_lists_is_refused() {
        let refused = |lists: &'static [&[c_long]]| {
            let calls = lists.iter().copied().flatten().copied();
            calls.filter(|call| errno_of(*call) != libc::EPERM).collect::<Vec<_>>()
        };
        let all: &[&[c_long]] = &[ALWAYS, ALWAYS_OLD, WITHOUT_PROGRAMS, WITHOUT_PROGRAMS_OLD];
        assert_eq!(confined(Grants::default(), move || refused(all)), [0; 0]);
        assert_eq!(confined(with_programs(), move || refused(&[ALWAYS, ALWAYS_OLD])), [0; 0]);
    }

    #[test]
    fn shared_memory_queues_and_semaphores_are_refused() {
        let calls = [
            [libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt],
            [libc::SYS_semget, libc::SYS_semop, libc::SYS_semctl, libc::SYS_semtimedop],
            [libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_msgctl],
            [libc::SYS_mq_open, libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive],
        ];
        for grants in [Grants::default, with_programs] {
            let answers = confined(grants(), move || calls.map(|kind| kind.map(errno_of)));
            assert_eq!(answers, [[libc::EPERM; 4]; 4]);
        }
    }

    #[test]
    fn another_process_keeps_its_limits_priority_and_processors() {
        use rustix::process::{Resource, Rlimit, prlimit, setpriority_process};
        use rustix::thread::{CpuSet, sched_setaffinity};
        for grants in [Grants::default, with_programs] {
            let victim = Victim::new();
            let (pid, before) = (victim.pid(), victim.state());
            let second = Rlimit { current: Some(1), maximum: Some(1) };
            let mut processors = CpuSet::new();
            processors.set(0);
            confined(grants(), move || {
                let changed = prlimit(Some(pid), Resource::Cpu, second);
                assert_eq!(changed.map(drop), Err(Errno::PERM));
                let read = errno_with(libc::SYS_prlimit64, [pid.as_raw_pid() as u64, libc::RLIMIT_CPU.into(), 0]);
                assert_eq!(read, libc::EPERM, "even to look");
                assert_eq!(setpriority_process(Some(pid), 19), Err(Errno::PERM));
                assert_eq!(sched_setaffinity(Some(pid), &processors), Err(Errno::PERM));
                let idle = 3 << 13;
                assert_eq!(errno_with(libc::SYS_ioprio_set, [1, pid.as_raw_pid() as u64, idle]), libc::EPERM);
                // Its group, or all processes of a user.
                for kind in [1, 2] {
                    assert_eq!(errno_with(libc::SYS_setpriority, [kind, 0, 19]), libc::EPERM);
                }
                assert!(rustix::process::getrlimit(Resource::Memlock).maximum.is_none_or(|bytes| bytes > 0));
            });
            assert_eq!(victim.state(), before);
        }
    }

    #[test]
    fn a_program_may_lower_its_own_limits_and_priority() {
        const LOWER: &str = "ulimit -t 60 && exec nice -n 5 nice";
        let run = || Command::new("sh").args(["-c", LOWER]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(confined(with_programs(), run)).unwrap().trim(), "5");
    }

    #[test]
    fn only_the_daemon_itself_can_be_signalled() {
        use rustix::process::{Signal, kill_process, kill_process_group, test_kill_process};
        let mut victim = Victim::new();
        let pid = victim.pid();
        confined(Grants::default(), move || {
            assert_eq!(kill_process(pid, Signal::KILL), Err(Errno::PERM));
            assert_eq!(kill_process_group(pid, Signal::KILL), Err(Errno::PERM));
            let [id, own] = [pid.as_raw_pid() as u64, std::process::id().into()];
            assert_eq!(errno_with(libc::SYS_tgkill, [id, id, 9]), libc::EPERM);
            assert_eq!(errno_with(libc::SYS_kill, [u64::MAX, 0, 0]), libc::EPERM, "everybody");
            assert_eq!(errno_with(libc::SYS_kill, [0, 0, 0]), libc::EPERM, "the group, in which the mount helper is");
            // As abort(3) does.
            assert_eq!(errno_with(libc::SYS_tgkill, [own, own, 0]), 0);
            test_kill_process(rustix::process::getpid()).unwrap();
        });
        assert!(victim.0.try_wait().unwrap().is_none(), "it lives");
    }

    /// fcntl(2) and ioctl(2) name a process that the kernel then signals.
    #[test]
    fn the_kernel_sends_nobody_signals_about_a_descriptor() {
        for grants in [Grants::default, with_programs] {
            confined(grants(), || {
                let (read, _write) = std::io::pipe().unwrap();
                let descriptor = u64::from(std::os::fd::AsRawFd::as_raw_fd(&read).unsigned_abs());
                for command in [libc::F_SETOWN as u64, 15, 10, libc::F_SETLEASE as u64, libc::F_NOTIFY as u64] {
                    assert_eq!(errno_with(libc::SYS_fcntl, [descriptor, command, 0]), libc::EPERM, "{command}");
                }
                for request in [0x8901, 0x8902, libc::FIOASYNC] {
                    assert_eq!(errno_with(libc::SYS_ioctl, [descriptor, request, 0]), libc::EPERM, "{request}");
                }
                rustix::io::fcntl_getfd(&read).map(drop).unwrap();
            });
        }
    }

    #[test]
    fn no_terminal_is_given_input_or_taken_over() {
        for grants in [Grants::default, with_programs] {
            confined(grants(), || {
                let keyboard_and_screen = [0x4B3A, 0x5606];
                let of_terminals = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSCTTY, libc::TIOCSETD, libc::TIOCSPGRP];
                for request in of_terminals.into_iter().chain(keyboard_and_screen) {
                    assert_eq!(errno_with(libc::SYS_ioctl, [u64::MAX, request, 0]), libc::EPERM, "{request:x}");
                }
                // Whether it is a terminal may be asked.
                assert_eq!(errno_with(libc::SYS_ioctl, [u64::MAX, libc::TCGETS, 0]), libc::EBADF);
            });
        }
    }

    #[test]
    fn no_process_and_no_namespace_is_begun() {
        // A combination that the kernel takes for an error, so that nothing is begun without the filter either.
        const WRONG: u64 = libc::CLONE_SIGHAND as u64;
        for flags in NAMESPACES.into_iter().chain([0]) {
            let begun = move || errno_with(libc::SYS_clone, [flags | WRONG, 0, 0]);
            assert_eq!(confined(Grants::default(), begun), libc::EPERM, "{flags:x}");
            let of_programs = if flags == 0 { libc::EINVAL } else { libc::EPERM };
            assert_eq!(confined(with_programs(), begun), of_programs, "{flags:x}");
        }
    }

    #[test]
    fn binding_a_socket_of_any_kind_is_refused() {
        use rustix::net::{Protocol, bind};
        use std::net::{SocketAddr, UdpSocket};
        confined(Grants::default(), || {
            for address in ["127.0.0.1:0", "[::1]:0"].map(|text| text.parse::<SocketAddr>().unwrap()) {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let of_datagrams = UdpSocket::bind(address).map(drop).unwrap_err().raw_os_error();
                assert_eq!(of_datagrams, Some(libc::EPERM), "{address}");
                let stream = socket(family, SocketType::STREAM, None).unwrap();
                assert_eq!(bind(&stream, &address), Err(Errno::PERM));
                // Datagrams can still be sent: names of hosts need DNS.
                socket(family, SocketType::DGRAM, None).unwrap();
            }
            for (protocol, kind) in [(libc::IPPROTO_MPTCP, 1), (libc::IPPROTO_SCTP, 1), (libc::IPPROTO_SCTP, 5)] {
                for family in [libc::AF_INET, libc::AF_INET6] {
                    let arguments = [family as u64, kind | libc::SOCK_CLOEXEC as u64, protocol as u64];
                    assert_eq!(errno_with(libc::SYS_socket, arguments), libc::EPERM, "{protocol} {kind}");
                }
            }
            for (kind, protocol) in [(SocketType::RAW, libc::IPPROTO_ICMP), (SocketType::DGRAM, libc::IPPROTO_ICMP)] {
                let protocol = Protocol::from_raw(std::num::NonZero::new(protocol as u32).unwrap());
                assert_eq!(socket(AddressFamily::INET, kind, Some(protocol)).map(drop), Err(Errno::PERM));
            }
            // Every kind of socket that there is no name for, with flags.
            for kind in (0..16).filter(|kind| ![1, 2].contains(kind)) {
                let arguments = [libc::AF_INET as u64, kind | libc::SOCK_NONBLOCK as u64, 0];
                assert_eq!(errno_with(libc::SYS_socket, arguments), libc::EPERM, "{kind}");
            }
        });
    }

    #[test]
    fn of_netlink_only_routes_can_be_asked_for() {
        let asked = |protocol: u64| errno_with(libc::SYS_socket, [NETLINK, libc::SOCK_RAW as u64, protocol]);
        let answers =
            confined(Grants::default(), move || (0..32).filter(|it| asked(*it) != libc::EPERM).collect::<Vec<_>>());
        assert_eq!(answers, [0_u64; 1]);
        let answers =
            confined(with_programs(), move || (0..32).filter(|it| asked(*it) != libc::EPERM).collect::<Vec<_>>());
        assert_eq!(answers, [0_u64, 15]);
    }

    #[test]
    fn the_c_library_can_list_addresses() {
        confined(Grants::default(), || {
            let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
            let address = rustix::net::netlink::SocketAddrNetlink::new(0, 0);
            rustix::net::bind(&netlink, &address).unwrap();
        });
    }

    #[test]
    fn no_filter_of_bpf_is_put_on_a_socket() {
        confined(Grants::default(), || {
            for option in [26, 50, 51, 52] {
                let arguments = [u64::MAX, libc::SOL_SOCKET as u64, option];
                assert_eq!(errno_with(libc::SYS_setsockopt, arguments), libc::EPERM, "{option}");
            }
            let other = [u64::MAX, libc::SOL_SOCKET as u64, libc::SO_KEEPALIVE as u64];
            assert_eq!(errno_with(libc::SYS_setsockopt, other), libc::EBADF);
        });
    }

    #[test]
    fn an_old_socket_finds_a_restarted_system_log() {
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
    fn renewed_tokens_of_the_sdk_are_private() {
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

    #[test]
    fn io_uring_is_refused() {
        let rings = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
        for grants in [Grants::default, with_programs] {
            assert_eq!(confined(grants(), move || rings.map(errno_of)), [libc::EPERM; 3]);
        }
    }

    /// The numbers of syscall_64.tbl in the kernel, written down a second time. A call that is removed from a list by
    /// mistake is missed here; who changes a list on purpose changes it in both places.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_lists_have_exactly_the_decided_calls() {
        const OF_ALL: [c_long; 76] = [
            29, 30, 31, 64, 65, 66, 67, 68, 69, 70, 71, 101, 103, 134, 135, 153, 154, 155, 156, 159, 161, 163, 164,
            165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 220, 227, 240, 241, 242, 243, 244, 245, 246,
            256, 272, 274, 279, 298, 300, 301, 304, 305, 308, 310, 311, 312, 313, 320, 321, 323, 425, 426, 427, 428,
            429, 430, 431, 432, 433, 438, 440, 442, 443, 448, 467,
        ];
        const OF_DAEMONS_WITHOUT_PROGRAMS: [c_long; 58] = [
            50, 57, 58, 59, 91, 92, 93, 94, 105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 129, 132, 133, 141, 142,
            144, 160, 188, 189, 190, 197, 198, 199, 200, 203, 206, 209, 235, 248, 249, 250, 251, 253, 254, 259, 260,
            261, 280, 294, 297, 303, 314, 319, 322, 424, 434, 452, 463, 466, 469,
        ];
        let sorted = |lists: [&[c_long]; 2]| {
            let mut calls = lists.concat();
            calls.sort_unstable();
            calls
        };
        assert_eq!(sorted([ALWAYS, ALWAYS_OLD]), OF_ALL);
        assert_eq!(sorted([WITHOUT_PROGRAMS, WITHOUT_PROGRAMS_OLD]), OF_DAEMONS_WITHOUT_PROGRAMS);
    }

    #[test]
    fn partly_refused_calls_have_their_own_list() {
        let without_programs = denied(&Grants::default()).unwrap();
        let with_programs = denied(&with_programs()).unwrap();
        for call in [ALWAYS, ALWAYS_OLD].concat() {
            assert!(with_programs[&call].is_empty() && without_programs[&call].is_empty(), "{call} has no condition");
        }
        for call in [libc::SYS_clone, libc::SYS_fcntl, libc::SYS_prctl, libc::SYS_ioctl, libc::SYS_socket] {
            assert!(!with_programs[&call].is_empty(), "{call} would be refused in every case");
        }
    }
}
