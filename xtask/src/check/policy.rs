//! Source policies that no lint knows: file length, where `unsafe` may stand, no paths of one machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::rust_text::{code_only, has_word};
use crate::context::Context;

/// One concern a file; a longer one is listed in `LONG_FILES` with the reason.
const MAX_LINES: usize = 500;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// The only folders with `unsafe` (design, section 8).
const UNSAFE_FOLDERS: [&str; 3] = ["dataplane/xsk", "dataplane/shm", "ebpf"];

/// First components of paths that exist on one machine only.
const MACHINE_ROOTS: [&str; 3] = ["home", "root", "work"];

pub(super) fn run(context: &Context, files: &[PathBuf]) -> Result<()> {
    let mut findings = Vec::new();
    for file in files {
        // What is not text is none of these policies' business.
        let Ok(text) = fs::read_to_string(context.root.join(file)) else {
            continue;
        };
        findings.extend(too_long(file, &text));
        findings.extend(misplaced_unsafe(file, &text));
        findings.extend(missing_forbid(file, &text));
        findings.extend(machine_paths(file, &text));
    }
    for (listed, _) in LONG_FILES {
        if !files.iter().any(|file| file == Path::new(listed)) {
            findings.push(format!("{listed}: in LONG_FILES, but does not exist"));
        }
    }
    if findings.is_empty() {
        eprintln!("{} files: length, unsafe, machine paths in order", files.len());
        return Ok(());
    }
    bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

fn too_long(file: &Path, text: &str) -> Option<String> {
    let counted = matches!(extension(file), "rs" | "md" | "sh" | "py" | "toml");
    let lines = text.lines().count();
    let listed = LONG_FILES.iter().any(|(name, _)| file == Path::new(name));
    match (counted && lines > MAX_LINES, listed) {
        (true, false) => Some(format!("{}: {lines} lines, more than {MAX_LINES}: split it", file.display())),
        (false, true) => Some(format!("{}: in LONG_FILES, but has only {lines} lines", file.display())),
        _ => None,
    }
}

fn misplaced_unsafe(file: &Path, text: &str) -> Vec<String> {
    if extension(file) != "rs" || UNSAFE_FOLDERS.iter().any(|folder| file.starts_with(folder)) {
        return Vec::new();
    }
    let code = code_only(text);
    let lines = code.lines().enumerate().filter(|(_, line)| has_word(line, concat!("un", "safe")));
    lines
        .map(|(index, _)| format!("{}:{}: unsafe outside {}", file.display(), index + 1, UNSAFE_FOLDERS.join(", ")))
        .collect()
}

/// Crate roots outside those folders say so to the compiler, which no textual search can replace.
fn missing_forbid(file: &Path, text: &str) -> Option<String> {
    let is_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    let exempt = UNSAFE_FOLDERS.iter().any(|folder| file.starts_with(folder));
    (is_root && !exempt && !code_only(text).contains("#![forbid(unsafe_code)]"))
        .then(|| format!("{}: crate root without #![forbid(unsafe_code)]", file.display()))
}

/// Fenced code in Markdown may show what a person's terminal shows.
fn machine_paths(file: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if extension(file) == "md" && line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        if let Some(root) = MACHINE_ROOTS.iter().find(|root| has_path_under(line, root)) {
            findings.push(format!("{}:{}: a path below /{root}, which is one machine's", file.display(), index + 1));
        }
    }
    findings
}

/// A machine's folder at the start of a path, not in the middle of one (`target/…`).
fn has_path_under(line: &str, root: &str) -> bool {
    let needle = format!("/{root}/");
    line.match_indices(&needle).any(|(at, _)| {
        !line[..at]
            .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '*' | '~' | '>' | ')'))
    })
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found() {
        let text = "x\n".repeat(MAX_LINES);
        assert!(too_long(Path::new("a.rs"), &text).is_none());
        assert!(too_long(Path::new("a.rs"), &format!("{text}x\n")).is_some());
        assert!(too_long(Path::new("a.lock"), &format!("{text}x\n")).is_none());
    }

    #[test]
    fn the_keyword_is_found_in_code_only_and_only_outside_its_folders() {
        let keyword = concat!("un", "safe");
        let text = format!("// {keyword}\nlet s = \"{keyword}\";\n{keyword} {{ }}\n");
        assert_eq!(misplaced_unsafe(Path::new("control/src/a.rs"), &text).len(), 1);
        assert!(misplaced_unsafe(Path::new("control/src/a.rs"), &text)[0].contains("a.rs:3"));
        assert!(misplaced_unsafe(Path::new("dataplane/xsk/src/a.rs"), &text).is_empty());
        assert!(missing_forbid(Path::new("control/src/main.rs"), &text).is_some());
        assert!(missing_forbid(Path::new("control/src/main.rs"), "#![forbid(unsafe_code)]").is_none());
    }

    #[test]
    fn machine_paths_are_found_outside_fences() {
        let path = format!("/{}/me/x", "home");
        assert_eq!(machine_paths(Path::new("a.rs"), &format!("let p = \"{path}\";")).len(), 1);
        assert!(machine_paths(Path::new("a.md"), &format!("```\n$ ls {path}\n```\n")).is_empty());
        assert_eq!(machine_paths(Path::new("a.md"), &format!("see {path}\n")).len(), 1);
        assert!(machine_paths(Path::new("a.rs"), &format!("target{path}")).is_empty());
    }
}
