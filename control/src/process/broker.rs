//! What becomes of each request and answer; no sockets, no clock.
//!
//! Invariants: every request of a client that stays is answered to its end, by the dataplane or, when that goes away,
//! by us; an answer goes to whom asked, under the tag that was asked with; an answer nobody waits for is dropped.
//! A descriptor is either handed on with its request or closed.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response, Status};

use crate::config::units::show_duration;

/// Requests that one client may have under way.
const MAX_PENDING_PER_CLIENT: usize = 32_768;

/// A connected client, counted up, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A connection to a dataplane, counted up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// How patient the broker is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A `Status` that the dataplane has not answered for this long is answered from the kept copy.
    pub status_timeout: Duration,
    /// The copy is renewed this often.
    pub status_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { status_timeout: Duration::from_secs(1), status_interval: Duration::from_secs(2) }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A client asks.
    Request(ClientId, Request, Option<OwnedFd>),
    /// A client is gone.
    ClientGone(ClientId),
    /// A dataplane is connected.
    DataplaneUp(Generation),
    /// It answers.
    Answer(Generation, Response),
    /// It is gone, for this reason.
    DataplaneDown(Generation, String),
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Answer a client.
    ToClient(ClientId, Response),
    /// Ask the dataplane.
    ToDataplane(Request, Option<OwnedFd>),
}

/// The state of the control process.
#[derive(Debug)]
pub struct Broker {
    timing: Timing,
    next_tag: u64,
    /// By our own tag.
    pending: HashMap<u64, Pending>,
    /// The same by client and its tag, then our own.
    asked: BTreeSet<(ClientId, u64, u64)>,
    /// How many each client has under way.
    counts: HashMap<ClientId, usize>,
    /// When to stop waiting for which.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Our own `Status` is under way.
    renewing: bool,
    dataplane: Result<Generation, Absence>,
    kept: Option<(Instant, Box<Status>)>,
    /// When the copy is to be renewed; our own request for it is `pending` with no client.
    renew_at: Instant,
}

#[derive(Debug)]
struct Pending {
    /// `None` = our own.
    client: Option<(ClientId, u64)>,
    /// Of a `Status`: when to stop waiting.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Absence {
    since: Instant,
    reason: String,
}

impl Broker {
    /// A broker without a dataplane.
    #[must_use]
    pub fn new(now: Instant, timing: Timing) -> Self {
        let dataplane = Err(Absence { since: now, reason: "it has not been started yet".to_owned() });
        Self {
            timing,
            next_tag: 0,
            pending: HashMap::new(),
            asked: BTreeSet::new(),
            counts: HashMap::new(),
            deadlines: BTreeSet::new(),
            renewing: false,
            dataplane,
            kept: None,
            renew_at: now,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Request(client, Request { body: RequestBody::Forget { of }, .. }, _) => {
                self.forget((client, of, 0)..=(client, of, u64::MAX))
            }
            // Not answered either.
            Input::Request(_, Request { body: body @ RequestBody::ReadUpTo { .. }, .. }, None) => self.pass_on(body),
            Input::Request(client, request, fd) => vec![self.request(now, client, request, fd)],
            // What it started goes on; only the answers have no reader any more.
            Input::ClientGone(client) => self.forget((client, 0, 0)..=(client, u64::MAX, u64::MAX)),
            Input::DataplaneUp(generation) => {
                let mut outputs = self.lose(now, "another one has taken its place");
                self.dataplane = Ok(generation);
                self.renew_at = now;
                outputs.extend(self.poll(now));
                outputs
            }
            Input::Answer(generation, response) if self.is(generation) => self.answer(now, response),
            Input::DataplaneDown(generation, reason) if self.is(generation) => self.lose(now, &reason),
            // From a dataplane that has been replaced.
            Input::Answer(..) | Input::DataplaneDown(..) => Vec::new(),
        }
    }

    /// Does what is due; call it at [`Self::next_deadline`].
    pub fn poll(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some((_, tag)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            if let Some((client, their_tag)) = self.settle(tag) {
                let waited = show_duration(u64::try_from(self.timing.status_timeout.as_nanos()).unwrap_or(u64::MAX));
                let body = self.kept_status(now, &format!("the dataplane has not answered for {waited}"));
                outputs.push(Output::ToClient(client, Response { tag: their_tag, body }));
            }
        }
        if self.dataplane.is_ok() && self.renew_at <= now {
            self.renew_at = now + self.timing.status_interval;
            // A dataplane that does not answer is not asked again and again.
            if !std::mem::replace(&mut self.renewing, true) {
                let tag = self.expect(None, None);
                outputs.push(Output::ToDataplane(Request { tag, body: RequestBody::Status }, None));
            }
        }
        outputs
    }

    /// A request could not be handed to the dataplane; `response` carries our tag and the reason.
    pub fn refused(&mut self, now: Instant, response: Response) -> Vec<Output> {
        self.answer(now, response)
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let renew = self.dataplane.is_ok().then_some(self.renew_at);
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(renew).min()
    }

    fn request(&mut self, now: Instant, client: ClientId, request: Request, fd: Option<OwnedFd>) -> Output {
        let Request { tag: their_tag, body } = request;
        let refuse = |body| Output::ToClient(client, Response { tag: their_tag, body });
        if let Err(absence) = &self.dataplane {
            let age = show_duration(nanos(now, absence.since));
            let why = format!("the dataplane is not connected since {age}: {}", absence.reason);
            let answer =
                if body == RequestBody::Status { self.kept_status(now, &why) } else { Answer::Unavailable(why) };
            return refuse(answer);
        }
        if body.carries_descriptor() != fd.is_some() {
            return refuse(Answer::Failed(
                "a file or a stream comes with its descriptor, and nothing else does".to_owned(),
            ));
        }
        if self.counts.get(&client).is_some_and(|count| *count >= MAX_PENDING_PER_CLIENT) {
            return refuse(Answer::Failed(format!("more than {MAX_PENDING_PER_CLIENT} requests at once")));
        }
        let deadline = (body == RequestBody::Status).then(|| now + self.timing.status_timeout);
        let tag = self.expect(Some((client, their_tag)), deadline);
        Output::ToDataplane(Request { tag, body }, fd)
    }

    fn pass_on(&mut self, body: RequestBody) -> Vec<Output> {
        if self.dataplane.is_err() {
            return Vec::new();
        }
        self.next_tag += 1;
        vec![Output::ToDataplane(Request { tag: self.next_tag, body }, None)]
    }

    fn answer(&mut self, now: Instant, response: Response) -> Vec<Output> {
        if let Answer::Status(status) = &response.body {
            self.kept = Some((now, status.clone()));
        }
        let client = if response.body.is_last() {
            self.settle(response.tag)
        } else {
            self.pending.get(&response.tag).and_then(|p| p.client)
        };
        client
            .map(|(client, tag)| Output::ToClient(client, Response { tag, body: response.body }))
            .into_iter()
            .collect()
    }

    /// The dataplane is gone: whoever waits for it hears so.
    fn lose(&mut self, now: Instant, reason: &str) -> Vec<Output> {
        if self.dataplane.is_ok() {
            self.dataplane = Err(Absence { since: now, reason: reason.to_owned() });
        }
        let pending = std::mem::take(&mut self.pending);
        self.asked.clear();
        self.counts.clear();
        self.deadlines.clear();
        self.renewing = false;
        let mut waiting: Vec<_> = pending.into_values().filter_map(|p| p.client.map(|c| (c, p.deadline))).collect();
        waiting.sort_unstable_by_key(|(c, _)| *c);
        waiting
            .into_iter()
            .map(|((client, tag), deadline)| {
                let why = format!("the dataplane has stopped: {reason}");
                let body = if deadline.is_some() { self.kept_status(now, &why) } else { Answer::Unavailable(why) };
                Output::ToClient(client, Response { tag, body })
            })
            .collect()
    }

    fn expect(&mut self, client: Option<(ClientId, u64)>, deadline: Option<Instant>) -> u64 {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.pending.insert(tag, Pending { client, deadline });
        if let Some((client, their_tag)) = client {
            self.asked.insert((client, their_tag, tag));
            *self.counts.entry(client).or_default() += 1;
        }
        self.deadlines.extend(deadline.map(|at| (at, tag)));
        tag
    }

    /// Nothing more is expected under this tag; who asked.
    fn settle(&mut self, tag: u64) -> Option<(ClientId, u64)> {
        let Pending { client, deadline } = self.pending.remove(&tag)?;
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, tag));
        }
        let Some((client, their_tag)) = client else {
            self.renewing = false;
            return None;
        };
        self.asked.remove(&(client, their_tag, tag));
        if let Some(count) = self.counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&client);
            }
        }
        Some((client, their_tag))
    }

    /// Nobody wants the answers to these requests; the dataplane need not send them.
    fn forget(&mut self, asked: std::ops::RangeInclusive<(ClientId, u64, u64)>) -> Vec<Output> {
        let tags: Vec<u64> = self.asked.range(asked).map(|(_, _, tag)| *tag).collect();
        let forget = |of: u64| {
            self.settle(of);
            self.next_tag += 1;
            Output::ToDataplane(Request { tag: self.next_tag, body: RequestBody::Forget { of } }, None)
        };
        tags.into_iter().map(forget).collect()
    }

    fn is(&self, generation: Generation) -> bool {
        self.dataplane.as_ref().is_ok_and(|g| *g == generation)
    }

    /// The last status, with a note how old it is and why it is not a new one.
    fn kept_status(&self, now: Instant, why: &str) -> Answer {
        let Some((at, status)) = &self.kept else {
            return Answer::Unavailable(format!("{why}; no earlier status is known"));
        };
        let mut status = status.clone();
        status.note = Some(format!("as of {} ago; {why}", show_duration(nanos(now, *at))));
        Answer::Status(status)
    }
}

fn nanos(now: Instant, since: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX)
}
