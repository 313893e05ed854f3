//! The XDP program in the kernel against the same parser in user space: for every frame here both must give the same
//! verdict and count the same outcome. `BPF_PROG_TEST_RUN` runs the verified program on bytes that need no interface, so
//! this reaches VLAN tags and malformed headers that no socket sends.
#![forbid(unsafe_code)]

mod netns;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{HashMap, PerCpuArray, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use florelay_dataplane::attach::OBJECT;
use florelay_wire::eth::MacAddr;
use florelay_wire::maps::{
    OUTCOME_MAP, Outcome, PROGRAM, STEER_KEY_BYTES, STEER_MAP, STEER_TO_KERNEL, STEER_VALUE_BYTES, SteerKey,
    SteerValue, XSK_MAP,
};
use florelay_wire::outer::{NextHop, OuterTemplate};
use florelay_wire::{link, outer};
use netns::{may_run, xsk};

/// linux/bpf.h, `enum xdp_action`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const PORT: u16 = 6635;
const V4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const V6: [&str; 2] = ["fd00::1", "fd00::2"];
/// Shortest frame that the kernel's test run takes.
const MIN_FRAME: usize = 14;

/// LSEs 100 and 200, then a control word of zeros or an associated channel with an alarm, or link-scope liveness.
const PATH: &[u8] = b"\x00\x06\x40\x40\x00\x0c\x81\x40\x00\x00\x00\x00and a payload that is longer than any header";
const CHANNEL: &[u8] = b"\x00\x06\x40\x40\x00\x0c\x81\x40\x10\x00\x7f\xf9alarm";
const LIVENESS: &[u8] = b"\x00\x00\xd1\x01\x10\x00\x7f\xf8liveness";

struct Loaded {
    ebpf: Ebpf,
    _xsk: OwnedFd,
}

impl Loaded {
    fn new() -> Self {
        let mut ebpf = Ebpf::load(OBJECT).expect("loads");
        program(&mut ebpf).load().expect("the verifier accepts it");
        let xsk = xsk();
        // The test run's context is queue 0 of lo.
        let mut sockets = XskMap::try_from(ebpf.map_mut(XSK_MAP).expect("is there")).expect("is an XSKMAP");
        sockets.set(0, xsk.as_raw_fd(), 0).expect("can be set");
        let mut loaded = Self { ebpf, _xsk: xsk };
        for (address, vlan, flags) in
            [(V4[0], 0, 0), (V6[0], 0, 0), (V4[0], 100, 0), (V6[0], 100, 0), (V4[0], 200, STEER_TO_KERNEL)]
        {
            let key = SteerKey { vlan, port: PORT, address: ip(address) };
            loaded.steer().insert(key.to_bytes(), SteerValue { link: 0, flags }.to_bytes(), 0).expect("can be set");
        }
        loaded
    }

    fn steer(&mut self) -> HashMap<&mut aya::maps::MapData, [u8; STEER_KEY_BYTES], [u8; STEER_VALUE_BYTES]> {
        HashMap::try_from(self.ebpf.map_mut(STEER_MAP).expect("is there")).expect("is a hash map")
    }

    fn counters(&self) -> [u64; Outcome::COUNT] {
        let map = self.ebpf.map(OUTCOME_MAP).expect("is there");
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("is a per-CPU array");
        std::array::from_fn(|index| {
            let index = u32::try_from(index).expect("few");
            map.get(&index, 0).expect("is there").iter().sum()
        })
    }

    fn run(&mut self, frame: &[u8]) -> u32 {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        program(&mut self.ebpf).test_run(options).expect("the kernel runs it").return_value
    }

    /// What the program should do, from the same parser and the same table.
    fn expected(&mut self, frame: &[u8]) -> Outcome {
        let outer = match outer::parse(frame) {
            Ok(outer) => outer,
            Err(error) => return Outcome::of_outer(error),
        };
        let key = SteerKey { vlan: outer.vlan.unwrap_or(0), port: outer.dst_port, address: outer.dst };
        let Ok(value) = self.steer().get(&key.to_bytes(), 0) else {
            return Outcome::PassNotOurs;
        };
        let payload = outer.payload.of(frame).expect("was parsed");
        if payload.is_empty() {
            return Outcome::PassNotOurs;
        }
        if SteerValue::from_bytes(&value).flags & STEER_TO_KERNEL != 0 {
            return Outcome::PassNoSocket;
        }
        if link::parse(payload).is_err() { Outcome::DropMalformed } else { Outcome::Steered }
    }

    /// Runs the frame in the kernel and compares; gives the outcome.
    fn check(&mut self, frame: &[u8]) -> Outcome {
        let expected = self.expected(frame);
        let before = self.counters();
        let action = self.run(frame);
        let mut after = self.counters();
        after[expected as usize] -= 1;
        assert_eq!(after, before, "the outcome is not {expected:?} (or not only): {frame:02x?}");
        let expected_action = match expected {
            Outcome::Steered => XDP_REDIRECT,
            Outcome::DropMalformed => XDP_DROP,
            _ => XDP_PASS,
        };
        assert_eq!(action, expected_action, "{expected:?}: {frame:02x?}");
        expected
    }
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(PROGRAM).expect("is there").try_into().expect("is XDP")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn frame([local, remote]: [&str; 2], vlan: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let template = OuterTemplate::new(&NextHop {
        src_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        dst_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        vlan,
        src: SocketAddr::new(ip(remote), PORT),
        dst: SocketAddr::new(ip(local), PORT),
    })
    .expect("a valid next hop");
    let mut frame = vec![0; template.header_len()];
    template.write(&mut frame, payload, 0, 7).expect("there is room");
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn good_frames_are_steered_or_passed_as_the_table_says() {
    if !may_run("XDP program: good frames") {
        return;
    }
    let mut loaded = Loaded::new();
    for family in [V4, V6] {
        for payload in [PATH, CHANNEL, LIVENESS] {
            assert_eq!(loaded.check(&frame(family, None, payload)), Outcome::Steered);
            assert_eq!(loaded.check(&frame(family, Some(100), payload)), Outcome::Steered);
            assert_eq!(loaded.check(&frame(family, Some(101), payload)), Outcome::PassNotOurs);
        }
        assert_eq!(loaded.check(&frame(family, None, b"")), Outcome::PassNotOurs);
        assert_eq!(loaded.check(&frame(family, None, b"?")), Outcome::DropMalformed);
    }
    assert_eq!(loaded.check(&frame(V4, Some(200), PATH)), Outcome::PassNoSocket);
    assert_eq!(loaded.check(&frame(V6, Some(200), PATH)), Outcome::PassNotOurs);
    // Another address of the host: links are bound to one.
    assert_eq!(loaded.check(&frame(["10.0.0.9", "10.0.0.2"], None, PATH)), Outcome::PassNotOurs);
    // Ethernet pads short frames behind the datagram.
    let mut padded = frame(V4, None, &LIVENESS[..8]);
    padded.resize(60, 0xff);
    assert_eq!(loaded.check(&padded), Outcome::Steered);
}

#[test]
fn every_byte_changed_and_every_truncation_gives_the_verdict_of_the_parser() {
    if !may_run("XDP program: damaged frames") {
        return;
    }
    let mut loaded = Loaded::new();
    let mut seen = [0_u32; Outcome::COUNT];
    for family in [V4, V6] {
        for vlan in [None, Some(100), Some(200)] {
            for payload in [PATH, CHANNEL, LIVENESS] {
                let good = frame(family, vlan, payload);
                for length in MIN_FRAME..good.len() {
                    seen[loaded.check(&good[..length]) as usize] += 1;
                }
                // Everything that the program reads, and a little more.
                for at in 0..good.len().min(84) {
                    // 0x3d makes the fragment header (44) out of UDP (17) over IPv6.
                    for change in [0x01, 0x10, 0x3d, 0x40, 0x80, 0xff] {
                        let mut bad = good.clone();
                        bad[at] ^= change;
                        seen[loaded.check(&bad) as usize] += 1;
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "every outcome was reached: {seen:?}");
}
