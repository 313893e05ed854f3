//! Calls of other programs: `apt-get`, `dpkg-deb`, `xz`, `zstd`, `ldd`, `sha256sum`. One place, so that every failure names the
//! command and shows what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command and returns its standard output.
///
/// # Errors
/// If it cannot be started or ends with another code than 0; the message holds the command and its standard error.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}; is the program installed?"))?;
    if !out.status.success() {
        bail!("{shown} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

/// Runs a command and returns its standard output as text.
///
/// # Errors
/// As [`output`]; text that is not UTF-8 is replaced, not refused.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Finds a program in `PATH` and the system's own folders (`/usr/sbin` is not in an ordinary user's `PATH`).
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If `sha256sum` fails.
pub fn sha256(file: &Path) -> Result<String> {
    let said = text(Command::new("sha256sum").arg("--binary").arg(file))?;
    // A leading backslash marks an escaped file name; it is not part of the sum.
    let sum = said.trim_start_matches('\\').split_whitespace().next().unwrap_or_default();
    Ok(sum.to_owned())
}

/// The shared libraries that a program needs, as `ldd` resolves them here; empty for a static one.
///
/// # Errors
/// If `ldd` cannot be started, or a library is missing on this machine.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd").arg(program).stdin(Stdio::null()).output().context("cannot start ldd")?;
    if !out.status.success() {
        // `ldd` answers "not a dynamic executable" with code 1.
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        if line.contains("=> not found") {
            bail!("{} needs a library that is not here: {}", program.display(), line.trim());
        }
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`; the vdso has no path.
        found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_command_and_reason() {
        let said = output(Command::new("ls").arg("/nonexistent-florelay")).unwrap_err().to_string();
        assert!(said.contains("\"ls\"") && said.contains("nonexistent-florelay"), "{said}");
    }

    #[test]
    fn a_dynamic_program_names_its_loader_and_libc() {
        let libraries = libraries(&std::env::current_exe().unwrap()).unwrap();
        let has = |part: &str| libraries.iter().any(|path| path.to_string_lossy().contains(part));
        assert!(has("ld-linux") && has("libc.so"), "{libraries:?}");
    }
}
