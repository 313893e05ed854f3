//! What is fetched, by suite, version and SHA-256: the only table to edit for a new kernel or QEMU.
//!
//! The sums are those of Debian's signed package lists. A backports suite keeps the newest few versions only: when a pin is gone,
//! `apt-cache policy` on that suite shows what took its place; change version, release and sum together.

/// One Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Suite, e.g. `bookworm-backports`.
    pub suite: &'static str,
    /// Package name.
    pub package: &'static str,
    /// Exact version, epoch included.
    pub version: &'static str,
    /// SHA-256 of the `.deb`, in hexadecimal.
    pub sha256: &'static str,
}

/// One kernel: the image and its modules, in one package or two.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// What one calls it: `--kernel 6.18`.
    pub name: &'static str,
    /// `uname -r`.
    pub release: &'static str,
    /// The packages that together hold `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`.
    pub packages: &'static [Pin],
}

/// The oldest QEMU that emulates `igb` and does not crash guests under software emulation.
pub const OLDEST_QEMU: u32 = 10;

/// The Debian release whose QEMU packages [`QEMU`] names; on another one, QEMU comes from the system.
pub const QEMU_FOR: &str = "bookworm";

/// Suites that QEMU's libraries come from, beside [`QEMU_FOR`] itself.
pub const QEMU_SUITE: &str = "bookworm-backports";

/// QEMU and its firmware. The libraries it needs follow the machine and are resolved, and their signatures checked, by apt.
pub const QEMU: &[Pin] = &[
    Pin {
        suite: QEMU_SUITE,
        package: "qemu-system-x86",
        version: "1:10.0.2+ds-2+deb13u1~bpo12+1",
        sha256: "4a6b1856c8b0d7df4ff8e70249e12c473ccf8d516aadb4ae14d3d938faed0c65",
    },
    Pin {
        suite: QEMU_SUITE,
        package: "qemu-system-common",
        version: "1:10.0.2+ds-2+deb13u1~bpo12+1",
        sha256: "23a4672a138832d7173855e981aa8282c73ef5e04e080fa7ada9f82c6b34f507",
    },
    Pin {
        suite: QEMU_SUITE,
        package: "qemu-system-data",
        version: "1:10.0.2+ds-2+deb13u1~bpo12+1",
        sha256: "2d831088187087013b3fcbd19bdfb955b182a2d5a08f6dafa0ad1c6d2007fb4e",
    },
    Pin {
        suite: QEMU_SUITE,
        package: "seabios",
        version: "1.16.3-2~bpo12+1",
        sha256: "48390d0a534c66d11789e39518aa219773a9d3677b29fe1af8799dfb563ec713",
    },
];

/// The kernels, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "6.1",
        release: "6.1.0-50-amd64",
        packages: &[Pin {
            suite: "bookworm",
            package: "linux-image-6.1.0-50-amd64",
            version: "6.1.176-1",
            sha256: "7b5597492a0a65aee61985a492e6bcc3f2cde830072a0e3b3d8c7e1b90279bd3",
        }],
    },
    Kernel {
        name: "6.12",
        release: "6.12.95+deb12-amd64",
        packages: &[Pin {
            suite: "bookworm-backports",
            package: "linux-image-6.12.95+deb12-amd64",
            version: "6.12.95-1~bpo12+1",
            sha256: "5e524b782be67cb0d6a2e7b51816a2ac519e573ef7324b9a63a4124365653ecc",
        }],
    },
    Kernel {
        name: "6.18",
        release: "6.18.15+deb13-amd64",
        packages: &[Pin {
            suite: "trixie-backports",
            package: "linux-image-6.18.15+deb13-amd64",
            version: "6.18.15-1~bpo13+1",
            sha256: "d38a7af6260782a47cd615ad717347a528b45f076245b4deabb3f1ecf8459186",
        }],
    },
    Kernel {
        name: "7.2",
        release: "7.2.12+deb13-amd64",
        // From 7.2 on `linux-image-*` is empty: image and modules are two packages.
        packages: &[
            Pin {
                suite: "trixie-backports",
                package: "linux-binary-7.2.12+deb13-amd64",
                version: "7.2.12-1~bpo13+1",
                sha256: "0d916c7f1310a7cb0567f235785d1c4511d894eb95e9810a2bc1f67e7ec18c2f",
            },
            Pin {
                suite: "trixie-backports",
                package: "linux-modules-7.2.12+deb13-amd64",
                version: "7.2.12-1~bpo13+1",
                sha256: "abd8aad34e82ae541ec596eafa9ac84bbcddf943c5de051d330516c3dff395d6",
            },
        ],
    },
];

/// The kernel that runs when none is named.
pub const DEFAULT_KERNEL: &str = "6.18";

/// Every suite a pin names, and [`QEMU_FOR`] for QEMU's libraries.
#[must_use]
pub fn suites() -> Vec<&'static str> {
    let kernels = KERNELS.iter().flat_map(|kernel| kernel.packages);
    let mut suites: Vec<_> = QEMU.iter().chain(kernels).map(|pin| pin.suite).chain([QEMU_FOR]).collect();
    suites.sort_unstable();
    suites.dedup();
    suites
}

/// The kernel of that name.
#[must_use]
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_whole() {
        for pin in KERNELS.iter().flat_map(|kernel| kernel.packages).chain(QEMU) {
            assert_eq!(pin.sha256.len(), 64, "{pin:?}");
            assert!(pin.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()), "{pin:?}");
        }
        for kernel in KERNELS {
            assert!(kernel.packages.iter().any(|pin| pin.package.ends_with(kernel.release)), "{kernel:?}");
        }
        assert!(kernel(DEFAULT_KERNEL).is_some());
    }
}
