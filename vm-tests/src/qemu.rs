//! The emulator: finds or fetches it, and writes its command line.
//!
//! Machine: q35, 2 CPUs, 512 MB, serial console on standard output, `isa-debug-exit` at port 0xf4 so that the guest's verdict is the exit code.
//! NICs come in pairs joined by a hub; each has a root port of its own and is found in the guest by its MAC.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::pins::{OLDEST_QEMU, QEMU, QEMU_FOR, QEMU_SUITE};
use crate::tool;

const PROGRAM: &str = "qemu-system-x86_64";

/// Kernel command line: console, no reboot loop after a panic, and what makes emulation quick and calm.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on";

/// A pair of NICs joined by a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicPair {
    /// QEMU's device model of the first NIC, e.g. `igb`, with options.
    pub a: &'static str,
    /// Model of the second.
    pub b: &'static str,
}

/// The MAC address of NIC `side` (0 or 1) of pair `pair`: how the guest finds it (`guest/init` names it `p0a`, `p0b`, `p1a` …).
#[must_use]
pub fn mac(pair: usize, side: usize) -> String {
    format!("52:54:00:f1:{pair:02x}:{side:02x}")
}

/// A usable QEMU.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Where a private copy is unpacked; `None` for an installed one, which knows its own folders.
    private: Option<PathBuf>,
    /// `kvm` or `tcg,thread=multi`.
    accelerator: &'static str,
    /// What `--version` said.
    pub version: String,
}

impl Qemu {
    /// An installed QEMU if it is new enough, else a private copy.
    ///
    /// # Errors
    /// If neither can be had; the message says what to install.
    pub fn find(cache: &Cache, apt: &Apt) -> Result<Self> {
        let installed = tool::which(PROGRAM).and_then(|program| Self::at(program, None).ok());
        if let Some(qemu) = installed {
            return Ok(qemu);
        }
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !release.lines().any(|line| line == format!("VERSION_CODENAME={QEMU_FOR}")) {
            bail!(
                "no {PROGRAM} of version {OLDEST_QEMU} or newer; `apt install qemu-system-x86` has one on this release"
            );
        }
        let pin = QEMU[0];
        let name = format!("qemu-{}", pin.version.replace([':', '~'], "-"));
        let root = cache.folder(&name, |into| {
            eprintln!("vm: fetching {} {}", pin.package, pin.version);
            for pin in QEMU {
                apt.unpack(pin, into)?;
            }
            // ipxe-qemu holds option ROMs for booting from a network, which no guest here does.
            let mut not_libraries: Vec<_> = QEMU.iter().map(|pin| pin.package).collect();
            not_libraries.push("ipxe-qemu");
            apt.unpack_missing_libraries(&pin, &not_libraries, into)
        })?;
        Self::at(root.join("usr/bin").join(PROGRAM), Some(root))
            .with_context(|| format!("the QEMU from {QEMU_SUITE} does not run here"))
    }

    fn at(program: PathBuf, private: Option<PathBuf>) -> Result<Self> {
        let mut qemu =
            Self { program, private, accelerator: accelerator(Path::new("/sys/module")), version: String::new() };
        let said = tool::text(qemu.base().arg("--version"))?;
        // `QEMU emulator version 10.0.2 (Debian …)`
        let version = said.split_whitespace().nth(3).unwrap_or_default();
        let major: u32 = version.split('.').next().unwrap_or_default().parse().unwrap_or(0);
        if major < OLDEST_QEMU {
            bail!("QEMU {version} is older than {OLDEST_QEMU}: it crashes guests under emulation and has no igb");
        }
        version.clone_into(&mut qemu.version);
        Ok(qemu)
    }

    /// How instructions are run, for the report: a figure from emulation is no speed.
    #[must_use]
    pub fn accelerator(&self) -> &'static str {
        self.accelerator
    }

    /// The command for one boot. It runs under `setpriv --pdeathsig KILL`, which replaces itself by QEMU, so that QEMU dies with the thread
    /// that started it even if that is killed without a chance to clean up.
    #[must_use]
    pub fn boot(&self, kernel: &Path, initramfs: &Path, nics: &[NicPair]) -> Command {
        let mut command = self.base();
        command.args(["-accel", self.accelerator, "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "512"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(["-append", KERNEL_ARGUMENTS]);
        for (pair, nics) in nics.iter().enumerate() {
            for (side, model) in [nics.a, nics.b].into_iter().enumerate() {
                let id = format!("{pair}{side}");
                // The machine's own slots 0 and 31 are taken; chassis numbers must differ.
                let port = 1 + pair * 2 + side;
                command
                    .args(["-device", &format!("pcie-root-port,id=port{id},bus=pcie.0,chassis={port},addr={port:#x}")]);
                command.args(["-netdev", &format!("hubport,id=net{id},hubid={pair}")]);
                let mac = mac(pair, side);
                command.args(["-device", &format!("{model},netdev=net{id},bus=port{id},mac={mac},romfile=")]);
            }
        }
        command
    }

    fn base(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        if let Some(root) = &self.private {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|at| root.join(at));
            command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries[0].display(), libraries[1].display()));
            command.env("QEMU_MODULE_DIR", libraries[0].join("qemu"));
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(folder));
            }
        }
        command
    }
}

/// A `/dev/kvm` can exist and hang whoever opens it; the vendor module is what tells a real one.
fn accelerator(loaded_modules: &Path) -> &'static str {
    if ["kvm_intel", "kvm_amd"].iter().any(|module| loaded_modules.join(module).is_dir()) {
        "kvm"
    } else {
        "tcg,thread=multi"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nic_has_its_own_port_and_mac() {
        let qemu = Qemu { program: PROGRAM.into(), private: None, accelerator: "tcg", version: "10".into() };
        let pair = NicPair { a: "igb", b: "e1000e" };
        let command = qemu.boot(Path::new("k"), Path::new("i"), &[pair, pair]);
        let shown: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut nics: Vec<_> = shown.iter().filter(|word| word.contains("mac=")).collect();
        assert_eq!(nics.len(), 4);
        nics.dedup_by_key(|word| word.split("bus=").nth(1).map(str::to_owned));
        assert_eq!(nics.len(), 4, "{shown:?}");
        assert_eq!(shown.iter().filter(|word| word.ends_with("hubid=1")).count(), 2);
    }

    #[test]
    fn kvm_only_where_a_vendor_module_is_loaded() {
        assert_eq!(accelerator(Path::new("/nonexistent")), "tcg,thread=multi");
    }
}
