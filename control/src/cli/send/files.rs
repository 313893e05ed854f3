//! Which files `send` sends, and under which names.
//!
//! A file in a folder keeps its place in it as the attribute `path`; inboxes take names without folders. What is no plain
//! file there is left out, and said.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::values::inbox_name;

/// The attribute that holds a file's place below the folder it was sent from, with `/` between the parts.
pub(in crate::cli) const PATH_ATTRIBUTE: &str = "path";
/// Longest value of an attribute, bytes.
const MAX_ATTRIBUTE_BYTES: usize = 1024;
/// Longest name, bytes.
const MAX_NAME_BYTES: usize = 255;

/// A file to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// As it was said, or below it.
    pub(super) file: PathBuf,
    /// At the receiver.
    pub(super) name: String,
    /// Below the folder that was said, that folder's name included.
    pub(super) place: Option<String>,
    /// Bytes when it was looked for.
    pub(super) size: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    /// What is not sent, and why.
    pub(super) left_out: Vec<(PathBuf, String)>,
}

impl Found {
    /// All files, and those below all folders, in the order of their names.
    pub(super) fn below(paths: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in paths {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    // `.` and `..` have no name that would mean anything elsewhere.
                    let root = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                    found.folder(path, &root);
                }
                Ok(metadata) if metadata.is_file() => {
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    match inbox_name(name) {
                        Ok(name) => {
                            found.items.push(Item { file: path.clone(), name, place: None, size: metadata.len() });
                        }
                        Err(why) => found.leave(path, format!("its name cannot be sent ({why})")),
                    }
                }
                Ok(_) => found.leave(path, "not a regular file".to_owned()),
                Err(error) => found.leave(path, format!("cannot be read: {error}")),
            }
        }
        found.tell_apart();
        found
    }

    fn leave(&mut self, path: &Path, why: String) {
        self.left_out.push((path.to_owned(), why));
    }

    fn folder(&mut self, top: &Path, root: &str) {
        let mut folders = vec![(top.to_owned(), root.to_owned())];
        while let Some((folder, place)) = folders.pop() {
            let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let mut entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    self.leave(&folder, format!("cannot be read: {error}"));
                    continue;
                }
            };
            entries.sort_by_key(fs::DirEntry::file_name);
            let mut below = Vec::new();
            for entry in entries {
                let file = entry.path();
                let name = entry.file_name();
                let Some(name) = name.to_str() else {
                    self.leave(&file, "its name is not UTF-8".to_owned());
                    continue;
                };
                if name.starts_with('.') {
                    self.leave(&file, "hidden".to_owned());
                    continue;
                }
                let place = if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") };
                // Not of what a link points at.
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => below.push((file, place)),
                    Ok(_) if place.len() > MAX_ATTRIBUTE_BYTES => {
                        self.leave(&file, format!("its path is longer than {MAX_ATTRIBUTE_BYTES} bytes"));
                    }
                    Ok(metadata) if metadata.is_file() => {
                        let name = plain(name);
                        self.items.push(Item { file, name, place: Some(place), size: metadata.len() });
                    }
                    Ok(metadata) if metadata.is_symlink() => self.leave(&file, "a symbolic link".to_owned()),
                    Ok(_) => self.leave(&file, "neither a file nor a folder".to_owned()),
                    Err(error) => self.leave(&file, format!("cannot be read: {error}")),
                }
            }
            folders.extend(below.into_iter().rev());
        }
    }

    /// The inbox would number a second file of a name as it comes; its place is a better name.
    fn tell_apart(&mut self) {
        let mut names = HashSet::new();
        for item in &mut self.items {
            if !names.insert(item.name.clone())
                && let Some(place) = &item.place
            {
                item.name = last_bytes(&plain(&place.replace('/', "_")));
                names.insert(item.name.clone());
            }
        }
    }
}

/// A name that an engine takes: without control characters.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

/// As much of the end as a name may have.
fn last_bytes(name: &str) -> String {
    let from = name.len().saturating_sub(MAX_NAME_BYTES);
    let from = (from..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    // No hidden file comes of it.
    name[from..].trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_of_awkward_names() {
        let top = tempfile::tempdir().unwrap();
        let photos = top.path().join("photos");
        fs::create_dir_all(photos.join("2024/raw")).unwrap();
        fs::create_dir_all(photos.join(".git")).unwrap();
        for (name, bytes) in [
            ("Ünïcode 写真.jpg", 3),
            ("with space", 1),
            ("two\nlines", 2),
            ("-rf", 4),
            ("empty", 0),
            (".hidden", 5),
            ("2024/empty", 6),
            ("2024/raw/messages.jsonl", 7),
        ] {
            fs::write(photos.join(name), vec![0; bytes]).unwrap();
        }
        symlink("/etc/passwd", photos.join("link")).unwrap();
        symlink("..", photos.join("up")).unwrap();
        fs::write(photos.join(std::ffi::OsStr::from_bytes(b"latin\xe9")), "").unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, photos.join("pipe"), kind, mode, 0).unwrap();

        let found = Found::below(&[photos.clone(), top.path().join("nowhere")]);
        let items: Vec<_> =
            found.items.iter().map(|i| (i.name.as_str(), i.place.as_deref().unwrap(), i.size)).collect();
        assert_eq!(
            items,
            [
                ("-rf", "photos/-rf", 4),
                ("empty", "photos/empty", 0),
                ("two_lines", "photos/two\nlines", 2),
                ("with space", "photos/with space", 1),
                ("Ünïcode 写真.jpg", "photos/Ünïcode 写真.jpg", 3),
                ("photos_2024_empty", "photos/2024/empty", 6),
                ("messages.jsonl", "photos/2024/raw/messages.jsonl", 7),
            ]
        );
        let mut left: Vec<_> = found
            .left_out
            .iter()
            .map(|(path, why)| (path.file_name().unwrap().to_string_lossy().into_owned(), why.as_str()))
            .collect();
        left.sort();
        let why: Vec<_> = left.iter().map(|(name, why)| (name.as_str(), why.split(':').next().unwrap())).collect();
        assert_eq!(
            why,
            [
                (".git", "hidden"),
                (".hidden", "hidden"),
                ("latin\u{fffd}", "its name is not UTF-8"),
                ("link", "a symbolic link"),
                ("nowhere", "cannot be read"),
                ("pipe", "neither a file nor a folder"),
                ("up", "a symbolic link"),
            ]
        );
    }

    #[test]
    fn names_that_are_too_long_keep_their_end() {
        assert_eq!(last_bytes(&format!("{}.jpg", "ä".repeat(200))), format!("{}.jpg", "ä".repeat(125)));
    }
}
