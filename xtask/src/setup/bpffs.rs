//! The bpf file system, in which the supervisor pins programs and maps. Minimal systems do not mount it.
//! Undo with `umount /sys/fs/bpf`; a reboot undoes it as well.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{Done, State, Step};
use crate::cmd;
use crate::context::Context;

pub(super) struct Bpffs;

const MOUNT_POINT: &str = "/sys/fs/bpf";

impl Step for Bpffs {
    fn name(&self) -> &'static str {
        "bpf file system"
    }

    fn why(&self) -> &'static str {
        "eBPF programs and maps are pinned there, so that they outlive a crash; only root needs it"
    }

    fn check(&self, context: &Context) -> Result<State> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        if is_mounted(&mounts) {
            return Ok(State::Ready(format!("mounted at {MOUNT_POINT}")));
        }
        if !context.is_root {
            return Ok(State::Ready("not mounted; not needed without root (adapter = \"udp\")".to_owned()));
        }
        if !fs::exists(MOUNT_POINT)? {
            return Ok(State::Ready(format!("{MOUNT_POINT} does not exist: this kernel has no bpf file system")));
        }
        Ok(State::Missing(format!("not mounted at {MOUNT_POINT}")))
    }

    fn install(&self, _: &Context) -> Result<Done> {
        let mut mount = Command::new("mount");
        cmd::run(mount.args(["-t", "bpf", "bpf", MOUNT_POINT]))?;
        Ok(Done::Installed)
    }
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(1) == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_mount_at_the_right_place_counts() {
        assert!(is_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!is_mounted("bpf /mnt bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
