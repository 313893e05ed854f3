//! What a guest says, read line by line: facts for the report, and the verdict.
//!
//! Words a line may begin with: `ok NAME` · `FAIL NAME: why` · `skip NAME: why` · `figure NAME VALUE` · `vm-guest end CODE …`.
//! Anything else is only shown. A pass needs the end marker with code 0, QEMU's exit code for "passed", at least one `ok`, no `FAIL`, and a
//! console free of what a kernel says when it dies.

use serde::Serialize;

/// QEMU's exit code when the guest wrote 16 to the debug port: `(16 << 1) | 1`.
pub const EXIT_PASSED: i32 = 33;
/// QEMU's exit code when the guest wrote 17.
pub const EXIT_FAILED: i32 = 35;

/// What a dying or damaged kernel prints. Matched anywhere in a line, since a time stamp may come first.
const DEATH: &[&str] = &[
    "Kernel panic",
    "Oops",
    "BUG: ",
    "kernel BUG at",
    "general protection fault",
    "Unable to mount root",
    "detected stall",
];

/// What a console said so far.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Console {
    /// Names after `ok`.
    pub passed: Vec<String>,
    /// What followed `FAIL`.
    pub failed: Vec<String>,
    /// What followed `skip`.
    pub skipped: Vec<String>,
    /// `(name, value)` after `figure`.
    pub figures: Vec<(String, String)>,
    /// First line that a dying kernel printed.
    pub death: Option<String>,
    /// The code in the end marker.
    pub end: Option<i32>,
    /// Seconds from the guest kernel's start to its init.
    pub boot_s: Option<f64>,
}

impl Console {
    /// Reads one line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim();
        if self.death.is_none() && DEATH.iter().any(|words| line.contains(words)) {
            self.death = Some(line.to_owned());
        }
        let Some((word, rest)) = line.split_once(' ') else {
            return;
        };
        let rest = rest.trim();
        match word {
            "ok" => self.passed.push(rest.to_owned()),
            "FAIL" => self.failed.push(rest.to_owned()),
            "skip" => self.skipped.push(rest.to_owned()),
            "figure" => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                self.figures.push((name.to_owned(), value.to_owned()));
            }
            "vm-guest" => self.guest(rest),
            _ => {}
        }
    }

    fn guest(&mut self, rest: &str) {
        let mut words = rest.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("end"), Some(code), _) => self.end = code.parse().ok(),
            (Some(_release), Some("up"), Some(seconds)) => self.boot_s = seconds.parse().ok(),
            _ => {}
        }
    }

    /// Why this run did not pass; `None` = it passed.
    #[must_use]
    pub fn objection(&self, exit_code: Option<i32>) -> Option<String> {
        if let Some(line) = &self.death {
            return Some(format!("the kernel died: {line}"));
        }
        if let Some(failed) = self.failed.first() {
            return Some(format!("{} checks failed, first: {failed}", self.failed.len()));
        }
        match self.end {
            None => return Some("the guest ended without its end marker".to_owned()),
            Some(0) => {}
            Some(code) => return Some(format!("the test script ended with {code}")),
        }
        if exit_code != Some(EXIT_PASSED) {
            return Some(format!("QEMU ended with {exit_code:?}, not {EXIT_PASSED}"));
        }
        if self.passed.is_empty() && self.skipped.is_empty() {
            return Some("nothing was checked".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        for line in lines {
            console.line(line);
        }
        console
    }

    #[test]
    fn a_pass_needs_all_its_signs() {
        let good = read(&["vm-guest 6.18 up 1.5", "ok boot", "figure x 1 2", "vm-guest end 0 uptime 2"]);
        assert_eq!(good.objection(Some(EXIT_PASSED)), None);
        assert_eq!(good.figures, [("x".to_owned(), "1 2".to_owned())]);
        assert_eq!(good.boot_s, Some(1.5));
        // QEMU ends with 0 when a guest panics or powers off by itself.
        assert!(good.objection(Some(0)).is_some());
        assert!(good.objection(None).is_some());
    }

    #[test]
    fn each_fault_is_an_objection() {
        let end = "vm-guest end 0 uptime 2";
        for (lines, part) in [
            (vec!["ok a"], "end marker"),
            (vec![end], "nothing"),
            (vec!["ok a", "FAIL b: why", end], "b: why"),
            (vec!["ok a", "vm-guest end 1 uptime 2"], "ended with 1"),
            (vec!["ok a", "[    3.1] Kernel panic - not syncing: sysrq", end], "panic"),
            (vec!["ok a", "[    3.1] BUG: kernel NULL pointer dereference", end], "NULL"),
        ] {
            let said = read(&lines).objection(Some(EXIT_PASSED)).unwrap_or_default();
            assert!(said.contains(part), "{lines:?}: {said}");
        }
    }
}
