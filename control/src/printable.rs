//! Text from outside on its way to a terminal: a name in a configuration, a path, or what a peer sent must not move the
//! cursor or change colours.

/// One line: `?` for every control character, line ends included.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Several lines: as [`printable`], but they stay lines.
#[must_use]
pub(crate) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_question_marks() {
        assert_eq!(printable("a\u{1b}[31m\r\tb\u{9b}\nä"), "a?[31m??b??ä");
        assert_eq!(printable_lines("a\r\n\u{7}b\n"), "a?\n?b\n");
    }
}
