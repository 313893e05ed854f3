//! Where a received file goes below a folder of its receiver: whole or not at all, never over another file, and never
//! where its sender's word would lead out of the folder.
//!
//! Folders are opened one below the other without following links, and the file is put into the last one by its
//! descriptor: what is changed on the way meanwhile does not lead elsewhere.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, mkdirat, open, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

/// A name is tried with `.1`, `.2` … up to this.
const MAX_RENAMES: u32 = 10_000;
/// Longest name that a file can have (Linux: NAME_MAX), bytes.
const MAX_NAME_BYTES: usize = 255;

/// The parts of a place that a sender named, if it stays below the folder.
pub(super) fn parts(place: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = place.split('/').collect();
    for part in &parts {
        let wrong = match *part {
            "" => "has an empty part, or begins with /",
            "." | ".." => "leads elsewhere",
            part if part.starts_with('.') => "is hidden",
            part if part.len() > MAX_NAME_BYTES || part.contains('\0') => "has a part that is no file name",
            _ => continue,
        };
        return Err(format!("its path {place:?} {wrong}"));
    }
    Ok(parts)
}

/// Moves a file to this place below `folder`; makes the folders between. Returns where it is.
pub(super) fn put(source: &Path, folder: &Path, place: &[&str]) -> io::Result<PathBuf> {
    let (name, folders) = place.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut below = open(folder, flags, Mode::empty())?;
    let mut path = folder.to_owned();
    for part in folders {
        path.push(part);
        match mkdirat(&below, *part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(at(&path, error)),
        }
        below = openat(&below, *part, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => at(&path, io::Error::other("it is a symbolic link, or no folder")),
            error => at(&path, error),
        })?;
    }
    let target = match first_free(name, |name| rename(source, CWD, &below, name)) {
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => copy(source, &below, name)?,
        moved => moved?,
    };
    rustix::fs::fsync(&below)?;
    Ok(path.join(target))
}

fn at(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The first of `name`, `name.1` … that `take` does not find taken.
fn first_free(name: &str, take: impl Fn(&str) -> Result<(), Errno>) -> io::Result<String> {
    for attempt in 0..MAX_RENAMES {
        let name = numbered(name, attempt);
        match take(&name) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A name that would become too long loses the end of its stem.
fn numbered(name: &str, attempt: u32) -> String {
    if attempt == 0 {
        return name.to_owned();
    }
    let number = format!(".{attempt}");
    let most = MAX_NAME_BYTES - number.len();
    let end = (0..=name.len().min(most)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name[..end].to_owned() + &number
}

fn rename(source: impl rustix::path::Arg + Copy, from: impl AsFd, to: impl AsFd, name: &str) -> Result<(), Errno> {
    match renameat_with(&from, source, &to, name, RenameFlags::NOREPLACE) {
        // A file system that cannot: a second name that must be new, then the first one goes.
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(&from, source, &to, name, AtFlags::empty())?;
            unlinkat(&from, source, AtFlags::empty())
        }
        moved => moved,
    }
}

/// To another file system: a hidden copy, synced, takes the name; then the original goes.
fn copy(source: &Path, below: &OwnedFd, name: &str) -> io::Result<String> {
    let hidden = format!(".{}.part", Uuid::new_v4());
    let copied = (|| {
        let mut original = File::open(source)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut copy = File::from(openat(below, hidden.as_str(), flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut original, &mut copy)?;
        copy.set_permissions(original.metadata()?.permissions())?;
        copy.sync_all()?;
        first_free(name, |name| rename(hidden.as_str(), below, below, name))
    })();
    match copied {
        Ok(name) => {
            rustix::fs::fsync(below)?;
            fs::remove_file(source)?;
            Ok(name)
        }
        Err(error) => {
            // It may not have been made.
            let _ = unlinkat(below, hidden.as_str(), AtFlags::empty());
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hostile_places_are_refused() {
        for place in
            ["", "/etc/passwd", "../x", "a/../x", "a/..", "a//b", "a/", "./a", ".ssh/authorized_keys", "a/.b", "a\0b"]
        {
            assert!(parts(place).is_err(), "{place:?}");
        }
        assert!(parts(&"x".repeat(256)).is_err());
        assert_eq!(parts("photos/-rf/two\nlines.jpg").unwrap(), ["photos", "-rf", "two\nlines.jpg"]);
    }

    #[test]
    fn a_tree_is_restored_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (inbox, out) = (folder.path().join("inbox"), folder.path().join("out"));
        fs::create_dir(&inbox).unwrap();
        fs::create_dir(&out).unwrap();
        for (content, expected) in [("one", "a/b/c.raw"), ("two", "a/b/c.raw.1"), ("three", "a/b/c.raw.2")] {
            let source = inbox.join("c.raw");
            fs::write(&source, content).unwrap();
            assert_eq!(put(&source, &out, &["a", "b", "c.raw"]).unwrap(), out.join(expected));
            assert_eq!(fs::read_to_string(out.join(expected)).unwrap(), content);
            assert!(!source.exists());
        }
        assert!(put(&inbox.join("gone"), &out, &["x"]).is_err());
        // As to another file system.
        let source = inbox.join("d.raw");
        fs::write(&source, "four").unwrap();
        let below = open(&out, OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::write(out.join("d.raw"), "here before").unwrap();
        assert_eq!(copy(&source, &below, "d.raw").unwrap(), "d.raw.1");
        assert_eq!(fs::read_to_string(out.join("d.raw.1")).unwrap(), "four");
        assert!(copy(&inbox.join("gone"), &below, "e.raw").is_err());
        let mut left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a", "d.raw", "d.raw.1"], "no half copies");
    }

    #[test]
    fn links_below_the_folder_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (out, elsewhere) = (folder.path().join("out"), folder.path().join("elsewhere"));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, out.join("photos")).unwrap();
        symlink(elsewhere.join("target"), out.join("f.raw")).unwrap();
        fs::write(out.join("file"), "").unwrap();
        let source = folder.path().join("f.raw");
        fs::write(&source, "x").unwrap();
        for place in [&["photos", "f.raw"][..], &["file", "f.raw"]] {
            let error = put(&source, &out, place).unwrap_err().to_string();
            assert!(error.contains("symbolic link, or no folder"), "{error}");
        }
        // A link that has the file's name is a name that is taken.
        assert_eq!(put(&source, &out, &["f.raw"]).unwrap(), out.join("f.raw.1"));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}
