//! What spool, partial files and book need of a file system, and no more: so that tests can be a disk that is full, that fails,
//! and that forgets.
//!
//! Paths are relative to the storage's root. Writes are positioned; a write may take less than it was given, as `pwrite(2)`
//! may. What is synced: a file's bytes and length with [`StoredFile::sync`], a name with [`Storage::sync_folder`].

mod real;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::{RealFile, RealStorage};
pub use sim::{Faults, SimStorage};

/// An open file.
pub type FileRef = Arc<dyn StoredFile>;

/// What is to become of a file that is there already, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It must be there.
    Existing,
    /// It is made if it is not there.
    OrCreate,
    /// It is made, or emptied.
    Empty,
}

/// A folder of a file system.
pub trait Storage: Debug + Send + Sync {
    /// Open a file to read and write. A new one is its owner's alone (mode 0600).
    ///
    /// # Errors
    /// As `open(2)`.
    fn open(&self, path: &Path, open: Open) -> io::Result<FileRef>;

    /// Give a file another name; what had that name is replaced.
    ///
    /// # Errors
    /// As `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Give a file another name, if nothing has that name.
    ///
    /// # Errors
    /// As `renameat2(2)` with `RENAME_NOREPLACE`: `AlreadyExists`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Remove a file.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the files and folders in a folder, in any order; none if there is no such folder. Names that are not UTF-8
    /// are none of ours and left out.
    ///
    /// # Errors
    /// As `readdir(3)`.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Make a folder, if it is not there; it is there after a power cut.
    ///
    /// # Errors
    /// As `mkdir(2)` and `fsync(2)`.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Remove an empty folder.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// The names in this folder are there after a power cut, and those that were removed are not.
    ///
    /// # Errors
    /// As `fsync(2)`.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file. Usable from several threads at once.
pub trait StoredFile: Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// As `fstat(2)`.
    fn length(&self) -> io::Result<u64>;

    /// Read at this offset, perhaps less than asked for; 0 = the end.
    ///
    /// # Errors
    /// As `pread(2)`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Write at this offset, perhaps less than given.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;

    /// Cut, or fill up with zeros.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Bytes and length are there after a power cut. After an error it is not known what is, and a second call does not say
    /// either: Linux forgets that pages were dirty when writing them back has failed once.
    ///
    /// # Errors
    /// As `fdatasync(2)`.
    fn sync(&self) -> io::Result<()>;

    /// Which file it is, and whether it has changed.
    ///
    /// # Errors
    /// As `fstat(2)`.
    fn identity(&self) -> io::Result<Identity>;

    /// Read as much as the buffer takes.
    ///
    /// # Errors
    /// As `read_at`; `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Write all of it.
    ///
    /// # Errors
    /// As `write_at`; a part may have been written.
    fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match self.write_at(data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    data = &data[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Which file of the disk it is, and in which state: two that are equal have the same bytes, as far as anybody can tell who has
/// not read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Number of the file system (`st_dev`).
    pub device: u64,
    /// Number of the file (`st_ino`).
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When it was last written to, nanoseconds since 1970.
    pub modified_ns: i128,
    /// A regular file, and not a folder, a pipe or a device.
    pub regular: bool,
}

impl Identity {
    /// Whether both are the same file, perhaps changed meanwhile.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}
