//! The file system below a folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{FileRef, Identity, Open, Storage, StoredFile};

/// The file system below a folder.
#[derive(Debug, Clone)]
pub struct RealStorage {
    root: PathBuf,
}

impl RealStorage {
    /// Below this folder, which must be there when it is used.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Storage for RealStorage {
    fn open(&self, path: &Path, open: Open) -> io::Result<FileRef> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).create(open != Open::Existing).truncate(open == Open::Empty);
        Ok(Arc::new(RealFile::new(options.open(self.root.join(path))?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, self.root.join(from), CWD, self.root.join(to), RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let path = self.root.join(folder);
        match fs::DirBuilder::new().create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(self.root.join(folder))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(self.root.join(folder))?.sync_all()
    }
}

/// An open file of the real file system.
#[derive(Debug)]
pub struct RealFile(File);

impl RealFile {
    /// A file that somebody else has opened: then perhaps only to read.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

impl StoredFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn identity(&self) -> io::Result<Identity> {
        let metadata = self.0.metadata()?;
        Ok(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            regular: metadata.is_file(),
        })
    }
}
