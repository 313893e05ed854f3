//! The XDP program on real interfaces: what it passes, steers, drops and counts; detaching without a trace; taking over
//! from a process that was killed. The topology is in `netns/mod.rs`.
#![forbid(unsafe_code)]

mod netns;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use florelay_dataplane::attach::{AttachError, Attachment, Mode, OBJECT, ensure_bpffs};
use florelay_wire::maps::{STEER_TO_KERNEL, SteerKey, SteerValue};
use netns::{A, B, Net, enter, in_netns, may_run, unique, xsk};

/// The link's port in these tests.
const PORT: u16 = 6635;
/// A port that is not ours.
const OTHER_PORT: u16 = 7777;
/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tells the helper process what to attach.
const CHILD_ENV: &str = "FLORELAY_TEST_ATTACH_CHILD";

/// Two label stack entries (100, S=0 and 200, S=1, TTL 64), a control word of zeros, a payload.
const LINK_FRAME: &[u8] = b"\x00\x06\x40\x40\x00\x0c\x81\x40\x00\x00\x00\x00payload";
/// One label stack entry that is not the bottom, and then nothing.
const MALFORMED: &[u8] = b"\x00\x06\x40\x40";

fn entry(address: &str, flags: u16) -> (SteerKey, SteerValue) {
    let address: IpAddr = address.parse().expect("an address");
    (SteerKey { vlan: 0, port: PORT, address }, SteerValue { link: 0, flags })
}

fn counter(attachment: &Attachment, name: &str) -> u64 {
    let counters = attachment.counters().expect("the counters are readable");
    counters.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

/// A kernel socket in namespace a.
fn socket(address: &str, port: u16) -> UdpSocket {
    let socket =
        UdpSocket::bind(SocketAddr::new(address.parse().expect("an address"), port)).expect("the port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).expect("the kernel's socket gets the datagram");
    buffer[..length].to_vec()
}

fn send_from_b(net: &Net, to: &str, port: u16, payloads: &[&[u8]]) {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    in_netns(&net.b, || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a port is free");
        for payload in payloads {
            socket.send_to(payload, to).expect("b sends");
        }
    });
}

/// A node name of its own, whose pins go away even if the test fails.
struct Node(String);

impl Node {
    fn new() -> Self {
        Self(unique("t"))
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/florelay").join(&self.0)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.pins());
    }
}

/// Whether `ip link` shows an XDP program on `va`.
fn shows_xdp(net: &Net) -> bool {
    net.ip(&net.a, "-details link show dev va").contains("xdp")
}

#[test]
fn what_is_not_ours_or_has_no_socket_reaches_the_kernel_and_malformed_frames_do_not() {
    if !may_run("attach: verdicts") {
        return;
    }
    let net = Net::new();
    for mode in [Mode::Native, Mode::Generic] {
        for (local, remote) in [(A, B), ("fd77::1", "fd77::2")] {
            in_netns(&net.a, || verdicts(&net, mode, local, remote));
        }
    }
}

fn verdicts(net: &Net, mode: Mode, local: &str, remote: &str) {
    let node = Node::new();
    let mut attachment = Attachment::attach("va", &node.0, mode, OBJECT).expect("attaches");
    let ours = socket(local, PORT);
    let other = socket(local, OTHER_PORT);

    // Without a steer entry nothing is ours.
    send_from_b(net, local, PORT, &[LINK_FRAME]);
    assert_eq!(receive(&ours), LINK_FRAME);
    assert_eq!(counter(&attachment, "pass_no_socket"), 0);

    attachment.set_steering(&[entry(local, 0)]).expect("steers");
    send_from_b(net, local, OTHER_PORT, &[b"not ours"]);
    assert_eq!(receive(&other), b"not ours");
    assert!(counter(&attachment, "pass_not_ours") >= 2);

    // Ours, but nobody took the queue; the malformed and the good frame share a queue, so the good one comes after.
    send_from_b(net, local, PORT, &[MALFORMED, LINK_FRAME]);
    assert_eq!(receive(&ours), LINK_FRAME, "the malformed frame was dropped");
    assert_eq!(counter(&attachment, "drop_malformed"), 1);
    assert_eq!(counter(&attachment, "pass_no_socket"), 1);
    attachment.drain_log();

    // An empty datagram makes a neighbour resolve; it is no link frame and no fault.
    send_from_b(net, local, PORT, &[b""]);
    assert_eq!(receive(&ours), b"");
    assert_eq!(counter(&attachment, "drop_malformed"), 1);

    // The socket rung: even malformed frames are the kernel's.
    attachment.set_steering(&[entry(local, STEER_TO_KERNEL)]).expect("steers");
    send_from_b(net, local, PORT, &[MALFORMED]);
    assert_eq!(receive(&ours), MALFORMED);
    assert_eq!(counter(&attachment, "pass_no_socket"), 2);

    attachment.set_steering(&[]).expect("steers");
    send_from_b(net, local, PORT, &[LINK_FRAME]);
    assert_eq!(receive(&ours), LINK_FRAME);
    assert_eq!(counter(&attachment, "pass_no_socket"), 2);
    assert_eq!(counter(&attachment, "steered"), 0);

    assert!(net.ping(&net.b, local) && net.ping(&net.a, remote), "ICMP and ARP or ND pass");
    attachment.detach().expect("detaches");
    assert!(!node.pins().exists(), "no pin is left");
    assert!(!shows_xdp(net), "no program is left");
}

#[test]
fn a_registered_socket_takes_its_queue_and_gives_it_back_when_it_closes() {
    if !may_run("attach: sockets") {
        return;
    }
    let net = Net::new();
    in_netns(&net.a, || {
        let node = Node::new();
        let mut attachment = Attachment::attach("va", &node.0, Mode::Native, OBJECT).expect("attaches");
        let ours = socket(A, PORT);
        let other = socket(A, OTHER_PORT);
        attachment.set_steering(&[entry(A, 0)]).expect("steers");
        // Not bound to the queue: the kernel drops what is redirected to it, which is all that is looked at here.
        let xsk = xsk();
        attachment.register_socket(0, xsk.as_fd()).expect("registers");

        send_from_b(&net, A, PORT, &[LINK_FRAME]);
        send_from_b(&net, A, OTHER_PORT, &[b"later"]);
        assert_eq!(receive(&other), b"later", "other traffic does not care");
        assert_eq!(counter(&attachment, "steered"), 1);
        ours.set_nonblocking(true).expect("can be set");
        let stolen = ours.recv(&mut [0; 64]).expect_err("a steered frame is not the kernel's");
        assert_eq!(stolen.kind(), ErrorKind::WouldBlock);
        ours.set_nonblocking(false).expect("can be set");

        // As when the process dies. Other tests start processes meanwhile, which hold the descriptor until they have
        // executed; so the socket may live a moment longer.
        drop(xsk);
        ours.set_read_timeout(Some(Duration::from_millis(100))).expect("can be set");
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 64];
        let length = loop {
            send_from_b(&net, A, PORT, &[LINK_FRAME]);
            match ours.recv(&mut buffer) {
                Ok(length) => break length,
                Err(error) => assert!(Instant::now() < deadline, "the kernel's socket gets the datagram: {error}"),
            }
        };
        assert_eq!(buffer[..length], *LINK_FRAME);
        assert_eq!(counter(&attachment, "pass_no_socket"), 1);

        assert!(matches!(attachment.register_socket(1 << 20, ours.as_fd()), Err(AttachError::Map { .. })));
        assert!(matches!(attachment.register_socket(0, ours.as_fd()), Err(AttachError::Map { .. })));
        attachment.unregister_socket(0).expect("an empty queue is no error");
        attachment.detach().expect("detaches");
    });
}

#[test]
fn whatever_runs_already_is_never_replaced_unless_it_is_our_own_and_its_process_is_dead() {
    if !may_run("attach: foreign programs") {
        return;
    }
    let net = Net::new();
    in_netns(&net.a, || {
        let (node, rival) = (Node::new(), Node::new());
        let held = Attachment::attach("va", &node.0, Mode::Generic, OBJECT).expect("attaches");

        let error = Attachment::attach("va", &node.0, Mode::Generic, OBJECT).err().expect("the same node, still alive");
        assert!(matches!(error, AttachError::InUse { .. }), "{error}");
        let error = Attachment::attach("va", &rival.0, Mode::Generic, OBJECT).err().expect("another node");
        let AttachError::Foreign { program, id, owner, .. } = &error else { panic!("{error}") };
        assert_eq!((program.as_str(), *id), ("florelay_steer", held.program_id()));
        assert!(owner.contains(&node.0), "the error names the node: {error}");
        assert!(!rival.pins().exists(), "the refused node leaves nothing");
        held.detach().expect("detaches");

        // The same without a pin: nobody of ours.
        let mut ebpf = aya::Ebpf::load(OBJECT).expect("loads");
        let program: &mut aya::programs::Xdp =
            ebpf.program_mut("florelay_steer").expect("is there").try_into().expect("is XDP");
        program.load().expect("the verifier accepts it");
        program.attach("va", aya::programs::XdpMode::Skb).expect("attaches");
        let error = Attachment::attach("va", &node.0, Mode::Native, OBJECT).err().expect("a foreign program");
        assert!(matches!(error, AttachError::Foreign { .. }), "{error}");
        assert!(shows_xdp(&net), "it still runs");
        assert!(!node.pins().exists());

        let error = Attachment::attach("no-such-if", &node.0, Mode::Native, OBJECT).err().expect("no interface");
        assert!(matches!(error, AttachError::NoInterface { .. }), "{error}");
        let error = Attachment::attach("va", &node.0, Mode::Native, &[]).err().expect("an empty object");
        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
    });
}

/// Not a test: the process that is killed. It attaches as told by the environment, says so, and waits.
#[test]
fn helper_process() {
    let Ok(order) = std::env::var(CHILD_ENV) else {
        return;
    };
    let [ns, node, mode] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{CHILD_ENV}={order}") };
    enter(ns);
    let mode = if mode == "native" { Mode::Native } else { Mode::Generic };
    let mut attachment = Attachment::attach("va", node, mode, OBJECT).expect("attaches");
    attachment.set_steering(&[entry(A, 0)]).expect("steers");
    let xsk = xsk();
    attachment.register_socket(0, xsk.as_fd()).expect("registers");
    println!("\nattached {}", attachment.program_id());
    // Ends with the pipe if the parent dies first.
    let _ = std::io::stdin().read_line(&mut String::new());
}

struct Victim {
    child: Child,
    program_id: u32,
}

impl Victim {
    fn start(net: &Net, node: &str, mode: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("has a path"))
            .args(["helper_process", "--exact", "--nocapture"])
            .env(CHILD_ENV, format!("{} {node} {mode}", net.a))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts itself");
        let output = BufReader::new(child.stdout.take().expect("is piped"));
        let program_id = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("attached ")?.parse().ok())
            .expect("the helper process attaches");
        Self { child, program_id }
    }

    /// SIGKILL.
    fn kill(mut self) -> u32 {
        self.child.kill().expect("can be killed");
        self.child.wait().expect("ends");
        self.program_id
    }
}

#[test]
fn a_killed_process_leaves_ordinary_traffic_alone_and_its_successor_takes_over_without_a_lost_datagram() {
    if !may_run("attach: takeover") {
        return;
    }
    let net = Net::new();
    let node = Node::new();
    let old = Victim::start(&net, &node.0, "native").kill();
    assert!(shows_xdp(&net), "the pinned link keeps the program");
    assert!(net.ping(&net.b, A), "ordinary traffic passes");

    in_netns(&net.a, || {
        // The dead process had steered this port into its socket.
        let ours = socket(A, PORT);
        send_from_b(&net, A, PORT, &[LINK_FRAME]);
        assert_eq!(receive(&ours), LINK_FRAME, "link frames fall back to the kernel");

        let echo = socket(A, OTHER_PORT);
        let done = AtomicBool::new(false);
        let (started, first_reply) = std::sync::mpsc::channel();
        let attachment = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 64];
                while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                    if buffer[..length] == *b"end" {
                        break;
                    }
                    echo.send_to(&buffer[..length], from).expect("a echoes");
                }
            });
            let (net, done) = (&net, &done);
            let client = scope.spawn(move || {
                enter(&net.b);
                let socket = UdpSocket::bind((B, 0)).expect("a port is free");
                socket.connect((A, OTHER_PORT)).expect("connects");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
                let mut rounds = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    socket.send(&rounds.to_be_bytes()).expect("b sends");
                    let mut buffer = [0; 64];
                    let length = socket.recv(&mut buffer).expect("no datagram is lost");
                    assert_eq!(buffer[..length], rounds.to_be_bytes());
                    rounds += 1;
                    let _ = started.send(());
                }
                socket.send(b"end").expect("b sends");
                rounds
            });
            first_reply.recv_timeout(PATIENCE).expect("traffic flows before the takeover");
            let attachment = Attachment::attach("va", &node.0, Mode::Native, OBJECT).expect("takes over");
            while first_reply.try_recv().is_ok() {}
            first_reply.recv_timeout(PATIENCE).expect("traffic flows after the takeover");
            done.store(true, Ordering::Relaxed);
            assert!(client.join().expect("nothing was lost") > 1);
            attachment
        });
        assert!(attachment.took_over(), "the link was updated, not made anew");
        assert_ne!(attachment.program_id(), old);
        assert!(counter(&attachment, "pass_not_ours") > 0, "the new program is the one that runs");
        attachment.detach().expect("detaches");
        assert!(!shows_xdp(&net) && !node.pins().exists());

        // The other mode cannot be swapped in; it is made anew.
        Victim::start(&net, &node.0, "generic").kill();
        let attachment = Attachment::attach("va", &node.0, Mode::Native, OBJECT).expect("replaces");
        assert!(!attachment.took_over());
        assert!(net.ip(&net.a, "link show dev va").contains(" xdp "), "natively, not ` xdpgeneric `");
        attachment.detach().expect("detaches");

        // The interface is gone and made again: the pinned link leads nowhere.
        Victim::start(&net, &node.0, "generic").kill();
        net.ip(&net.a, "link del va");
        net.ip(&net.a, "link add va type veth peer name vc");
        let attachment = Attachment::attach("va", &node.0, Mode::Generic, OBJECT).expect("starts afresh");
        assert!(!attachment.took_over());
        attachment.detach().expect("detaches");
        assert!(!node.pins().exists());
    });
}

#[test]
fn a_bpffs_is_there_after_it_was_asked_for() {
    if !may_run("attach: bpffs") {
        return;
    }
    ensure_bpffs().expect("root may mount it");
    ensure_bpffs().expect("a second time changes nothing");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("procfs");
    assert_eq!(mounts.lines().filter(|line| line.contains(" /sys/fs/bpf bpf ")).count(), 1);
}
