//! A writer for the kernel's initramfs format: "newc" cpio (kernel documentation, `driver-api/early-userspace/buffer-format`).
//! Written directly because the usual tools need root to put device nodes in.

use std::collections::BTreeSet;

/// Header size of a newc entry: magic and 13 fields of 8 hexadecimal digits.
const HEADER_BYTES: usize = 6 + 13 * 8;

const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_CHARACTER: u32 = 0o020_000;

/// An archive in memory; parents are made before what lies in them, everything belongs to root.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    known: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder and its parents. A folder twice is one folder.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.known.contains(path) {
            return;
        }
        self.parent(path);
        self.known.insert(path.to_owned());
        self.entry(path, TYPE_FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file with its permission bits. The first one wins: a library that two programs name is stored once.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        if self.known.contains(path) {
            return;
        }
        self.parent(path);
        self.known.insert(path.to_owned());
        self.entry(path, TYPE_FILE | permissions, (0, 0), content);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        let path = path.trim_matches('/');
        self.parent(path);
        self.entry(path, TYPE_CHARACTER | 0o600, (major, minor), &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        // Some loaders look at whole 512-byte blocks only.
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.inode += 1;
        let links = if mode & TYPE_FOLDER == TYPE_FOLDER { 2 } else { 1 };
        let name_bytes = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // The format's own limit is 4 GiB a file; ours are megabytes.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_bytes, 0];
        let start = self.bytes.len();
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        debug_assert_eq!(self.bytes.len() - start, HEADER_BYTES);
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Name and content each end on a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// busybox is a reader that we did not write.
    #[test]
    fn another_reader_lists_what_was_written() {
        let mut archive = Archive::default();
        archive.file("/usr/lib/a.txt", 0o644, b"abc");
        archive.file("usr/lib/a.txt", 0o644, b"twice");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);

        let mut child = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox-static is a prerequisite of these tests");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let count = |needle: &str| said.matches(needle).count();
        assert_eq!(count("usr/lib/a.txt"), 1, "{said}");
        assert!(said.contains("crw-------") && said.contains("-rwxr-xr-x"), "{said}");
        assert_eq!(said.lines().count(), 6, "{said}");
    }
}
