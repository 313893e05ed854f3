//! Where fetched and derived files live, and the lock that keeps two harnesses from filling it at once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME` or `$HOME/.cache`, then `florelay/vm`, and waits for its lock.
    ///
    /// # Errors
    /// If neither variable is set, or the folder cannot be made or locked.
    pub fn open() -> Result<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .filter(|value| Path::new(value).is_absolute())
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep kernels")?;
        Self::at(&base.join("florelay/vm"))
    }

    /// Opens a cache at a given folder.
    ///
    /// # Errors
    /// If the folder cannot be made or locked.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        let path = root.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// A path inside the cache.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// Returns `name`, made by `fill` in a scratch folder and renamed only when complete, so that an interrupted run
    /// never leaves half a package behind. A folder that exists is complete.
    ///
    /// # Errors
    /// Those of `fill`, and of the file system.
    pub fn folder(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.is_dir() {
            return Ok(path);
        }
        let scratch = self.path(&format!("{name}.part"));
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir_all(&scratch)?;
        fill(&scratch)?;
        fs::rename(&scratch, &path).with_context(|| format!("cannot rename {}", scratch.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("florelay-vm-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn half_a_folder_is_never_taken_for_a_whole_one() {
        let root = scratch("cache");
        let cache = Cache::at(&root).unwrap();
        let broken = cache.folder("thing", |at| {
            fs::write(at.join("half"), "x")?;
            anyhow::bail!("interrupted")
        });
        assert!(broken.is_err());
        let whole = cache.folder("thing", |at| Ok(fs::write(at.join("whole"), "x")?)).unwrap();
        assert!(whole.join("whole").is_file() && !whole.join("half").exists());
        cache.folder("thing", |_| panic!("a cached folder is reused")).unwrap();
        drop(cache);
        fs::remove_dir_all(root).unwrap();
    }
}
