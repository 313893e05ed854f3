//! Whole nodes in one process, and a client that speaks to one as the control process does.
//!
//! ```text
//!   Client ── unix socket ── Daemon a ══ link ══ Daemon b ── unix socket ── Client
//! ```
//!
//! Every wait is for an answer, with a limit that only a failure reaches.
#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(unreachable_pub, reason = "shared between test binaries by `mod nodes`")]

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use florelay_dataplane::broker::LocalBroker;
use florelay_dataplane::daemon::{Control, Daemon, DaemonOptions};
use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response, Status, TransferOrder, TransferStatus};
use florelay_dataplane::ipc_codec::IpcStream;
use florelay_dataplane::plan::{
    AdapterPlan, CongestionPlan, LinkContacts, LinkPlan, NodePlan, PeerPlan, PollMode, QueuePlan, SpoolPlan,
    Thresholds, TransitEndPlan, TransitPlan, WorkerPlan,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// Only a failure waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

const REALM: &str = "test.rete";

/// A CA and a folder for everything that the nodes of a test write.
pub struct Realm {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Realm {
    pub fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Where syncing costs nothing, if the machine has such a place.
    pub fn in_memory() -> Self {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Self::new(), Self::in_folder)
    }

    fn in_folder(dir: tempfile::TempDir) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        std::fs::write(dir.path().join("ca.crt"), certificate.pem()).expect("written");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// A certificate for `identity`, in the files of `node`.
    fn issue(&self, node: &str, identity: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.subject_alt_names = vec![SanType::URI(spiffe_id(identity).try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (certificate_path, key_path) =
            (self.dir.path().join(format!("{node}.crt")), self.dir.path().join(format!("{node}.key")));
        std::fs::write(&certificate_path, certificate.pem()).expect("written");
        std::fs::write(&key_path, key.serialize_pem()).expect("written");
        (certificate_path, key_path)
    }

    /// One end of a pair of nodes; the first by name dials. The certificate is for `identity`.
    pub fn plan(&self, node: &str, identity: &str, peer: &str, link: LinkPlan) -> NodePlan {
        let (certificate, key) = self.issue(node, identity);
        let (own, theirs) = if node < peer { (100, 200) } else { (200, 100) };
        NodePlan {
            certificate,
            key,
            peers: vec![PeerPlan {
                name: peer.into(),
                spiffe_id: spiffe_id(peer),
                link: 0,
                out_label: theirs,
                in_label: own,
                originator: node < peer,
                quic_mtu: link.mtu - 40,
                initial_rtt_ns: 10_000_000,
                path_rate_bps: link.rate_bps,
                return_rate_bps: link.rate_bps,
                weight: 10,
                queue: QueuePlan::default(),
            }],
            ..self.bare(node, vec![link])
        }
    }

    /// A node between `link`s that forwards what a pair of nodes sends: they use labels 100 and 200 on both links.
    pub fn relay(&self, node: &str, links: [LinkPlan; 2]) -> NodePlan {
        let (certificate, key) = self.issue(node, node);
        // From the dialling end (label 200 forward, 100 backward) on link 0 to the other on link 1.
        let transit = TransitPlan {
            a: TransitEndPlan { link: 0, in_label: 200, out_label: 100 },
            b: TransitEndPlan { link: 1, in_label: 100, out_label: 200 },
            weight: 10,
        };
        NodePlan { certificate, key, transits: vec![transit], ..self.bare(node, links.into()) }
    }

    fn bare(&self, node: &str, links: Vec<LinkPlan>) -> NodePlan {
        NodePlan {
            snapshot: 1,
            node: node.into(),
            realm: REALM.into(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            trust: self.dir.path().join("ca.crt"),
            inbox: self.dir.path().join(format!("{node}-inbox")),
            state_dir: self.dir.path().join(format!("{node}-state")),
            spool: SpoolPlan::default(),
            workers: vec![WorkerPlan { core: None, poll: PollMode::Adaptive }],
            peers: Vec::new(),
            links,
            transits: Vec::new(),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file with `len` bytes that no compression could shorten; its name and BLAKE3.
    pub fn file(&self, name: &str, len: usize) -> (PathBuf, [u8; 32]) {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        let path = self.dir.path().join(name);
        std::fs::write(&path, &bytes).expect("written");
        (path, *blake3::hash(&bytes).as_bytes())
    }
}

/// How many files this process may have open at most. From now on it may.
pub fn allow_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the maximum");
    limit.maximum.unwrap_or(u64::MAX)
}

fn spiffe_id(node: &str) -> String {
    format!("spiffe://{REALM}/node/{node}")
}

/// A link of a test.
pub fn link(local: SocketAddr, remote: SocketAddr, adapter: AdapterPlan, rate_bps: Option<u64>) -> LinkPlan {
    LinkPlan {
        name: "line".into(),
        worker: 0,
        adapter,
        local,
        remote,
        mtu: 1500,
        extra_overhead: 0,
        rate_bps,
        burst_bytes: 30_000,
        control_percent: 50,
        delay_ns: 0,
        congestion: if rate_bps.is_some() { CongestionPlan::Contracted } else { CongestionPlan::Cubic },
        liveness_interval_ns: 50_000_000,
        // Ample: the machine that runs the tests has other work too.
        detect_multiplier: 40,
        liveness_key: [7; 32],
        degraded: Thresholds::default(),
        admin_up: true,
        contacts: LinkContacts::default(),
    }
}

/// A running node and the client that speaks to it.
pub struct Node {
    pub daemon: Daemon,
    pub client: Client,
}

impl Node {
    /// In the network namespace of the calling thread. `pins`: name under which XDP programs are pinned.
    pub fn start(plan: NodePlan, pins: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let daemon = Daemon::start(DaemonOptions {
            plan,
            control: Control::Stream(theirs),
            broker: Box::new(LocalBroker::new(pins)),
        })
        .expect("the node starts");
        Self { daemon, client: Client::new(ours) }
    }

    /// Stop it, and wait until it has.
    pub fn stop(self) {
        self.daemon.stopper().stop();
        self.daemon.wait().expect("it stops because it was told to");
    }
}

/// A node in a process of its own, which can be killed. The test binary runs itself, with [`serve`] as its only test.
pub struct Killable {
    process: Child,
    pub client: Client,
}

/// Name of the test that every binary with killable nodes has; it calls [`serve`].
pub const SERVING: &str = "a_node_in_a_process_of_its_own";
const PLAN_VARIABLE: &str = "FLORELAY_TEST_PLAN";

impl Killable {
    pub fn start(plan: &NodePlan) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let path = plan.state_dir.with_extension("plan");
        std::fs::write(&path, postcard::to_stdvec(plan).expect("a plan can be written")).expect("written");
        let process = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", SERVING, "--ignored", "--nocapture"])
            .env(PLAN_VARIABLE, path)
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .expect("it starts again");
        Self { process, client: Client::new(ours) }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it is dead");
    }
}

/// Be a node until somebody kills this process. Without a plan there is nothing to do.
pub fn serve() {
    let Some(path) = std::env::var_os(PLAN_VARIABLE) else { return };
    let plan = postcard::from_bytes(&std::fs::read(path).expect("the plan is there")).expect("a plan");
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("standard input"));
    let options =
        DaemonOptions { plan, control: Control::Stream(control), broker: Box::new(LocalBroker::new("unused")) };
    let daemon = Daemon::start(options).expect("the node starts");
    daemon.wait().expect("nobody stops it");
}

/// The control process of a test.
pub struct Client {
    stream: IpcStream,
    answers: Receiver<Response>,
    next_tag: u64,
    /// Answers to other requests than the one that was waited for, by tag.
    kept: HashMap<u64, VecDeque<Answer>>,
}

impl Client {
    fn new(socket: UnixStream) -> Self {
        let stream = IpcStream::new(socket).expect("options can be set");
        stream.greet().expect("the daemon greets");
        let reader = stream.try_clone().expect("a descriptor is free");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            while let Ok(Some((response, _))) = reader.receive::<Response>() {
                if sender.send(response).is_err() {
                    return;
                }
            }
        });
        Self { stream, answers, next_tag: 0, kept: HashMap::new() }
    }

    /// Send a request; its tag.
    pub fn ask(&mut self, body: RequestBody, file: Option<&File>) -> u64 {
        self.next_tag += 1;
        let request = Request { tag: self.next_tag, body };
        self.stream.send(&request, file.map(AsFd::as_fd)).expect("the daemon listens");
        self.next_tag
    }

    /// The next answer to this request.
    pub fn answer(&mut self, tag: u64) -> Answer {
        if let Some(answer) = self.kept.get_mut(&tag).and_then(VecDeque::pop_front) {
            return answer;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let response = self.answers.recv_timeout(left).expect("an answer in time");
            if response.tag == tag {
                return response.body;
            }
            self.kept.entry(response.tag).or_default().push_back(response.body);
        }
    }

    pub fn status(&mut self) -> Status {
        let tag = self.ask(RequestBody::Status, None);
        match self.answer(tag) {
            Answer::Status(status) => *status,
            other => panic!("asked for status, got {other:?}"),
        }
    }

    /// Ask for the status until it is as wanted.
    pub fn status_until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "not in time: {what}; the last status: {status:#?}");
        }
    }

    /// Start to send a file; the request's tag.
    pub fn send(&mut self, to: &str, path: &Path, id: u128) -> u64 {
        let file = File::open(path).expect("the file is there");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let body = RequestBody::SendFile { order: TransferOrder::new(to, id, name, 0), path: None };
        self.ask(body, Some(&file))
    }

    /// Progress of a transfer up to what is wanted.
    pub fn progress(&mut self, tag: u64, wanted: impl Fn(&TransferStatus) -> bool) -> TransferStatus {
        loop {
            match self.answer(tag) {
                Answer::Transfer(status) if wanted(&status) => return *status,
                Answer::Transfer(status) => assert!(status.ended.is_none(), "ended too early: {status:?}"),
                other => panic!("asked for a transfer, got {other:?}"),
            }
        }
    }

    /// Send a message; whether it was acknowledged, or why not.
    pub fn message(&mut self, to: &str, payload: &[u8]) -> Result<u64, String> {
        let tag = self.ask(RequestBody::Message { to: to.into(), payload: payload.into() }, None);
        match self.answer(tag) {
            Answer::Message { rtt_ns } => Ok(rtt_ns),
            Answer::Failed(reason) | Answer::Unavailable(reason) => Err(reason),
            other => panic!("sent a message, got {other:?}"),
        }
    }

    pub fn set_admin(&mut self, link: &str, up: bool) {
        let tag = self.ask(RequestBody::SetAdmin { link: link.into(), up }, None);
        assert_eq!(self.answer(tag), Answer::Done);
    }
}

/// A named counter.
pub fn counter(counters: &[(String, u64)], name: &str) -> u64 {
    counters.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no counter {name} in {counters:?}")).1
}

/// The file in a node's inbox has this BLAKE3.
pub fn assert_received(plan_inbox: &Path, name: &str, digest: &[u8; 32]) {
    let bytes = std::fs::read(plan_inbox.join(name)).expect("the file is in the inbox");
    assert_eq!(blake3::hash(&bytes).as_bytes(), digest, "the bytes differ");
}
