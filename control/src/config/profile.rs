//! Profiles of the link emulator: what a link does to traffic in either direction.
//!
//! The same closed schema and the same errors as a node's configuration; the keys of a direction are those of a `sim` link.

use std::path::Path;

use florelay_impair::{CorruptMode, LinkModel};

use super::diagnostic::Source;
use super::read::{Table, integer, string};
use super::{Refusal, impair, parse, read_text, version};

/// A link between two interfaces, called left and right.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Short name.
    pub name: String,
    /// What it stands for.
    pub about: String,
    /// Of the random numbers of both directions.
    pub seed: u64,
    /// What comes from the left.
    pub left_to_right: LinkModel,
    /// What comes from the right.
    pub right_to_left: LinkModel,
}

/// Reads and checks a profile.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Profile, Refusal> {
    compile(path, &read_text(path)?)
}

/// Compiles a profile's text. `path` is where it came from.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(path: &Path, text: &str) -> Result<Profile, Refusal> {
    let mut source = Source::new(path, text);
    let Some(document) = parse(&mut source, text) else { return source.refuse() };
    let mut root = Table::new(document.get_ref(), 0..0, "");
    version(&mut source, &mut root);
    let name = root.required(&mut source, "name", "\"geo-small\"", string);
    let about = root.optional(&mut source, "about", string).map(|f| f.value).unwrap_or_default();
    let seed = root.optional(&mut source, "seed", integer(0..=i64::MAX as u64)).map_or(0, |f| f.value);
    let mut direction = |source: &mut Source<'_>, name| {
        let mut table = root.table(source, name)?;
        let model = impair::read(source, &mut table, CorruptMode::Deliver);
        let span = table.span.clone();
        table.close(source);
        Some((model, span))
    };
    let both = direction(&mut source, "both");
    let there = direction(&mut source, "left-to-right");
    let back = direction(&mut source, "right-to-left");
    root.close(&mut source);
    let models = match (both, there, back) {
        (Some((both, _)), None, None) => Some((both.clone(), both)),
        (None, Some((there, _)), Some((back, _))) => Some((there, back)),
        (Some(_), Some((_, span)), _) | (Some(_), None, Some((_, span))) => {
            source.error(&span, "both", "[both] says it for this direction already", "remove one of them");
            None
        }
        (None, there, _) => {
            let missing = if there.is_some() { "right-to-left" } else { "left-to-right" };
            if !source.has_errors() {
                let message = format!("section [{missing}] is missing");
                let hint = "an empty one is a perfect link; [both] stands for the two directions";
                source.error(&(0..0), missing, message, hint);
            }
            None
        }
    };
    match (name, models) {
        (Some(name), Some((left_to_right, right_to_left))) if !source.has_errors() => {
            Ok(Profile { name: name.value, about, seed, left_to_right, right_to_left })
        }
        _ => source.refuse(),
    }
}

#[cfg(test)]
mod tests;
