//! What is said about a configuration that is refused: file, line, column, key, what is wrong and what to do.
//!
//! Diagnostics are collected, not thrown: a reader of the configuration records one and goes on, so that a person
//! sees everything that is wrong at once. Positions are byte offsets until they are recorded; [`Source`] makes lines of them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::printable::printable;

/// One reason why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The configuration file.
    pub file: PathBuf,
    /// From 1; 0 when the file could not be read at all.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, e.g. `link[to-relay].rate`; empty for the document itself.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file.to_string_lossy()))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", printable(&self.key))?;
        }
        write!(f, ": {}\n    hint: {}", printable(&self.message), printable(&self.hint))
    }
}

/// All reasons, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<Diagnostic>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        let n = self.0.len();
        write!(f, "configuration refused: {n} {}", if n == 1 { "error" } else { "errors" })
    }
}

impl std::error::Error for Refusal {}

/// A configuration text while it is read, with what was found wrong so far.
#[derive(Debug)]
pub(super) struct Source<'t> {
    path: &'t Path,
    text: &'t str,
    found: Vec<(usize, Diagnostic)>,
    warnings: Vec<Diagnostic>,
}

impl<'t> Source<'t> {
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, found: Vec::new(), warnings: Vec::new() }
    }

    /// The configuration file.
    pub(super) fn path(&self) -> &'t Path {
        self.path
    }

    /// Records one error at a byte range of the text.
    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let diagnostic = self.diagnostic(span, key.into(), message.into(), hint.into());
        self.found.push((span.start, diagnostic));
    }

    /// Records something doubtful, which does not refuse the configuration.
    pub(super) fn warn(
        &mut self,
        span: &Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let diagnostic = self.diagnostic(span, key.into(), message.into(), hint.into());
        self.warnings.push(diagnostic);
    }

    /// What was found in another file, which is named at this place.
    pub(super) fn absorb(&mut self, span: &Range<usize>, mut other: Source<'_>) {
        other.found.sort_by_key(|(at, _)| *at);
        self.found.extend(other.found.into_iter().map(|(_, diagnostic)| (span.start, diagnostic)));
        self.warnings.extend(other.warnings);
    }

    /// Everything doubtful.
    pub(super) fn into_warnings(self) -> Vec<Diagnostic> {
        self.warnings
    }

    fn diagnostic(&self, span: &Range<usize>, key: String, message: String, hint: String) -> Diagnostic {
        let (line, column) = self.position(span.start);
        Diagnostic { file: self.path.to_owned(), line, column, key, message, hint }
    }

    /// Whether anything was recorded.
    pub(super) fn has_errors(&self) -> bool {
        !self.found.is_empty()
    }

    /// Everything found wrong, in the order of the file.
    pub(super) fn refuse<T>(mut self) -> Result<T, Refusal> {
        self.found.sort_by_key(|(at, _)| *at);
        Err(Refusal(self.found.into_iter().map(|(_, d)| d).collect()))
    }

    /// Line and column of a byte offset, from 1.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The candidate that a person probably meant, if one is near.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word.to_lowercase(), &c.to_lowercase()), c))
        // A third of the letters may differ: "lokal" is local, "rate" is not name.
        .filter(|(distance, c)| *distance <= (c.chars().count().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// A hint that names the near candidate, or all of them.
pub(super) fn did_you_mean(word: &str, what: &str, candidates: &[&str]) -> String {
    match (nearest(word, candidates.iter().copied()), candidates) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, []) => format!("no {what} is defined"),
        (None, all) => format!("one of: {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source::new(Path::new("f"), "a = 1\nö = \"ä\" x\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(source.text.find('x').unwrap()), (2, 9));
        assert_eq!(source.position(usize::MAX), (3, 1));
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let mut source = Source::new(Path::new("f\u{1b}[2J"), "");
        source.error(&(0..0), "link[\u{1b}[31m]", "there is no link \"\u{7}\nx\"", "one of: \r");
        let refusal = source.refuse::<()>().unwrap_err();
        let shown = refusal.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert_eq!(shown.lines().count(), 3, "{shown:?}");
        // Programs get what was really there.
        assert!(refusal.0[0].key.contains('\u{1b}'));
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("adaptor", ["adapter", "local"]), Some("adapter"));
        assert_eq!(nearest("Inbox", ["inbox", "key"]), Some("inbox"));
        assert_eq!(nearest("highest_rung", ["highest-rung"]), Some("highest-rung"));
        assert_eq!(nearest("zzz", ["rate", "mtu"]), None);
    }
}
