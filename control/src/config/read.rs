//! Reading a closed schema out of a parsed TOML document: every value keeps its place in the text, every key that
//! nobody asked for is an error.
//!
//! A [`Table`] is asked for its keys one by one and closed at the end. What cannot be read is recorded in the
//! [`Source`] and comes back as `None`, so that the caller can go on looking; a configuration with records is refused
//! whole, whatever the caller made of it.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Source, did_you_mean, nearest};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Field<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
    pub(super) key: String,
}

impl<T> Field<T> {
    /// Records an error at this value.
    pub(super) fn error(&self, source: &mut Source<'_>, message: impl Into<String>, hint: impl Into<String>) {
        source.error(&self.span, self.key.clone(), message, hint);
    }

    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Field<U> {
        Field { value: f(self.value), span: self.span, key: self.key }
    }
}

/// What was wrong with a value, and a hint.
pub(super) type Wrong = (String, String);

/// One table of the document while it is read.
#[derive(Debug)]
pub(super) struct Table<'d> {
    entries: &'d DeTable<'d>,
    /// Where the table begins: its header, or its opening brace.
    pub(super) span: Range<usize>,
    /// E.g. `link[to-relay]`; empty for the document.
    pub(super) path: String,
    known: Vec<&'static str>,
}

impl<'d> Table<'d> {
    pub(super) fn new(entries: &'d DeTable<'d>, span: Range<usize>, path: impl Into<String>) -> Self {
        Self { entries, span, path: path.into(), known: Vec::new() }
    }

    /// The full key of an entry.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// An entry's value, unread.
    pub(super) fn get(&mut self, name: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.push(name);
        self.entries.get(name)
    }

    /// An entry, read by `read`; `None` if absent or wrong.
    pub(super) fn optional<T>(
        &mut self,
        source: &mut Source<'_>,
        name: &'static str,
        read: impl FnOnce(&DeValue<'d>) -> Result<T, Wrong>,
    ) -> Option<Field<T>> {
        let value = self.get(name)?;
        let key = self.key(name);
        match read(value.get_ref()) {
            Ok(read) => Some(Field { value: read, span: value.span(), key }),
            Err((message, hint)) => {
                source.error(&value.span(), key, message, hint);
                None
            }
        }
    }

    /// Like [`Self::optional`]; absence is an error with this example.
    pub(super) fn required<T>(
        &mut self,
        source: &mut Source<'_>,
        name: &'static str,
        example: &str,
        read: impl FnOnce(&DeValue<'d>) -> Result<T, Wrong>,
    ) -> Option<Field<T>> {
        if self.entries.contains_key(name) {
            return self.optional(source, name, read);
        }
        self.known.push(name);
        self.missing(source, name, example);
        None
    }

    /// Records that a required entry is absent. A near miss among the keys is named, and reported only once.
    pub(super) fn missing(&self, source: &mut Source<'_>, name: &'static str, example: &str) {
        let keys = self.entries.keys().map(|k| k.get_ref().as_ref());
        if nearest(name, keys.filter(|k| !self.known.contains(k))).is_some() {
            // `close` reports the near miss at its own line.
            return;
        }
        source.error(&self.span, self.key(name), format!("\"{name}\" is missing"), format!("add: {name} = {example}"));
    }

    /// A subtable, or `None` if absent or not a table.
    pub(super) fn table(&mut self, source: &mut Source<'_>, name: &'static str) -> Option<Table<'d>> {
        let value = self.get(name)?;
        let path = self.key(name);
        if let DeValue::Table(entries) = value.get_ref() {
            return Some(Table::new(entries, value.span(), path));
        }
        let hint = format!("write {name} = {{ … }} or a section [{path}]");
        source.error(&value.span(), path, format!("{} where a table is expected", kind(value.get_ref())), hint);
        None
    }

    /// An array of tables; empty if absent. `label` is the entry that names each of them.
    pub(super) fn tables(
        &mut self,
        source: &mut Source<'_>,
        name: &'static str,
        label: Option<&str>,
    ) -> Vec<Table<'d>> {
        let Some(value) = self.get(name) else {
            return Vec::new();
        };
        let key = self.key(name);
        let DeValue::Array(items) = value.get_ref() else {
            let hint = format!("begin each one with [[{key}]]");
            source.error(
                &value.span(),
                key,
                format!("{} where a list of tables is expected", kind(value.get_ref())),
                hint,
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let DeValue::Table(entries) = item.get_ref() else {
                let message = format!("{} where a table is expected", kind(item.get_ref()));
                source.error(
                    &item.span(),
                    format!("{key}[{index}]"),
                    message,
                    format!("begin each one with [[{key}]]"),
                );
                continue;
            };
            let named = label.and_then(|l| entries.get(l)).and_then(|v| v.get_ref().as_str()).filter(|n| !n.is_empty());
            let path = named.map_or_else(|| format!("{key}[{index}]"), |n| format!("{key}[{n}]"));
            tables.push(Table::new(entries, item.span(), path));
        }
        tables
    }

    /// Refuses every entry that was not asked for.
    pub(super) fn close(self, source: &mut Source<'_>) {
        for name in self.entries.keys() {
            let text = name.get_ref().as_ref();
            if self.known.contains(&text) {
                continue;
            }
            let absent: Vec<_> = self.known.iter().copied().filter(|k| !self.entries.contains_key(*k)).collect();
            let candidates = if nearest(text, absent.iter().copied()).is_some() { &absent } else { &self.known };
            source.error(
                &name.span(),
                self.key(text),
                format!("unknown key \"{text}\""),
                did_you_mean(text, "key", candidates),
            );
        }
    }
}

/// What a value is, for a sentence.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Any string.
pub(super) fn string(value: &DeValue<'_>) -> Result<String, Wrong> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| (format!("{} where a string is expected", kind(value)), "put it in quotes".to_owned()))
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value
        .as_bool()
        .ok_or_else(|| (format!("{} where true or false is expected", kind(value)), "write true or false".to_owned()))
}

/// An integer in a range, both ends included.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<u64, Wrong> {
    move |value| {
        let DeValue::Integer(i) = value else {
            let hint = format!("an integer, {} to {}", range.start(), range.end());
            return Err((format!("{} where an integer is expected", kind(value)), hint));
        };
        u64::from_str_radix(i.as_str(), i.radix())
            .ok()
            .filter(|n| range.contains(n))
            .ok_or_else(|| (format!("{i} is out of range"), format!("{} to {}", range.start(), range.end())))
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let text = string(value)?;
        words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|(w, _)| *w).collect();
            let near = nearest(&text, all.iter().copied()).map_or(String::new(), |n| format!("did you mean \"{n}\"? "));
            (format!("\"{text}\" is not known here"), format!("{near}one of: {}", all.join(", ")))
        })
    }
}

/// A quantity with a unit.
pub(super) fn unit<T>(
    parse: fn(&str) -> Result<T, super::units::UnitError>,
    example: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let hint = || format!("write a string such as {example}");
        let text = value
            .as_str()
            .ok_or_else(|| (format!("{} where a quantity with a unit is expected", kind(value)), hint()))?;
        parse(text).map_err(|e| (format!("\"{text}\" {e}"), hint()))
    }
}
