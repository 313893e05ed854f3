//! The smallest XDP program there is a use for, made and attached with bpf(2) directly: everything goes to the AF_XDP
//! socket of the receiving queue, or up the stack if there is none. The daemon's real program is loaded with aya.
//!
//! ```text
//!   r2 = ctx->rx_queue_index
//!   r1 = xskmap
//!   r3 = XDP_PASS              (what happens without a socket)
//!   call bpf_redirect_map
//!   exit
//! ```

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use florelay_xsk::AttachMode;

const BPF_MAP_CREATE: i32 = 0; // enum bpf_cmd, linux/bpf.h
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1; // linux/if_link.h
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2; // linux/if_link.h

/// union bpf_attr as bytes, fields set by offset.
struct Attr([u64; 18]);

impl Attr {
    fn new() -> Self {
        Self([0; 18])
    }
    fn u32(mut self, offset: usize, value: u32) -> Self {
        let shift = (offset % 8) * 8;
        self.0[offset / 8] |= u64::from(value) << shift;
        self
    }
    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset / 8] = value;
        self
    }
    fn call(&self, command: i32) -> io::Result<i64> {
        // SAFETY: the attribute is 144 zero-padded bytes; pointers in it outlive the call (the callers' locals).
        let code = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), size_of_val(&self.0)) };
        if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
    }
    fn descriptor(&self, command: i32, what: &str) -> OwnedFd {
        let fd = self.call(command).unwrap_or_else(|e| panic!("{what}: {e}"));
        // SAFETY: bpf(2) has just given us this descriptor.
        unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
    }
}

/// The program, attached until dropped.
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    /// Load and attach in the calling thread's network namespace.
    pub fn attach(interface: &str, mode: AttachMode) -> Self {
        let map = Attr::new().u32(0, BPF_MAP_TYPE_XSKMAP).u32(4, 4).u32(8, 4).u32(12, 64);
        let map = map.descriptor(BPF_MAP_CREATE, "XSKMAP");
        let map_fd = u64::from(map.as_raw_fd().unsigned_abs());
        let instructions: [u64; 6] = [
            0x61 | (0x12 << 8) | (16 << 16),     // r2 = *(u32 *)(r1 + 16)
            0x18 | (0x11 << 8) | (map_fd << 32), // r1 = map (BPF_PSEUDO_MAP_FD)
            0,                                   //   second half of the 64-bit load
            0xb7 | (0x03 << 8) | (2 << 32),      // r3 = XDP_PASS
            0x85 | (51 << 32),                   // call bpf_redirect_map
            0x95,                                // exit
        ];
        let mut log = vec![0_u8; 4096];
        let program = Attr::new()
            .u32(0, BPF_PROG_TYPE_XDP)
            .u32(4, u32::try_from(instructions.len()).expect("six"))
            .u64(8, instructions.as_ptr() as u64)
            .u64(16, c"Dual MIT/GPL".as_ptr() as u64)
            .u32(24, 1)
            .u32(28, u32::try_from(log.len()).expect("4096"))
            .u64(32, log.as_mut_ptr() as u64)
            .u32(68, BPF_XDP)
            .descriptor(BPF_PROG_LOAD, "XDP program");
        let name = CString::new(interface).expect("no NUL");
        // SAFETY: a NUL-terminated string.
        let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(ifindex, 0, "{interface} exists");
        let link = Attr::new()
            .u32(0, program.as_raw_fd().unsigned_abs())
            .u32(4, ifindex)
            .u32(8, BPF_XDP)
            .u32(12, if mode == AttachMode::Skb { XDP_FLAGS_SKB_MODE } else { XDP_FLAGS_DRV_MODE })
            .descriptor(BPF_LINK_CREATE, "XDP link");
        Self { map, _program: program, _link: link }
    }

    /// Put a socket in the map.
    pub fn steer(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd();
        Attr::new()
            .u32(0, self.map.as_raw_fd().unsigned_abs())
            .u64(8, std::ptr::from_ref(&queue) as u64)
            .u64(16, std::ptr::from_ref(&value) as u64)
            .call(BPF_MAP_UPDATE_ELEM)
            .unwrap_or_else(|e| panic!("XSKMAP update: {e}"));
    }
}
