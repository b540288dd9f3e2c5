//! The process that works on a move, and whether it is still alive.

use std::fs;

use serde::{Deserialize, Serialize};

/// One process of one host: no other process, before or after it, has the same values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    /// The host's name.
    host: String,
    /// The installed system (machine-id(5)): where it and the name are the same, another boot is one after which
    /// nothing runs any more. The name has to be as well, because systems made from one image may have one id. Older
    /// journals do not have it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    machine: String,
    /// The running system (boot_id, random(4)).
    boot: String,
    /// The namespace of process numbers (pid_namespaces(7)): the same number means another process in another
    /// container.
    numbering: String,
    /// The process's number.
    process: u32,
    /// When it started, in ticks since the boot (proc_pid_stat(5), field 22): numbers are given out again.
    started: u64,
}

impl Owner {
    /// This process. A field that the system does not give is empty, and then no mount can prove that the owner is
    /// gone.
    pub(super) fn this() -> Owner {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let process = std::process::id();
        Owner {
            host: read("/proc/sys/kernel/hostname"),
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            numbering: numbering(),
            process,
            started: started(process).unwrap_or_default(),
        }
    }

    /// Whether it is proved that the process does not run any more: only for one of this very system, or of this
    /// machine before it was booted.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone_by(&Owner::this())
    }

    fn is_gone_by(&self, this: &Owner) -> bool {
        if self.boot.is_empty() || this.boot.is_empty() {
            return false;
        }
        if self.boot != this.boot {
            return !self.machine.is_empty() && (&self.machine, &self.host) == (&this.machine, &this.host);
        }
        let known = !self.numbering.is_empty() && self.started > 0;
        known && self.numbering == this.numbering && started(self.process) != Some(self.started)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

fn numbering() -> String {
    let link = fs::read_link("/proc/self/ns/pid").ok();
    link.and_then(|link| link.into_os_string().into_string().ok()).unwrap_or_default()
}

/// None when there is no such process.
fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have anything in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    // One that has ended and was not waited for works no more.
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_is_not_gone_and_one_that_has_ended_is() {
        let this = Owner::this();
        assert!(!this.is_gone());
        assert!(this.started > 0 && !this.host().is_empty());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let started = started(child.id());
        child.wait().unwrap();
        let ended = Owner { process: child.id(), started: started.unwrap_or(1), ..this };
        assert!(ended.is_gone());
    }

    #[test]
    fn nothing_is_proved_of_a_process_elsewhere() {
        let this = Owner { host: "h".into(), machine: "m".into(), ..Owner::this() };
        let gone = Owner { process: u32::MAX, ..this.clone() };
        assert!(gone.is_gone_by(&this));
        assert!(!Owner { numbering: "pid:[1]".into(), ..gone.clone() }.is_gone_by(&this));
        assert!(!Owner { numbering: String::new(), ..gone.clone() }.is_gone_by(&this));
        assert!(!Owner { boot: "another".into(), machine: "n".into(), ..gone.clone() }.is_gone_by(&this));
        assert!(!Owner { boot: "another".into(), host: "i".into(), ..gone.clone() }.is_gone_by(&this));
        assert!(!Owner { boot: "another".into(), machine: String::new(), ..gone.clone() }.is_gone_by(&this));
        assert!(!Owner { boot: String::new(), ..gone }.is_gone_by(&this));
        let nameless = Owner { machine: String::new(), ..this };
        assert!(!Owner { boot: "another".into(), ..nameless.clone() }.is_gone_by(&nameless));
    }

    #[test]
    fn a_process_from_before_the_last_boot_is_gone() {
        let this = Owner { host: "h".into(), machine: "m".into(), ..Owner::this() };
        assert!(Owner { boot: "before".into(), ..this.clone() }.is_gone_by(&this));
        assert!(Owner { boot: "before".into(), numbering: "pid:[1]".into(), ..this.clone() }.is_gone_by(&this));
    }
}
