//! The table of tests, and how one is run: image, boot, verdict.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::image::{self, Contents};
use crate::kernel;
use crate::pins::{KERNELS, Kernel};
use crate::qemu::{NicPair, Qemu};
use crate::report::{Outcome, Verdict};
use crate::runner::{self, Boot};

/// What a boot must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Every check passes.
    Pass,
    /// The kernel panics, and the harness says so: proof that it would notice.
    Panic,
}

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct VmTest {
    /// What `--test` takes.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Pairs of NICs, each joined by a hub.
    pub nics: &'static [NicPair],
    /// Modules, without what they depend on.
    pub modules: &'static [&'static str],
    /// Programs of this crate that run in the guest.
    pub programs: &'static [&'static str],
    /// Script for the guest.
    pub script: &'static str,
    /// What must come of it.
    pub expect: Expect,
    /// Oldest kernel that can do it, by its name in `pins.rs`, and what older ones lack; they are skipped with that reason.
    pub since: Option<(&'static str, &'static str)>,
}

const IGB_PAIR: NicPair = NicPair { a: "igb", b: "igb" };

/// virtio binds zero-copy only if it uses the DMA API, which `iommu_platform` makes it do. Behind a hub it has one queue.
const VIRTIO_PAIR: NicPair = NicPair { a: "virtio-net-pci,disable-legacy=on,iommu_platform=on", b: "igb" };

/// Tried on 6.1 and 6.12: igb and virtio answer EOPNOTSUPP or EINVAL.
const ZERO_COPY: Option<(&str, &str)> = Some(("6.18", "the drivers refuse zero-copy before 6.16"));

/// All tests.
pub const TESTS: &[VmTest] = &[
    VmTest {
        name: "boot",
        about: "the kernel boots, bpffs mounts, NICs are found, the eBPF program loads, verifies and attaches",
        nics: &[IGB_PAIR],
        modules: &["igb", "veth"],
        programs: &["ebpf-load"],
        script: include_str!("../guest/boot.sh"),
        expect: Expect::Pass,
        since: None,
    },
    VmTest {
        name: "spike-owner",
        about: "one UMEM over two igb NICs of two queues, zero-copy, in-place forwarding, next hops from rtnetlink",
        nics: &[IGB_PAIR, IGB_PAIR],
        modules: &["igb"],
        programs: &["spike-owner"],
        script: include_str!("../guest/spike-owner.sh"),
        expect: Expect::Pass,
        since: ZERO_COPY,
    },
    VmTest {
        name: "spike-virtio",
        about: "the same over two virtio NICs of one queue",
        nics: &[VIRTIO_PAIR, VIRTIO_PAIR],
        modules: &["igb", "virtio_net"],
        programs: &["spike-owner"],
        script: include_str!("../guest/spike-owner.sh"),
        expect: Expect::Pass,
        since: ZERO_COPY,
    },
    VmTest {
        name: "known-bad",
        about: "a guest that panics on purpose: the harness must see it",
        nics: &[],
        modules: &[],
        programs: &[],
        script: include_str!("../guest/known-bad.sh"),
        expect: Expect::Panic,
        since: None,
    },
];

/// Runs one test on one kernel.
///
/// # Errors
/// If something is missing on the host; a guest that fails is an outcome, not an error.
pub fn run(test: &VmTest, kernel: &'static Kernel, cache: &Cache, apt: &Apt, qemu: &Qemu) -> Result<Outcome> {
    if let Some(reason) = lacks(test, kernel) {
        return Ok(Outcome::skipped(test.name, kernel, reason));
    }
    let files = kernel::fetch(cache, apt, kernel)?;
    let modules = files.modules.closure(test.modules)?;
    let programs = test.programs.iter().map(|name| sibling(name)).collect::<Result<Vec<_>>>()?;
    let archive = image::build(&Contents { modules: &modules, programs: &programs, script: test.script })?;
    let initramfs = cache.path("initramfs.cpio");
    fs::write(&initramfs, archive).with_context(|| format!("cannot write {}", initramfs.display()))?;

    let prefix = format!("[{} {}]", test.name, kernel.name);
    let boot = runner::boot(qemu, &files.vmlinux, &initramfs, test.nics, &prefix)?;
    let (passed, note) = verdict(test.expect, &boot);
    Ok(Outcome {
        test: test.name,
        kernel: kernel.name,
        release: kernel.release,
        verdict: if passed { Verdict::Pass } else { Verdict::Fail },
        note,
        wall_s: boot.wall.as_secs_f64(),
        console: boot.console,
    })
}

/// Why this kernel cannot run the test; `None` = it can. Kernels are listed oldest first.
fn lacks(test: &VmTest, kernel: &Kernel) -> Option<&'static str> {
    let (oldest, reason) = test.since?;
    let rank = |name: &str| KERNELS.iter().position(|kernel| kernel.name == name);
    (rank(kernel.name) < rank(oldest)).then_some(reason)
}

fn verdict(expect: Expect, boot: &Boot) -> (bool, Option<String>) {
    let objection = if boot.timed_out {
        Some(format!("killed after {} s", runner::LIMIT.as_secs()))
    } else {
        boot.console.objection(boot.exit_code)
    };
    match expect {
        Expect::Pass => (objection.is_none(), objection),
        // The guest must have come as far as the script, and then died of the panic it asked for.
        Expect::Panic => match &boot.console.death {
            Some(line) if line.contains("panic") && !boot.console.passed.is_empty() => {
                (true, Some(format!("seen: {line}")))
            }
            _ => (false, Some("the panic was not seen".to_owned())),
        },
    }
}

/// A program of this crate: it lies beside the one that runs.
fn sibling(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.parent().unwrap_or(Path::new(".")).join(name);
    if !path.is_file() {
        anyhow::bail!("{} is not built; `cargo build -p florelay-vm-tests --bins`", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::console::Console;

    #[test]
    fn names_are_unique() {
        for (at, test) in TESTS.iter().enumerate() {
            assert!(TESTS[..at].iter().all(|other| other.name != test.name), "{}", test.name);
        }
    }

    #[test]
    fn a_kernel_that_is_too_old_is_skipped_with_the_reason() {
        let spike = TESTS.iter().find(|test| test.name == "spike-owner").unwrap();
        let lacking: Vec<_> =
            KERNELS.iter().filter(|kernel| lacks(spike, kernel).is_some()).map(|kernel| kernel.name).collect();
        assert_eq!(lacking, ["6.1", "6.12"]);
        for (oldest, _) in TESTS.iter().filter_map(|test| test.since) {
            assert!(crate::pins::kernel(oldest).is_some(), "{oldest}");
        }
    }

    #[test]
    fn a_known_bad_job_must_die_of_its_panic() {
        let mut console = Console::default();
        console.line("ok about-to-panic");
        let mut boot = Boot { console, exit_code: Some(33), wall: Duration::ZERO, timed_out: false };
        assert!(!verdict(Expect::Panic, &boot).0);
        boot.console.line("Kernel panic - not syncing: sysrq triggered crash");
        assert!(verdict(Expect::Panic, &boot).0);
        assert!(!verdict(Expect::Pass, &boot).0);
    }
}
