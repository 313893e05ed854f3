//! Just enough of Rust's lexical structure to tell code from comments and literals.

/// The code of a Rust file: comments and the insides of string and character literals become spaces, lines stay.
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => char_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            // A byte of code. Multi-byte characters outside literals are identifiers at most; one space each will do.
            code.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { ' ' });
            at += 1;
        } else {
            for &byte in &bytes[at..end] {
                code.push(if byte == b'\n' { '\n' } else { ' ' });
            }
            at = end;
        }
    }
    code
}

/// Does `word` occur as a whole word?
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    bytes[from..].windows(needle.len()).position(|window| window == needle).map(|at| from + at)
}

/// Block comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`; `None` for an identifier that begins with r, or a raw identifier.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|&&b| b == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    Some(find(bytes, open + 1, &close).map_or(bytes.len(), |at| at + close.len()))
}

/// A character literal's end; `None` for a lifetime.
fn char_end(bytes: &[u8], start: usize) -> Option<usize> {
    let first = *bytes.get(start + 1)?;
    if first == b'\\' {
        return find(bytes, start + 3, b"'").map(|at| at + 1);
    }
    let length = match first {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (bytes.get(start + 1 + length) == Some(&b'\'')).then_some(start + length + 2)
}

/// Is the byte before part of an identifier? `br"…"` is a literal all the same.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else {
        return false;
    };
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let byte_string = bytes[before] == b'b' && before.checked_sub(1).is_none_or(|more| !is_word(bytes[more]));
    is_word(bytes[before]) && !byte_string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let source = "let a = \"x \\\" secret\"; // secret\n/* secret /* secret */ secret\n*/ let b = 'c';\n\
                      let c = r#\"secret \" \"#; let d = br\"secret\"; fn f<'a>(x: &'a str) { '\\'' } // é\ncode(\"é\")";
        let code = code_only(source);
        assert!(!code.contains("secret"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(code.contains("fn f<'a>(x: &'a str) {"), "{code}");
        assert!(code.ends_with(')'), "{code}");
    }

    #[test]
    fn a_word_is_not_a_part_of_one() {
        assert!(has_word("x = word {", "word"));
        assert!(!has_word("#![forbid(word_code)]", "word"));
        assert!(!has_word("sword", "word"));
    }
}
