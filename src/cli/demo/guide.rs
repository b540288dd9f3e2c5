//! Shows commands and what they print, and keeps the score.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most lines of a command's output that are shown.
const LINES_MAX: usize = 24;

/// Explains each step of the tour.
pub(super) struct Guide {
    home: PathBuf,
    interrupted: Arc<AtomicBool>,
    true_steps: usize,
    untrue_steps: usize,
}

/// What a command said.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) success: bool,
}

impl Guide {
    pub(super) fn new(home: &Path, interrupted: Arc<AtomicBool>) -> Guide {
        Guide { home: home.to_owned(), interrupted, true_steps: 0, untrue_steps: 0 }
    }

    /// Whether the tour goes on.
    pub(super) fn goes_on(&self) -> bool {
        !self.interrupted.load(Ordering::Relaxed)
    }

    /// Opens a chapter.
    pub(super) fn chapter(&self, title: &str) {
        println!("\n== {title}");
    }

    /// Says something.
    pub(super) fn say(&self, text: &str) {
        text.lines().for_each(|line| println!("   {line}"));
    }

    /// Shows a command line, runs it in the mount by `sh`, and shows what it prints.
    pub(super) fn shell(&self, line: &str) -> Said {
        println!("$ {line}");
        let output = Command::new("sh").args(["-c", line]).current_dir(&self.home).env("LC_ALL", "C").output();
        let said = match output {
            Ok(output) => Said::of(&output),
            Err(error) => Said { text: error.to_string(), success: false },
        };
        self.show(&said.text);
        said
    }

    /// Keeps the score, and shows it.
    pub(super) fn check(&mut self, claim: &str, holds: bool) {
        let (word, score) = if holds { ("ok", &mut self.true_steps) } else { ("FAILED", &mut self.untrue_steps) };
        *score += 1;
        println!("   {word}: {claim}");
    }

    /// Gives the number of claims that did not hold. An interrupted tour proves nothing, so that counts as one.
    pub(super) fn conclude(&self) -> usize {
        if !self.goes_on() {
            println!("\nThe tour was interrupted after {} steps.", self.true_steps + self.untrue_steps);
            return self.untrue_steps + 1;
        }
        match self.untrue_steps {
            0 => println!("\nAll {} steps were true.", self.true_steps),
            untrue => println!("\nFAILED: {untrue} of {} steps were not true.", untrue + self.true_steps),
        }
        self.untrue_steps
    }

    fn show(&self, text: &str) {
        let lines = text.lines().count();
        self.say(&text.lines().take(LINES_MAX).collect::<Vec<_>>().join("\n"));
        if lines > LINES_MAX {
            println!("   ... and {} lines more", lines - LINES_MAX);
        }
    }
}

impl Said {
    fn of(output: &Output) -> Said {
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        Said { text: String::from_utf8_lossy(&text).into_owned(), success: output.status.success() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guide(interrupted: bool) -> Guide {
        Guide::new(Path::new("/"), Arc::new(AtomicBool::new(interrupted)))
    }

    #[test]
    fn a_claim_that_does_not_hold_is_counted() {
        let mut guide = guide(false);
        guide.check("one is one", true);
        assert_eq!(guide.conclude(), 0);
        guide.check("one is two", false);
        assert_eq!(guide.conclude(), 1);
    }

    #[test]
    fn an_interrupted_tour_is_not_a_success() {
        assert_eq!(guide(true).conclude(), 1);
    }

    #[test]
    fn a_failed_command_in_the_mount_is_seen() {
        let said = guide(false).shell("pwd");
        assert!(said.success && said.text == "/\n", "{}", said.text);
        assert!(!guide(false).shell("exit 3").success);
    }
}
