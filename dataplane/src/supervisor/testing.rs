//! A plan of one link on `eth1`, and a broker that writes down what it is asked to do.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;

use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::unbound::{Binding, Memory};

use crate::attach::Mode;
use crate::broker::{Broker, FreshSocket};
use crate::plan::{AdapterPlan, NodePlan, PollMode, fixture};

/// Links at 127.0.0.1:0 on `eth1` and at 127.0.0.2:0 on a UDP socket, both of a worker that polls this way.
pub(super) fn plan(poll: PollMode) -> NodePlan {
    let line = fixture::link("line", 0, "127.0.0.1:0", fixture::xdp("eth1"));
    fixture::node(1, poll, vec![line, fixture::link("other", 0, "127.0.0.2:0", AdapterPlan::Udp)])
}

/// Every interface has two.
#[expect(clippy::unnecessary_wraps, reason = "stands in for a question to the kernel")]
pub(super) fn two_queues(_interface: &str) -> Result<u32, String> {
    Ok(2)
}

/// What was done, in words.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Vec<String>);

impl Broker for Recorder {
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String> {
        self.0.push(format!("attach {interface} {mode:?}"));
        Ok(())
    }

    fn xdp_socket(&mut self, interface: &str, queue: u32, busy: bool) -> Result<FreshSocket, String> {
        self.0.push(format!("socket {interface} {queue} {busy}"));
        let fd = rustix::fs::memfd_create("socket", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        Ok(FreshSocket { fd, no_busy_poll: None })
    }

    fn register_umem(&mut self, _socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
        self.0.push(format!("register {} bytes", memory.bytes));
        Ok(())
    }

    fn bind_xdp(&mut self, _socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
        self.0.push(format!("bind {to}"));
        Ok(())
    }

    fn udp_socket(&mut self, local: SocketAddr) -> Result<UdpSocket, String> {
        self.0.push(format!("udp {local}"));
        Err("the office does it".into())
    }

    fn thread_napi(&mut self, interface: &str, on: bool) -> Result<(), String> {
        self.0.push(format!("napi {interface} {on}"));
        Ok(())
    }

    fn register(&mut self, interface: &str, queue: u32, _socket: BorrowedFd<'_>) -> Result<(), String> {
        self.0.push(format!("register {interface} {queue}"));
        Ok(())
    }

    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String> {
        self.0.push(format!("steer {interface} {}", entries.len()));
        Ok(())
    }

    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String> {
        self.0.push(format!("counters {interface}"));
        Ok(vec![("passed".into(), 7)])
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        self.0.push(format!("detach {interface}"));
        Ok(())
    }
}
