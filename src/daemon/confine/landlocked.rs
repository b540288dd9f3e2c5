//! Which files are left, by Landlock (landlock(7)).

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::Lack;
use super::grants::Grants;

/// The version whose rights are asked for. Older kernels give what they know; newer ones nothing that was not tried
/// here.
const VERSION: ABI = ABI::V6;

/// The first version whose protection of files has no gap (truncation came last); with less the layer counts as
/// partial.
const VERSION_WHOLE: ABI = ABI::V3;

/// Leaves this thread and those that it will start what `grants` names. Rights of descriptors that are open already
/// stay as they are.
pub(super) fn restrict(grants: &Grants) -> Result<String, Lack> {
    let status = apply(grants).map_err(|error| Lack::Refused(error.to_string()))?;
    match status {
        RulesetStatus::FullyEnforced => Ok("on".to_owned()),
        RulesetStatus::PartiallyEnforced if whole_for_files() => Ok("on".to_owned()),
        RulesetStatus::PartiallyEnforced => Err(Lack::Partial),
        RulesetStatus::NotEnforced => Err(Lack::Unsupported),
    }
}

fn apply(grants: &Grants) -> Result<RulesetStatus, RulesetError> {
    let handled = handled(grants);
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(handled)?;
    // Processes that this one starts are within the scope, so a program can end those that it has started itself.
    ruleset = ruleset.scope(Scope::Signal)?;
    if !grants.runs_programs {
        // The daemon takes no address. A program that it runs may do so, and ask services of the host by abstract
        // names.
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?.scope(Scope::AbstractUnixSocket)?;
    }
    let reading = (AccessFs::ReadFile | AccessFs::ReadDir) & handled;
    let device = (reading | AccessFs::WriteFile | AccessFs::IoctlDev) & handled;
    let mut created = ruleset.create()?;
    if !reading.is_empty() {
        created = created.add_rules(path_beneath_rules(&grants.read, reading))?;
    }
    let writing = handled & !AccessFs::Execute;
    let created = created
        .add_rules(path_beneath_rules(&grants.devices, device))?
        .add_rules(path_beneath_rules(&grants.write, writing))?;
    Ok(created.restrict_self()?.ruleset)
}

/// The daemon does not know what a program that it runs has to read and to execute. So Landlock restricts only what
/// such a program writes.
fn handled(grants: &Grants) -> BitFlags<AccessFs> {
    if grants.runs_programs { AccessFs::from_write(VERSION) } else { AccessFs::from_all(VERSION) }
}

/// Whether this kernel knows all rights over files that matter: it is asked for them without compromise.
fn whole_for_files() -> bool {
    let files = AccessFs::from_all(VERSION_WHOLE);
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(files)
        .and_then(Ruleset::create)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Since which Linux Landlock knows of addresses and of signals, as docs/SECURITY.md says.
    const BINDS_KNOWN: (u32, u32) = (6, 7);
    const SIGNALS_KNOWN: (u32, u32) = (6, 12);

    /// The version of Linux, from the system and not from Landlock. A layer that this kernel should have, but lacks,
    /// must not pass as an old kernel.
    fn kernel() -> (u32, u32) {
        let system = rustix::system::uname();
        let release = system.release().to_str().unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        numbers.next().zip(numbers.next()).expect("a release begins with two numbers")
    }

    /// What comes of a signal to another process on this kernel.
    fn signal() -> rustix::io::Result<()> {
        if kernel() < SIGNALS_KNOWN { Ok(()) } else { Err(rustix::io::Errno::PERM) }
    }

    #[test]
    fn only_what_is_granted_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let [granted, other] = ["granted", "other"].map(|name| dir.path().join(name));
        for path in [&granted, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "content").unwrap();
        }
        let grants = Grants { read: vec![PathBuf::from("/proc")], write: vec![granted.clone()], ..Grants::default() };
        let mut other_process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // Not `environ`: a process with CAP_PERFMON reads that whatever Landlock says, and this may be one (Linux
        // 6.18, mm_access).
        let memory = format!("/proc/{}/mem", other_process.id());
        assert!(fs::File::open(&memory).is_ok());
        let confined = std::thread::spawn(move || {
            restrict(&grants).unwrap();
            assert!(fs::File::open(&memory).is_err(), "other processes stay closed though /proc is granted");
            assert_eq!(fs::read_to_string(granted.join("file")).unwrap(), "content");
            fs::write(granted.join("new"), "new").unwrap();
            tempfile::tempfile_in(&granted).unwrap();
            assert!(fs::read_to_string("/proc/self/stat").is_ok());
            for denied in [fs::read(other.join("file")).err(), fs::write(other.join("new"), "x").err()] {
                assert_eq!(denied.map(|error| error.kind()), Some(std::io::ErrorKind::PermissionDenied));
            }
        });
        let outcome = confined.join();
        other_process.kill().and_then(|()| other_process.wait()).unwrap();
        outcome.unwrap();
    }

    #[test]
    fn binding_and_signalling_others_are_refused() {
        let mut other_process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = rustix::process::Pid::from_child(&other_process);
        let confined = std::thread::spawn(move || {
            restrict(&Grants::default()).unwrap();
            let bound = std::net::TcpListener::bind("127.0.0.1:0").map(drop).map_err(|error| error.kind());
            (bound, rustix::process::test_kill_process(other))
        });
        let outcome = confined.join();
        other_process.kill().and_then(|()| other_process.wait()).unwrap();
        let bound = if kernel() < BINDS_KNOWN { Ok(()) } else { Err(std::io::ErrorKind::PermissionDenied) };
        assert_eq!(outcome.unwrap(), (bound, signal()));
    }

    #[test]
    fn a_program_signals_only_its_own_children() {
        let mut other_process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = rustix::process::Pid::from_child(&other_process);
        let confined = std::thread::spawn(move || {
            restrict(&Grants { runs_programs: true, ..Grants::default() }).unwrap();
            let mut own = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            own.kill().and_then(|()| own.wait()).unwrap();
            rustix::process::test_kill_process(other)
        });
        let outcome = confined.join();
        other_process.kill().and_then(|()| other_process.wait()).unwrap();
        assert_eq!(outcome.unwrap(), signal());
    }

    #[test]
    fn a_program_reads_everything_and_writes_little() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "content").unwrap();
        let confined = std::thread::spawn(move || {
            restrict(&Grants { runs_programs: true, ..Grants::default() }).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "content");
            assert!(fs::write(&path, "changed").is_err());
        });
        confined.join().unwrap();
    }
}
