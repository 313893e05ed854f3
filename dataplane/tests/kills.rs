//! kill -9 of either end in turn, while a file and a stream are under way: both arrive whole, each byte once.
#![forbid(unsafe_code)]

mod nodes;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::thread::JoinHandle;

use florelay_dataplane::ipc::{Answer, RequestBody, TransferOrder};
use florelay_dataplane::plan::{AdapterPlan, NodePlan};

use nodes::{Killable, Realm, assert_received, link};

const FILE: u128 = 1;
const STREAM: u128 = 2;
const BYTES: usize = 24_000_000;
/// Kills, of the sender and the receiver in turn; and bytes of the stream that are confirmed between two of them, at least.
const KILLS: u64 = 8;
const STEP_BYTES: u64 = 1_200_000;

#[test]
#[ignore = "a process of another test"]
fn a_node_in_a_process_of_its_own() {
    nodes::serve();
}

fn plans(realm: &Realm) -> (NodePlan, NodePlan) {
    let free = || UdpSocket::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("bound");
    let (a, b) = (free(), free());
    let rate = Some(80_000_000);
    let mut plan = realm.plan("a", "a", "b", link(a, b, AdapterPlan::Udp, rate));
    // Little memory: what is not confirmed is read back from the disk.
    (plan.spool.stream_bytes, plan.spool.node_bytes) = (1 << 20, 64 << 20);
    (plan, realm.plan("b", "b", "a", link(b, a, AdapterPlan::Udp, rate)))
}

/// The program that writes the stream: it has all of it, and goes on where it is told to.
struct Writer {
    tag: u64,
    thread: JoinHandle<Option<File>>,
}

impl Writer {
    fn start(node: &mut Killable, whole: &[u8], resume: bool) -> Self {
        let (reader, mut to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map(files).expect("a pipe");
        let body = if resume {
            RequestBody::ResumeStream { id: STREAM }
        } else {
            let order = TransferOrder::new("b", STREAM, "stream", 0);
            RequestBody::SendStream { order, declared: Some(whole.len() as u64), linger_ns: 1 }
        };
        let tag = node.client.ask(body, Some(&reader));
        let accepted = node.client.progress(tag, |_| true).accepted as usize;
        let rest = whole[accepted..].to_vec();
        // The node may be killed under it: then the rest is the next one's.
        let thread = std::thread::spawn(move || to.write_all(&rest).is_ok().then_some(to));
        Self { tag, thread }
    }
}

/// The program that reads it, and knows what it has read.
struct Reader {
    tag: u64,
    thread: JoinHandle<Vec<u8>>,
}

impl Reader {
    fn start(node: &mut Killable, mut had: Vec<u8>) -> Self {
        let (mut from, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map(files).expect("a pipe");
        let resume = Some((STREAM, had.len() as u64));
        let tag = node
            .client
            .ask(RequestBody::Listen { name: None, from: None, resume, reader: None, linger_ns: 0 }, Some(&writer));
        drop(writer);
        let thread = std::thread::spawn(move || {
            from.read_to_end(&mut had).expect("a pipe");
            had
        });
        Self { tag, thread }
    }
}

fn files<A: Into<File>>((reader, writer): (A, A)) -> (File, File) {
    (reader.into(), writer.into())
}

#[test]
fn a_file_and_a_stream_arrive_whole_whichever_end_is_killed() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm);
    let (mut a, mut b) = (Killable::start(&plan_a), Killable::start(&plan_b));
    let (path, digest) = realm.file("image.raw", BYTES);
    let body = RequestBody::SendFile {
        order: TransferOrder::new("b", FILE, "image.raw", 0),
        path: Some(path.display().to_string()),
    };
    let mut file = a.client.ask(body, Some(&File::open(&path).expect("it is there")));
    let whole = std::fs::read(realm.file("stream.raw", BYTES).0).expect("it is there");
    let mut reader = Reader::start(&mut b, Vec::new());
    let mut writer = Writer::start(&mut a, &whole, false);
    let mut confirmed = 0;
    for kill in 0..KILLS {
        // Other amounts each time, so that the kills come anywhere.
        confirmed += STEP_BYTES + kill * 7919 % 50_000;
        confirmed = a.client.progress(writer.tag, |status| status.confirmed >= confirmed).confirmed;
        if kill % 2 == 0 {
            a.kill();
            writer.thread.join().expect("it has written or cannot");
            a = Killable::start(&plan_a);
            file = a.client.ask(RequestBody::Watch { id: FILE }, None);
            writer = Writer::start(&mut a, &whole, true);
        } else {
            b.kill();
            let had = reader.thread.join().expect("it has read what there was");
            assert!(whole.starts_with(&had), "{} bytes were read", had.len());
            b = Killable::start(&plan_b);
            reader = Reader::start(&mut b, had);
        }
    }
    let to = writer.thread.join().expect("written").expect("nobody is killed any more");
    let size = whole.len() as u64;
    let said = a.client.ask(RequestBody::EndStream { id: STREAM, size }, None);
    assert_eq!(a.client.answer(said), Answer::Done);
    drop(to);
    b.client.progress(reader.tag, |status| status.size == Some(size) && status.confirmed == size);
    let taken = RequestBody::TakeStream { id: STREAM, digest: *blake3::hash(&whole).as_bytes() };
    let taken = b.client.ask(taken, None);
    assert_eq!(b.client.answer(taken), Answer::Done);
    let ended = a.client.progress(writer.tag, |status| status.ended.is_some());
    assert_eq!((ended.ended, ended.size), (Some(Ok(*blake3::hash(&whole).as_bytes())), Some(size)));
    assert!(reader.thread.join().expect("read") == whole);
    assert_eq!(a.client.progress(file, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&plan_b.inbox, "image.raw", &digest);
    a.kill();
    b.kill();
}
