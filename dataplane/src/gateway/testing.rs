//! A gateway without its thread: tests say what its workers and control would.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use florelay_engine::api::TransferId;
use florelay_engine::{Command, EngineStatus, Event};

use super::replies::{Answers, Replies};
use super::{Gateway, Input, KnownPaths};
use crate::broker::{LocalBroker, SharedBroker};
use crate::contacts::Contacts;
use crate::ipc::{Answer, FrameAccount, Request, RequestBody, TransferOrder};
use crate::plan::{AdapterPlan, NodePlan, PeerPlan, PollMode, QueuePlan, fixture};
use crate::ring::{FromWorker, GatewayBell, Rings, ToWorker};
use crate::worker::WorkerReport;

/// A gateway of two workers, each with a link to a peer; what workers and control do is done by the test.
pub(super) struct Bed {
    dir: tempfile::TempDir,
    pub(super) gateway: Gateway,
    workers: Vec<Arc<Rings>>,
    answers: Answers,
    replies: Replies,
    /// Of the last request.
    pub(super) tag: u64,
    /// Answers to earlier ones.
    kept: Vec<Answer>,
}

pub(super) fn plan(dir: &std::path::Path) -> NodePlan {
    let link = |worker: usize| fixture::link(&format!("line-{worker}"), worker, "127.0.0.1:0", AdapterPlan::Udp);
    let peer = |(number, name): (u16, &str)| PeerPlan {
        name: name.into(),
        spiffe_id: String::new(),
        link: number,
        out_label: 100,
        in_label: 200,
        originator: true,
        quic_mtu: 1460,
        initial_rtt_ns: 10_000_000,
        path_rate_bps: None,
        return_rate_bps: None,
        weight: 1,
        queue: QueuePlan::default(),
    };
    NodePlan {
        inbox: dir.join("inbox"),
        state_dir: dir.join("state"),
        peers: [(0, "a"), (1, "b")].map(peer).into(),
        ..fixture::node(2, PollMode::Adaptive, [0, 1].map(link).into())
    }
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With another plan.
    pub(super) fn with(change: impl FnOnce(&mut NodePlan)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(dir.path());
        change(&mut plan);
        Self::started(dir, Arc::new(plan))
    }

    /// The dataplane is killed and starts again. What its book was told before is there.
    pub(super) fn restarted(self) -> Self {
        let Self { dir, gateway, .. } = self;
        gateway.kept.close();
        let plan = gateway.plan.clone();
        drop(gateway);
        // Its book's thread ends by itself, and closes the file, which a killed process would not still be writing.
        let open = |book: &std::path::Path| {
            let held = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            held.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file == book)
        };
        let book = plan.state_dir.join("transfers.redb");
        while open(&book) {
            std::thread::yield_now();
        }
        Self::started(dir, plan)
    }

    fn started(dir: tempfile::TempDir, plan: Arc<NodePlan>) -> Self {
        let workers: Vec<_> = (0..2).map(|_| Rings::new().unwrap()).collect();
        let contacts = Contacts::new(&plan, Instant::now());
        let paths = KnownPaths::open(&plan, crate::wall::now_unix_ns());
        let (to_gateway, inputs) = channel();
        let (replies, answers) = Replies::new();
        let broker = SharedBroker::new(Box::new(LocalBroker::new("unused")));
        let bell = GatewayBell::of_this_thread();
        let gateway =
            Gateway::new(plan, contacts, paths, workers.clone(), inputs, to_gateway, bell, 1, broker).unwrap();
        Self { dir, gateway, workers, answers, replies, tag: 0, kept: Vec::new() }
    }

    /// What worker `worker` is told because its engine says this.
    pub(super) fn says(&mut self, worker: usize, event: Event) -> Vec<Command> {
        assert!(self.workers[worker].events.push(FromWorker::Event(event)).is_ok());
        self.gateway.events(worker);
        self.told(worker)
    }

    pub(super) fn told(&self, worker: usize) -> Vec<Command> {
        let engine = |message| match message {
            ToWorker::Engine(command) => Some(command),
            _ => None,
        };
        std::iter::from_fn(|| self.workers[worker].commands.pop()).filter_map(engine).collect()
    }

    /// The opener's answer to an offer comes in; the book's words that come before it are taken, too.
    pub(super) fn opened(&mut self) {
        loop {
            let input = self.gateway.inputs.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
            let opened = matches!(input, Input::Opened(..));
            self.gateway.input(input);
            if opened {
                return;
            }
        }
    }

    /// Ask for a file to be sent; the answer, if there is one at once.
    pub(super) fn send(&mut self, to: &str, id: TransferId) -> Option<Answer> {
        self.order(TransferOrder::new(to, id.0, "f", 0))
    }

    /// Order that a file of five bytes be sent; the first answer.
    pub(super) fn order(&mut self, order: TransferOrder) -> Option<Answer> {
        let path = self.dir.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        let file = std::fs::File::open(path).unwrap();
        let body = RequestBody::SendFile { order, path: None };
        self.request(body, Some(file.into()))
    }

    /// The same, of a file that is found again by its path.
    pub(super) fn order_file(&mut self, order: TransferOrder, path: &std::path::Path) -> Option<Answer> {
        let file = std::fs::File::open(path).unwrap();
        let body = RequestBody::SendFile { order, path: Some(path.display().to_string()) };
        self.request(body, Some(file.into()))
    }

    /// Where its node's files are.
    pub(super) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Inputs of the gateway are taken until one makes it tell a worker something, or none is left for a minute.
    pub(super) fn told_next(&mut self, worker: usize) -> Vec<Command> {
        loop {
            let told = self.told(worker);
            if !told.is_empty() {
                return told;
            }
            let Ok(input) = self.gateway.inputs.recv_timeout(std::time::Duration::from_secs(60)) else { return told };
            self.gateway.input(input);
        }
    }

    /// One input of the gateway is taken; there must be one within a minute.
    pub(super) fn hear(&mut self) {
        let input = self.gateway.inputs.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        self.gateway.input(input);
    }

    /// Ask for something without a descriptor; the answer, if there is one at once.
    pub(super) fn ask(&mut self, body: RequestBody) -> Option<Answer> {
        self.request(body, None)
    }

    /// The same with a descriptor.
    pub(super) fn ask_with(&mut self, body: RequestBody, descriptor: OwnedFd) -> Option<Answer> {
        self.request(body, Some(descriptor))
    }

    fn request(&mut self, body: RequestBody, descriptor: Option<OwnedFd>) -> Option<Answer> {
        self.tag += 1;
        let tag = self.tag;
        let booked = matches!(body, RequestBody::Cancel { .. });
        self.gateway.request(Request { tag, body }, descriptor, &self.replies);
        self.gateway.settle();
        if booked {
            self.gateway.kept.close();
        }
        let answers = std::iter::from_fn(|| self.answers.try_next());
        let (ours, others): (Vec<_>, Vec<_>) = answers.partition(|response| response.tag == tag);
        self.kept.extend(others.into_iter().map(|response| response.body));
        ours.into_iter().next().map(|response| response.body)
    }

    /// All answers since the last look.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        let new = std::iter::from_fn(|| self.answers.try_next()).map(|response| response.body);
        self.kept.drain(..).chain(new).collect()
    }

    /// Both workers have reported that there is nothing to report.
    pub(super) fn reported(&mut self) {
        for index in 0..2 {
            let report = WorkerReport {
                index,
                core: None,
                engine: EngineStatus { snapshot: 1, links: Vec::new(), peers: Vec::new() },
                contacts: Vec::new(),
                conditions: Vec::new(),
                frames: FrameAccount::default(),
                links: Vec::new(),
                counters: Vec::new(),
            };
            assert!(self.workers[index].events.push(FromWorker::Report(Box::new(report))).is_ok());
            self.gateway.events(index);
        }
    }

    /// Peer and direction of a running transfer.
    pub(super) fn running(&self, id: TransferId) -> Option<(&str, bool)> {
        self.gateway.transfers.running(id).map(|status| (status.peer.as_str(), status.outgoing))
    }
}
