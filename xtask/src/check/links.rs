//! Relative links in Markdown lead somewhere, anchors included, and the book's summary names every chapter.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::context::Context;

pub(super) fn run(context: &Context, files: &[PathBuf]) -> Result<()> {
    let mut pages = HashMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        pages.insert(file.clone(), fs::read_to_string(context.root.join(file))?);
    }
    let mut findings = Vec::new();
    let mut count = 0;
    let mut names: Vec<&PathBuf> = pages.keys().collect();
    names.sort();
    for file in names {
        for (line, target) in links(&pages[file]) {
            count += 1;
            if let Some(problem) = broken(context, file, &target, &pages) {
                findings.push(format!("{}:{line}: {target}: {problem}", file.display()));
            }
        }
    }
    findings.extend(not_in_summary(&pages));
    if findings.is_empty() {
        eprintln!("{} pages, {count} links in order", pages.len());
        return Ok(());
    }
    bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

fn broken(context: &Context, from: &Path, target: &str, pages: &HashMap<PathBuf, String>) -> Option<String> {
    // Other sites are not asked: the check works without a network.
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file =
        if path.is_empty() { from.to_path_buf() } else { normal(&from.parent().unwrap_or(Path::new("")).join(path)) };
    if !context.root.join(&file).exists() {
        return Some(format!("{} does not exist", file.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = pages.get(&file)?;
    (!headings(text).iter().any(|heading| heading == anchor)).then(|| format!("no heading #{anchor}"))
}

fn not_in_summary(pages: &HashMap<PathBuf, String>) -> Vec<String> {
    let folder = Path::new("docs/src");
    let Some(summary) = pages.get(&folder.join("SUMMARY.md")) else {
        return vec!["docs/src/SUMMARY.md is missing".to_owned()];
    };
    let listed: Vec<PathBuf> = links(summary).into_iter().map(|(_, target)| normal(&folder.join(target))).collect();
    let mut lost: Vec<String> = pages
        .keys()
        .filter(|page| page.starts_with(folder) && !page.ends_with("SUMMARY.md") && !listed.contains(page))
        .map(|page| format!("{}: not in SUMMARY.md, so not in the book", page.display()))
        .collect();
    lost.sort();
    lost
}

/// `[text](target)` outside code, with line numbers from 1.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in prose(text) {
        let mut in_code = false;
        let mut rest = line;
        while let Some(at) = rest.find(['`', ']']) {
            let mark = rest.as_bytes()[at];
            rest = &rest[at + 1..];
            if mark == b'`' {
                in_code = !in_code;
            } else if let Some(target) = rest.strip_prefix('(').filter(|_| !in_code)
                && let Some(end) = target.find(')')
            {
                let target = target[..end].split(' ').next().unwrap_or_default();
                found.push((index + 1, target.to_owned()));
                rest = &rest[end + 1..];
            }
        }
    }
    found
}

/// Anchors as mdBook and the usual viewers make them.
fn headings(text: &str) -> Vec<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| line.trim_start_matches('#').trim())
        .map(|title| {
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
                .collect()
        })
        .collect()
}

/// Lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Without `.` and `..`; the files may not exist, so the file system is not asked.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_only() {
        let text = "See [a](b.md#c \"title\") and `[x](y)`, [d](e).\n```\n[f](g)\n```\n[h](i)\n";
        assert_eq!(links(text), [(1, "b.md#c".to_owned()), (1, "e".to_owned()), (5, "i".to_owned())]);
    }

    #[test]
    fn headings_become_anchors() {
        assert_eq!(headings("# The *rung* ladder, 2\n```\n# no\n```\n"), ["the-rung-ladder-2"]);
    }

    #[test]
    fn paths_are_normalised() {
        assert_eq!(normal(Path::new("docs/src/../decisions/./a.md")), Path::new("docs/decisions/a.md"));
    }
}
