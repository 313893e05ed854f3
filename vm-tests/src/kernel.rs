//! A kernel on disk, ready to boot: the uncompressed `vmlinux` and the tree of modules.
//!
//! `vmlinux` boots 2 to 4 s faster than `bzImage` under software emulation, which would decompress it instruction by instruction.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::modules::ModuleTree;
use crate::pins::Kernel;

/// A fetched kernel.
#[derive(Debug)]
pub struct KernelFiles {
    /// The uncompressed image; QEMU enters it through its PVH note.
    pub vmlinux: PathBuf,
    /// Its modules.
    pub modules: ModuleTree,
}

/// Fetches a kernel, or finds it in the cache.
///
/// # Errors
/// If a package cannot be fetched or the image is of a shape that is not known here.
pub fn fetch(cache: &Cache, apt: &Apt, kernel: &Kernel) -> Result<KernelFiles> {
    let folder = cache.folder(&format!("kernel-{}", kernel.release), |into| {
        eprintln!("vm: fetching kernel {}", kernel.release);
        for pin in kernel.packages {
            apt.unpack(pin, into)?;
        }
        // Up to 7.1 the image lies in /boot, from 7.2 on beside its modules.
        let in_boot = into.join(format!("boot/vmlinuz-{}", kernel.release));
        let beside = into.join(format!("usr/lib/modules/{}/vmlinuz", kernel.release));
        let image = if in_boot.is_file() { in_boot } else { beside };
        let image = fs::read(&image).with_context(|| format!("no image at {}", image.display()))?;
        let scratch = into.join("payload");
        let vmlinux = decompress(payload(&image)?, &scratch)?;
        fs::write(into.join("vmlinux"), vmlinux)?;
        Ok(fs::remove_file(scratch)?)
    })?;
    // Merged-/usr packages (from trixie on) and older ones differ in where modules lie.
    let modules = ["usr/lib/modules", "lib/modules"]
        .map(|at| folder.join(at).join(kernel.release))
        .into_iter()
        .find(|path| path.is_dir())
        .with_context(|| format!("no modules in {}", folder.display()))?;
    Ok(KernelFiles { vmlinux: folder.join("vmlinux"), modules: ModuleTree::open(&modules)? })
}

/// The compressed payload inside a bzImage (kernel documentation, `arch/x86/boot`: `setup_sects` at 0x1f1, magic at 0x202,
/// `payload_offset` at 0x248 and `payload_length` at 0x24c, counted from the protected-mode code).
fn payload(image: &[u8]) -> Result<&[u8]> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("the kernel image has no x86 boot header");
    }
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(0x248).context("short header")?;
    let length = word(0x24c).context("short header")?;
    image.get(start..start + length).context("the payload lies outside the image")
}

/// Decompresses by magic number. The last four bytes of a payload are the kernel's own (uncompressed size): the tools call them trailing
/// garbage, so what counts is that an ELF file came out.
fn decompress(payload: &[u8], scratch: &Path) -> Result<Vec<u8>> {
    let (program, arguments): (&str, &[&str]) = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dcq"]),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", &["-dcq", "--single-stream"]),
        [0x1f, 0x8b, ..] => ("gzip", &["-dcq"]),
        other => bail!("unknown kernel compression {:02x?}", &other[..other.len().min(4)]),
    };
    fs::write(scratch, payload)?;
    let out = Command::new(program)
        .args(arguments)
        .stdin(fs::File::open(scratch)?)
        .output()
        .with_context(|| format!("cannot start {program}; is it installed?"))?;
    if !out.stdout.starts_with(b"\x7fELF") {
        bail!("{program} made no ELF file of the kernel: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_payload_of_a_boot_image() {
        let mut image = vec![0_u8; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&4_u32.to_le_bytes());
        image[1040..1044].copy_from_slice(b"data");
        assert_eq!(payload(&image).unwrap(), b"data");
        image[0x24c..0x250].copy_from_slice(&4096_u32.to_le_bytes());
        assert!(payload(&image).is_err());
    }
}
