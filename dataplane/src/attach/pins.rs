//! Where program, maps and link are pinned, and who may touch them.
//!
//! ```text
//! /sys/fs/bpf/florelay/<node>/<interface>/   locked (flock) by the process that holds the attachment
//!     link        keeps the program attached when the process dies
//!     program     for people and for the control process
//!     STEER, XSKS, OUTCOMES, MALFORMED
//! ```
//!
//! The lock ends with the process, however it ends; so a pinned link in an unlocked folder belongs to nobody, and may be taken over.
//!
//! bpffs refuses names with a dot: dots, percent signs and slashes of node and interface names are written `%2e`, `%25`, `%2f`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::AttachError;

/// Where bpffs is, by convention (kernel documentation, `bpf/bpf_design_QA.rst`; systemd mounts it there too).
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Makes sure that `/sys/fs/bpf` is a bpffs. Mounting it is not undone: others may use it from then on.
///
/// # Errors
/// [`AttachError::Bpffs`] if it can be neither looked at nor mounted.
pub fn ensure_bpffs() -> Result<(), AttachError> {
    let refused = |source: io::Error| AttachError::Bpffs { source };
    if is_bpffs(Path::new(BPFFS)).map_err(refused)? {
        return Ok(());
    }
    // Two processes that mount at once would stack two bpffs, and the upper would hide the pins in the lower.
    let mount_point = File::open(BPFFS).map_err(refused)?;
    rustix::fs::flock(&mount_point, FlockOperation::LockExclusive).map_err(|errno| refused(errno.into()))?;
    if is_bpffs(Path::new(BPFFS)).map_err(refused)? {
        return Ok(());
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|errno| refused(errno.into()))?;
    tracing::info!(path = BPFFS, "mounted bpffs, which pinned programs live in (it stays mounted)");
    Ok(())
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statfs(path)?;
    Ok(u64::try_from(stat.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC))
}

/// The folder of one attachment, locked.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    /// Holds the lock; never read.
    _lock: File,
}

impl Pins {
    /// Opens and locks the folder, making it if need be.
    pub(super) fn open(node: &str, interface: &str) -> Result<Self, AttachError> {
        let folder = root().join(escape(node)).join(escape(interface));
        let refused = |source: io::Error| AttachError::Pin { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(refused)?;
        let lock = File::open(&folder).map_err(refused)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AttachError::InUse { path: folder }),
            Err(errno) => Err(refused(errno.into())),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Pins under another name first and renames, so that `name` always leads to something.
    pub(super) fn replace<E>(&self, name: &str, pin: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), AttachError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let target = self.path(name);
        let fresh = self.path(&format!("{name}-new"));
        let refused = |source: io::Error| AttachError::Pin { path: target.clone(), source };
        // Left behind if a process died between the two steps.
        remove_if_there(&fresh).map_err(refused)?;
        pin(&fresh).map_err(|error| refused(io::Error::other(error)))?;
        fs::rename(&fresh, &target).map_err(refused)
    }

    /// Removes one pin, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), AttachError> {
        let path = self.path(name);
        remove_if_there(&path).map_err(|source| AttachError::Pin { path, source })
    }

    /// Removes all pins and the folder, and the folders above as far as they are empty.
    pub(super) fn remove_all(self) -> Result<(), AttachError> {
        let refused = |source: io::Error| AttachError::Pin { path: self.folder.clone(), source };
        for entry in fs::read_dir(&self.folder).map_err(refused)? {
            remove_if_there(&entry.map_err(refused)?.path()).map_err(refused)?;
        }
        fs::remove_dir(&self.folder).map_err(refused)?;
        for above in self.folder.ancestors().skip(1).take_while(|path| path.starts_with(root())) {
            // Another interface or node still has something there.
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Node and interface (escaped) of every folder that has a pinned link, with the path of the link.
pub(super) fn pinned_links() -> Vec<(PathBuf, PathBuf)> {
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    folders(&root())
        .flat_map(|node| folders(&node).collect::<Vec<_>>())
        .map(|folder| (folder.clone(), folder.join(super::LINK_PIN)))
        .filter(|(_, link)| link.exists())
        .collect()
}

fn root() -> PathBuf {
    Path::new(BPFFS).join("florelay")
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e").replace('/', "%2f")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_become_single_components_that_bpffs_takes() {
        assert_eq!(escape("eth0.100"), "eth0%2e100");
        assert_eq!(escape(".."), "%2e%2e");
        assert_eq!(escape("a/b%"), "a%2fb%25");
        assert_eq!(escape("station-a"), "station-a");
    }
}
