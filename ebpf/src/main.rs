//! `florelay_steer`: the XDP program that takes link traffic out of the kernel's way and leaves everything else alone.
//!
//! ```text
//!  frame ──► copy the front (80 bytes) ──► wire::outer ──refused──────────────► XDP_PASS   pass_not_ours | pass_fragment
//!                                             │                                            | pass_too_short | pass_unread
//!                                     UDP to (VLAN, address, port)
//!                                             │
//!                                          STEER ──no entry, or empty datagram─► XDP_PASS   pass_not_ours
//!                                             │ ├──entry says "to kernel"──────► XDP_PASS   pass_no_socket
//!                                             │
//!                                        wire::link ──refused──► XDP_DROP                   drop_malformed (+ a log, seldom)
//!                                             │
//!                                   XSKS[receiving queue] ──no socket──────────► XDP_PASS   pass_no_socket
//!                                             │
//!                                       XDP_REDIRECT                                        steered
//! ```
//!
//! Invariants
//! - Every frame counts exactly once, in the per-CPU array `OUTCOMES`.
//! - The parser is `florelay_wire`, the one that workers and tools use.
//! - Without a socket (the daemon died: the kernel empties the socket map itself) nothing is redirected; what is
//!   not ours never depends on the daemon at all.
//! - An AF_XDP socket gets frames of the queue that it is bound to and no other: the map is read at the receiving queue.
//! - An empty datagram passes: with one of these a neighbour makes its kernel resolve our address, and it is not a link frame.
//!
//! Limits
//! - A frame counted as steered may still be dropped behind the program (the socket's RX ring is full): the socket's
//!   own statistics count that.
//! - A VLAN tag that the NIC strips before XDP is not seen: switch `rxvlan` offload off on a parent of VLAN links.
//! - Single-buffer XDP: a native attach is refused by drivers for an MTU above about one page.
//! - Needs `bpf_xdp_load_bytes` (Linux 5.18). The UDP checksum is not checked here.
#![no_std]
#![no_main]
// The attribute makes an undocumented function of the same name.
#![allow(missing_docs)]

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_xdp_load_bytes;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{HashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use florelay_wire::ParseError;
use florelay_wire::eth::ETH_BYTES;
use florelay_wire::link::{self, PATH_HEADER_BYTES};
use florelay_wire::maps::{
    MALFORMED_MAP, OUTCOME_MAP, Outcome, PROGRAM, STEER_KEY_BYTES, STEER_MAP, STEER_MAP_ENTRIES, STEER_TO_KERNEL,
    STEER_VALUE_BYTES, SteerKey, SteerValue, XSK_MAP, XSK_MAP_ENTRIES,
};
use florelay_wire::outer::{self, MAX_OUTER_BYTES, Outer};

/// As much of a frame as any verdict here needs: the longest outer header and the longest link header.
///
/// It is copied to the stack: the verifier lets a slice of known size be indexed under ordinary bounds checks, which it does
/// not for packet memory reached through a length in a register.
const FRONT_BYTES: usize = (MAX_OUTER_BYTES + PATH_HEADER_BYTES).next_multiple_of(8);

/// Words, so that [`zero`] takes few instructions.
type Front = [u64; FRONT_BYTES / 8];

/// One malformed frame in this many is logged, per CPU and reason, the first included. A power of two.
const LOG_ONE_IN: u64 = 1024;

/// Frames of these addresses and ports are ours. Written by user space alone.
#[map]
static STEER: HashMap<[u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES]> = HashMap::with_max_entries(STEER_MAP_ENTRIES, 0);

/// The AF_XDP socket of each receiving queue. Written by user space; the kernel removes sockets that close.
#[map]
static XSKS: XskMap = XskMap::with_max_entries(XSK_MAP_ENTRIES, 0);

/// Frames by outcome.
#[map]
static OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::COUNT as u32, 0);

/// Malformed frames by reason.
#[map]
static MALFORMED: PerCpuArray<u64> = PerCpuArray::with_max_entries(ParseError::COUNT as u32, 0);

// User space finds program and maps by these names; a static's name cannot be taken from a constant.
const _: () = assert!(same(PROGRAM, "florelay_steer") && same(STEER_MAP, "STEER"));
const _: () = assert!(same(XSK_MAP, "XSKS") && same(OUTCOME_MAP, "OUTCOMES") && same(MALFORMED_MAP, "MALFORMED"));

/// The program.
#[xdp]
pub fn florelay_steer(ctx: XdpContext) -> u32 {
    let (outcome, action) = steer(&ctx);
    if let Some(counter) = OUTCOMES.get_ptr_mut(outcome.index()) {
        // SAFETY: the map outlives the program, and the element belongs to this CPU, on which XDP programs do not preempt each other.
        unsafe { *counter += 1 };
    }
    action
}

/// The link emulator's program (`bench`), never loaded by a node: every frame goes to the socket of its receiving queue, so
/// that none goes around the emulator. Without a socket it is dropped.
#[xdp]
pub fn florelay_divert(ctx: XdpContext) -> u32 {
    XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_DROP)).unwrap_or(XDP_DROP)
}

#[inline(always)]
fn steer(ctx: &XdpContext) -> (Outcome, u32) {
    let frame_len = ctx.data_end().wrapping_sub(ctx.data());
    let mut front = MaybeUninit::<Front>::uninit();
    let Some(front_len) = load_front(ctx, frame_len, &mut front) else {
        return (Outcome::PassTooShort, XDP_PASS);
    };
    // SAFETY: `load_front` has written all of it.
    let front: &[u8; FRONT_BYTES] = unsafe { &*front.as_ptr().cast() };
    let Some(front) = front.get(..front_len) else {
        return (Outcome::PassTooShort, XDP_PASS);
    };

    let outer = match outer::parse_front(front, frame_len) {
        Ok(outer) => outer,
        Err(error) => return (Outcome::of_outer(error), XDP_PASS),
    };
    let key = SteerKey { vlan: outer.vlan.unwrap_or(0), port: outer.dst_port, address: outer.dst };
    // SAFETY: the map preallocates; a value that user space replaces meanwhile is read old, new or mixed, and every mix of
    // a link index and flags is harmless here.
    let Some(entry) = (unsafe { STEER.get(key.to_bytes()) }) else {
        return (Outcome::PassNotOurs, XDP_PASS);
    };
    if outer.payload.len == 0 {
        return (Outcome::PassNotOurs, XDP_PASS);
    }
    if SteerValue::from_bytes(entry).flags & STEER_TO_KERNEL != 0 {
        return (Outcome::PassNoSocket, XDP_PASS);
    }

    if let Err(error) = check_link(front, &outer) {
        note_malformed(ctx, outer.dst_port, error);
        return (Outcome::DropMalformed, XDP_DROP);
    }
    // The low bits of the flags are the verdict for a queue without a socket.
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)) {
        Ok(action) => (Outcome::Steered, action),
        Err(action) => (Outcome::PassNoSocket, action),
    }
}

/// Copies the front of the frame; how many bytes of it are the frame's. The rest is zero.
///
/// A long frame, the usual one, is one copy of constant length. For a short one the length is in a register, and Linux before
/// 6.3 then wants the whole buffer to be initialised first.
#[inline(always)]
fn load_front(ctx: &XdpContext, frame_len: usize, front: &mut MaybeUninit<Front>) -> Option<usize> {
    if frame_len < ETH_BYTES {
        return None;
    }
    let len = if frame_len >= FRONT_BYTES {
        FRONT_BYTES
    } else {
        zero(front);
        frame_len
    };
    // SAFETY: `front` has room for `len` bytes, and the helper checks the range in the frame.
    let error = unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, front.as_mut_ptr().cast(), len as u32) };
    (error == 0).then_some(len)
}

/// Volatile, because the compiler makes a call to a `memset` that goes byte by byte out of anything else.
#[inline(always)]
fn zero(front: &mut MaybeUninit<Front>) {
    let words: *mut u64 = front.as_mut_ptr().cast();
    for at in 0..FRONT_BYTES / 8 {
        // SAFETY: `at` is inside the array.
        unsafe { words.add(at).write_volatile(0) };
    }
}

/// Parses as much of the link payload as the front holds, which is all of its headers.
#[inline(always)]
fn check_link(front: &[u8], outer: &Outer) -> Result<(), ParseError> {
    let payload = front.get(outer.payload.offset..).ok_or(ParseError::TooShort)?;
    let payload = payload.get(..outer.payload.len).unwrap_or(payload);
    link::parse(payload).map(|_| ())
}

/// Counts a malformed frame by its reason, and logs one in [`LOG_ONE_IN`]. User space turns the number behind `reason` into
/// words.
#[inline(always)]
fn note_malformed(ctx: &XdpContext, port: u16, error: ParseError) {
    let Some(seen) = MALFORMED.get_ptr_mut(error.index() as u32) else {
        return;
    };
    // SAFETY: as for `OUTCOMES`.
    let number = unsafe {
        let number = *seen;
        *seen = number.wrapping_add(1);
        number
    };
    if number & (LOG_ONE_IN - 1) == 0 {
        warn!(
            ctx,
            "malformed link frame to port {} on queue {} (number {} for it on this CPU): reason {}",
            port,
            ctx.rx_queue_index(),
            number + 1,
            error.index()
        );
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// No helper that the program calls asks for a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the verifier refuses a program with a loop that does not end.
    loop {}
}
