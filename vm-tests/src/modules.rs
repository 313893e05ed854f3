//! Kernel modules: which files a test needs and in which order to load them. Debian's packages carry no `modules.dep` (depmod makes it
//! at installation), so the order comes from the `depends=` entry that each module holds in its `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

/// A module, decompressed.
#[derive(Debug)]
pub struct Module {
    /// Name with underscores, as `lsmod` shows it.
    pub name: String,
    /// The ELF object.
    pub object: Vec<u8>,
}

/// The module tree of one kernel.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl ModuleTree {
    /// Indexes `lib/modules/RELEASE`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(root: &Path) -> Result<Self> {
        let built_in = fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| module_name(Path::new(line))).collect();
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files, built_in })
    }

    /// The named modules and all they depend on, dependencies first, each once; what is built in needs no file.
    ///
    /// # Errors
    /// If the kernel has no such module, or it cannot be decompressed.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.visit(&normal(name), &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, ordered: &mut Vec<Module>) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("this kernel has no module {name}");
        };
        let object = decompressed(path)?;
        for needed in depends(&object) {
            self.visit(&needed, seen, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), object });
        Ok(())
    }
}

/// `kernel/net/foo-bar.ko.xz` is `foo_bar`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(normal(name))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => tool::output(Command::new("xz").args(["-dc"]).arg(path)),
        Some("zst") => tool::output(Command::new("zstd").args(["-dcq"]).arg(path)),
        _ => Ok(fs::read(path)?),
    }
}

/// The `depends=` string of `.modinfo`: NUL-terminated `key=value` strings. Looking for the key after a NUL in the whole object finds
/// it without an ELF reader; a module has exactly one.
fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = object[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let root = std::env::temp_dir().join(format!("florelay-vm-modules-{}", std::process::id()));
        fs::create_dir_all(root.join("kernel/net")).unwrap();
        fs::write(root.join("modules.builtin"), "kernel/net/core-thing.ko\n").unwrap();
        let module = |name: &str, needs: &str| {
            fs::write(root.join(format!("kernel/net/{name}.ko")), format!("ELF\0license=x\0depends={needs}\0x"))
                .unwrap();
        };
        module("top-one", "middle,core_thing");
        module("middle", "base");
        module("base", "");
        let tree = ModuleTree::open(&root).unwrap();
        let names: Vec<_> = tree.closure(&["top-one", "base"]).unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["base", "middle", "top_one"]);
        assert!(tree.closure(&["absent"]).unwrap_err().to_string().contains("absent"));
        fs::remove_dir_all(root).unwrap();
    }
}
