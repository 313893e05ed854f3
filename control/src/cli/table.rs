//! Tables for people: columns as wide as what is in them, but for names, which are cut to what the terminal has room for.
//!
//! A name may have 255 bytes, and comes from a peer. It is cut in its middle, because names often begin alike and end in what
//! tells them apart. Whole names are in JSON.

use std::io::IsTerminal as _;

use crate::printable::printable;

/// Between two columns.
const GAP: usize = 2;
/// No name is cut shorter.
const SHORTEST: usize = 12;
/// A name's longest where there is no terminal, as in a file of logs.
const LONGEST: usize = 64;

/// Columns of the terminal that standard output is; `None` if it is none.
pub(super) fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    // 0: a serial line that does not say.
    rustix::termios::tcgetwinsize(stdout).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Left-aligned columns of these rows, the first of them the header. `names`: the columns that may be cut, so that a line
/// has at most `columns` characters.
pub(super) fn table(rows: &[Vec<String>], names: &[usize], columns: Option<usize>) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let widest =
        |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let mut widths: Vec<_> = (0..count).map(widest).collect();
    for name in names {
        widths[*name] = widths[*name].min(LONGEST);
    }
    if let Some(columns) = columns {
        let mut excess = (widths.iter().sum::<usize>() + GAP * count.saturating_sub(1)).saturating_sub(columns);
        while excess > 0 {
            // The widest first, so that a short name beside a long one stays whole.
            let Some(name) = names.iter().copied().filter(|n| widths[*n] > SHORTEST).max_by_key(|n| widths[*n]) else {
                break;
            };
            widths[name] -= 1;
            excess -= 1;
        }
    }
    rows.iter().fold(String::new(), |mut text, row| {
        let line: String =
            row.iter().zip(&widths).map(|(cell, w)| format!("{:w$}  ", printable(&cut(cell, *w)))).collect();
        text.push_str(line.trim_end());
        text.push('\n');
        text
    })
}

/// At most `most` characters of a name: its beginning and its end.
pub(super) fn cut(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        return name.to_owned();
    }
    let kept = most.saturating_sub(1);
    let (front, back) = (kept.div_ceil(2), kept / 2);
    name.chars().take(front).chain(['…']).chain(name.chars().skip(count - back)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 3]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect()
    }

    #[test]
    fn names_are_cut_to_the_terminal_and_nothing_else_is() {
        let long = "ä".repeat(300) + ".tar.gz";
        let rows = rows(&[["ID", "NAME", "STATE"], ["0123456789", &long, "running"], ["0123456789", "b", "done"]]);
        for columns in [40, 60, 80] {
            let text = table(&rows, &[1], Some(columns));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert_eq!(widest, columns, "{text}");
            assert!(text.contains("….tar.gz") || text.contains("….gz") || text.contains("ä.tar.gz"), "{text}");
            assert!(text.contains("0123456789  ä") && text.contains("  running\n"), "{text}");
        }
        // Too narrow: a name that says nothing helps nobody.
        assert!(table(&rows, &[1], Some(10)).contains("ääääää…ar.gz"));
        let without = table(&rows, &[1], None);
        assert_eq!(without.lines().nth(1).unwrap().chars().count(), 10 + 2 + LONGEST + 2 + 7);
        assert_eq!(table(&rows, &[], Some(10)).lines().nth(1).unwrap().chars().count(), 10 + 2 + 307 + 2 + 7);
    }

    #[test]
    fn the_longer_of_two_names_is_cut() {
        let rows = rows(&[["PEER", "NAME", "STATE"], ["station-b", &"x".repeat(100), "done"]]);
        let text = table(&rows, &[0, 1], Some(50));
        assert!(text.contains("station-b  xxx"), "{text}");
    }

    #[test]
    fn cutting_keeps_both_ends() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcdef", 4), "ab…f");
        assert_eq!(cut("abcdef", 1), "…");
        assert_eq!(cut("abcdef", 0), "…");
    }
}
