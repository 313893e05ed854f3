//! A wire that loses frames: two UDP sockets in one namespace, a thread in each direction.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use florelay_e2e::Namespace;
use rustix::net::sockopt;

/// How soon an idle thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Longest payload of a frame: Ethernet's MTU without headers, and room.
const BUFFER_BYTES: usize = 2048;
/// A sender in a hurry does not lose frames to a thread that waits for its core.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;

/// Carries until it is dropped.
pub(crate) struct LossyWire {
    stop: Arc<AtomicBool>,
    seen: Arc<[AtomicU64; 2]>,
    threads: Vec<JoinHandle<()>>,
}

impl LossyWire {
    /// Between two sockets, each (own address, the only one that it talks to).
    pub(crate) fn start(place: &Namespace, ports: [(SocketAddrV4, SocketAddrV4); 2], loss: f64) -> Self {
        let open = |(local, remote): (SocketAddrV4, SocketAddrV4)| {
            let socket = place.enter(|| Ok(UdpSocket::bind(local)?)).unwrap();
            socket.connect(remote).unwrap();
            socket.set_read_timeout(Some(LOOK)).unwrap();
            // Root may have more than the system's limit.
            sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).unwrap();
            socket
        };
        let [outer, inner] = ports.map(open);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new([const { AtomicU64::new(0) }; 2]);
        let ways = [(outer.try_clone().unwrap(), inner.try_clone().unwrap()), (inner, outer)];
        let carry = |(way, (from, to)): (u64, (UdpSocket, UdpSocket))| {
            let (stop, seen) = (stop.clone(), seen.clone());
            thread::spawn(move || {
                let mut state = way + 1;
                let mut buffer = [0; BUFFER_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    // A refused port is a node that does not run yet; silence is silence.
                    let Ok(length) = from.recv(&mut buffer) else { continue };
                    let lost = random(&mut state) < loss;
                    if way == 0 {
                        seen[0].fetch_add(1, Ordering::Relaxed);
                        seen[1].fetch_add(u64::from(lost), Ordering::Relaxed);
                    }
                    if !lost {
                        let _ = to.send(&buffer[..length]);
                    }
                }
            })
        };
        let threads = (0..).zip(ways).map(carry).collect();
        Self { stop, seen, threads }
    }

    /// Frames of the first socket's neighbour: seen, and dropped of these.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.seen[0].load(Ordering::Relaxed), self.seen[1].load(Ordering::Relaxed))
    }
}

impl Drop for LossyWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// In [0, 1), by SplitMix64 (Steele, Lea, Flood 2014).
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
