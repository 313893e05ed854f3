//! Pipes to the programs that write and read streams. One thread polls them all, so that none can block the gateway.
//!
//! ```text
//!   gateway ─ Order ─► pipes thread ─ poll(2): pipes, doorbell
//!           ◄─ News ─┘   reads what was granted; keeps what its reader has not taken (bounded by the engine's credit)
//! ```
//!
//! A pipe is named by a number of its own, so that late news of one that was closed concern nobody.

mod writing;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use rustix::time::Timespec;

use self::writing::Writing;
pub(super) use self::writing::Written;
use super::Input;
use super::pieces::{OF_PIPES, Pieces, READ_BYTES};
use crate::ring::{Doorbell, GatewayBell};

/// Pieces read of a pipe before the others have their turn, and before the gateway hears of them.
const READS: usize = 4;

/// Bytes that a pipe should hold, as far as the system lets: each filling of it takes turns of two programs.
const PIPE_BYTES: usize = 256 << 10;
/// So many pipes are made larger; Linux counts what all pipes of a user hold.
const LARGE_PIPES: usize = 32;

/// A pipe's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PipeId(pub(crate) u64);

/// What the gateway wants of a pipe.
pub(super) enum Order {
    /// Read from it what is granted.
    Read(PipeId, OwnedFd),
    /// Read until so many bytes were read in all.
    Grant(PipeId, u64),
    /// Write to it what comes as `Data`.
    Write(PipeId, OwnedFd, Written),
    Data(PipeId, Bytes),
    /// What is kept below this byte is not wanted any more.
    Release(PipeId, u64),
    /// Its program has gone: write what is kept from this byte on, and what comes, to the pipe of another.
    Rewrite(PipeId, OwnedFd, u64),
    /// Close it now.
    Close(PipeId),
}

/// What became of it.
pub(crate) enum News {
    /// These bytes were read. They keep hardly more memory than they are.
    Read(Bytes),
    /// The program has closed its end, and everything was read.
    Ended,
    /// The program has closed its end; more may be read once it is granted.
    HungUp,
    /// So many bytes were written in all.
    Wrote(u64),
    /// It does not work any more, for this reason.
    Broken(String),
}

/// The gateway's handle to the thread; it ends with it.
pub(super) struct Pipes {
    orders: Option<Sender<Order>>,
    doorbell: Arc<Doorbell>,
}

impl Pipes {
    pub(super) fn start(to_gateway: Sender<Input>, bell: GatewayBell) -> io::Result<Self> {
        let doorbell = Arc::new(Doorbell::new()?);
        let (sender, orders) = channel();
        let rung = doorbell.clone();
        let poller = Poller { pipes: BTreeMap::new(), pieces: Pieces::new(OF_PIPES), to_gateway, bell, poll };
        std::thread::Builder::new().name("pipes".into()).spawn(move || poller.run(&orders, &rung))?;
        Ok(Self { orders: Some(sender), doorbell })
    }

    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread lives as long as the gateway.
            let _ = orders.send(order);
            self.doorbell.ring();
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.orders = None;
        self.doorbell.ring();
    }
}

/// The descriptor of a request as a pipe that never blocks.
pub(super) fn adopt(descriptor: Option<OwnedFd>) -> Result<OwnedFd, String> {
    use std::os::unix::fs::FileTypeExt as _;
    let pipe = File::from(descriptor.ok_or("the request carries no pipe")?);
    let metadata = pipe.metadata().map_err(|error| format!("cannot examine the pipe: {error}"))?;
    if !metadata.file_type().is_fifo() {
        return Err("the request's descriptor is not a pipe".into());
    }
    let set = fcntl_getfl(&pipe).and_then(|flags| fcntl_setfl(&pipe, flags | OFlags::NONBLOCK));
    set.map_err(|error| format!("cannot use the pipe: {error}"))?;
    Ok(pipe.into())
}

/// Whether somebody has the reading end of this pipe.
pub(super) fn has_reader(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
}

enum Side {
    Read {
        read: u64,
        limit: u64,
        /// That its program has gone was said.
        hung_up: bool,
    },
    Write(Writing),
}

struct Pipe {
    /// `None`: its program has gone, and what is kept waits for another.
    fd: Option<OwnedFd>,
    side: Side,
}

impl Pipe {
    /// What to wait for; `None` = nothing. That the program at the other end has gone, poll says unasked: also of a pipe
    /// that may not be read now.
    fn interest(&self) -> Option<PollFlags> {
        match &self.side {
            Side::Read { read, limit, .. } if read < limit => Some(PollFlags::IN),
            Side::Read { hung_up, .. } => (!hung_up).then_some(PollFlags::empty()),
            Side::Write(writing) if writing.is_empty() => Some(PollFlags::empty()),
            Side::Write(_) => Some(PollFlags::OUT),
        }
    }

    /// Whether a piece was read to its end, and more may be read.
    fn may_go_on(&self) -> bool {
        matches!(&self.side, Side::Read { read, limit, .. } if read < limit && *read % READ_BYTES as u64 == 0)
    }

    fn serve(&mut self, pieces: &mut Pieces) -> Option<News> {
        let fd = self.fd.as_ref()?;
        match &mut self.side {
            Side::Read { read, limit, hung_up } if *read >= *limit => {
                (!std::mem::replace(hung_up, true)).then_some(News::HungUp)
            }
            Side::Read { read, limit, .. } => {
                // Pieces end at multiples of their size, for the sake of BLAKE3.
                let whole = READ_BYTES as u64 - *read % READ_BYTES as u64;
                let most = (*limit - *read).min(whole) as usize;
                let mut piece = pieces.take();
                let result = rustix::io::read(fd, &mut piece[..most]);
                let piece = piece.freeze();
                let news = match result {
                    Ok(0) => Some(News::Ended),
                    Ok(n) => {
                        *read += n as u64;
                        Some(News::Read(taken(&piece, n)))
                    }
                    Err(Errno::AGAIN | Errno::INTR) => None,
                    Err(error) => Some(News::Broken(format!("cannot read from the pipe: {error}"))),
                };
                pieces.remember(piece);
                news
            }
            Side::Write(writing) => match writing.write(fd.as_fd()) {
                Ok(wrote) => wrote.map(News::Wrote),
                Err(error) => Some(News::Broken(format!("its reader has gone away: {error}"))),
            },
        }
    }

    /// Its program has gone; whether something waits for another one.
    fn keeps(&mut self) -> bool {
        self.fd = None;
        matches!(&self.side, Side::Write(writing) if writing.keeps())
    }
}

/// The first `n` bytes of a piece: a little of one must not keep all of it for as long as the stream needs them.
fn taken(piece: &Bytes, n: usize) -> Bytes {
    if n > piece.len() / 8 * 7 { piece.slice(..n) } else { Bytes::copy_from_slice(&piece[..n]) }
}

type Poll = fn(&mut [PollFd<'_>], Option<&Timespec>) -> Result<usize, Errno>;

struct Poller {
    pipes: BTreeMap<PipeId, Pipe>,
    pieces: Pieces,
    to_gateway: Sender<Input>,
    bell: GatewayBell,
    /// `poll(2)`; a test has one that fails.
    poll: Poll,
}

impl Poller {
    fn run(mut self, orders: &Receiver<Order>, doorbell: &Doorbell) {
        loop {
            // Before the last look: what is ordered after it rings.
            doorbell.about_to_sleep();
            loop {
                match orders.try_recv() {
                    Ok(order) => self.take(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let bell = doorbell.fd();
            let mut fds = vec![PollFd::from_borrowed_fd(bell, PollFlags::IN)];
            let mut polled = Vec::new();
            for (id, pipe) in &self.pipes {
                if let (Some(fd), Some(interest)) = (&pipe.fd, pipe.interest()) {
                    polled.push(*id);
                    fds.push(PollFd::new(fd, interest));
                }
            }
            match (self.poll)(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    self.give_up(error);
                    // The bell cannot be polled either: the next order is waited for, and polling tried again with it.
                    let Ok(order) = orders.recv() else { return };
                    self.take(order);
                    continue;
                }
            }
            let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            doorbell.awake(happened[0].contains(PollFlags::IN));
            for (id, flags) in polled.into_iter().zip(&happened[1..]) {
                if !flags.is_empty() {
                    self.serve(id, *flags);
                }
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Read(id, fd) => {
                self.enlarge(&fd);
                let side = Side::Read { read: 0, limit: 0, hung_up: false };
                self.pipes.insert(id, Pipe { fd: Some(fd), side });
            }
            Order::Grant(id, granted) => {
                if let Some(Pipe { side: Side::Read { limit, .. }, .. }) = self.pipes.get_mut(&id) {
                    *limit = granted.max(*limit);
                }
            }
            Order::Write(id, fd, written) => {
                self.enlarge(&fd);
                self.pipes.insert(id, Pipe { fd: Some(fd), side: Side::Write(Writing::new(written)) });
            }
            // Copied: a small piece would keep a worker's whole receive block for as long as the reader takes.
            Order::Data(id, data) => {
                if let Some(Pipe { side: Side::Write(writing), .. }) = self.pipes.get_mut(&id) {
                    writing.push(&data);
                }
            }
            Order::Release(id, below) => {
                if let Some(Pipe { side: Side::Write(writing), .. }) = self.pipes.get_mut(&id) {
                    writing.release(below);
                }
            }
            Order::Rewrite(id, other, from) => {
                self.enlarge(&other);
                if let Some(Pipe { fd, side: Side::Write(writing) }) = self.pipes.get_mut(&id) {
                    writing.rewind(from);
                    *fd = Some(other);
                }
            }
            Order::Close(id) => {
                self.pipes.remove(&id);
            }
        }
    }

    fn enlarge(&self, pipe: &OwnedFd) {
        if self.pipes.len() < LARGE_PIPES && fcntl_getpipe_size(pipe).is_ok_and(|bytes| bytes < PIPE_BYTES) {
            // It works as it is, too.
            let _ = fcntl_setpipe_size(pipe, PIPE_BYTES);
        }
    }

    /// No pipe can be polled: a stream that would stand still for ever ends, with the reason.
    fn give_up(&mut self, error: Errno) {
        tracing::error!(%error, pipes = self.pipes.len(), "pipes cannot be polled");
        for (id, _) in self.pipes.iter().filter(|(_, pipe)| pipe.fd.is_some()) {
            self.tell(*id, News::Broken(format!("its pipe cannot be polled: {error}")));
        }
        self.pipes.retain(|_, pipe| pipe.keeps());
        self.bell.ring();
    }

    fn tell(&self, id: PipeId, news: News) {
        // The gateway is there as long as its orders come.
        let _ = self.to_gateway.send(Input::Pipe(id, news));
    }

    fn serve(&mut self, id: PipeId, flags: PollFlags) {
        for _ in 0..READS {
            let Some(pipe) = self.pipes.get_mut(&id) else { break };
            let news = match &pipe.side {
                Side::Write(_) if flags.contains(PollFlags::ERR) => {
                    Some(News::Broken("its reader has gone away".to_owned()))
                }
                _ => pipe.serve(&mut self.pieces),
            };
            let again = pipe.may_go_on();
            let Some(news) = news else { break };
            if matches!(news, News::Ended | News::Broken(_)) && !pipe.keeps() {
                self.pipes.remove(&id);
            }
            self.tell(id, news);
            // There may be more.
            if !again {
                break;
            }
        }
        self.bell.ring();
    }
}

/// Two ends of a new pipe: to read from, to write to.
///
/// # Errors
/// No descriptors are left.
#[cfg(test)]
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const ID: PipeId = PipeId(5);

    fn started() -> (Pipes, Receiver<Input>) {
        let (sender, inputs) = channel();
        (Pipes::start(sender, GatewayBell::of_this_thread()).unwrap(), inputs)
    }

    fn news(inputs: &Receiver<Input>) -> News {
        match inputs.recv_timeout(std::time::Duration::from_secs(60)) {
            Ok(Input::Pipe(ID, news)) => news,
            _ => panic!("no news of the pipe"),
        }
    }

    #[test]
    fn no_more_is_read_than_was_granted_and_the_end_is_said() {
        let (pipes, inputs) = started();
        let (reader, writer) = pair().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(&[7; 5000]).unwrap();
        pipes.order(Order::Read(ID, adopt(Some(reader)).unwrap()));
        for (granted, expected) in [(10, 10), (4000, 3990), (9000, 1000)] {
            pipes.order(Order::Grant(ID, granted));
            assert!(matches!(news(&inputs), News::Read(bytes) if bytes == vec![7; expected]));
        }
        drop(writer);
        assert!(matches!(news(&inputs), News::Ended));
    }

    #[test]
    fn a_program_that_goes_is_noticed_also_while_nothing_may_be_read_and_nothing_is_lost() {
        let (pipes, inputs) = started();
        let (reader, writer) = pair().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(&[7; 5000]).unwrap();
        pipes.order(Order::Read(ID, adopt(Some(reader)).unwrap()));
        pipes.order(Order::Grant(ID, 100));
        assert!(matches!(news(&inputs), News::Read(bytes) if bytes.len() == 100));
        drop(writer);
        assert!(matches!(news(&inputs), News::HungUp));
        pipes.order(Order::Grant(ID, 1000));
        // Once is enough: the next is what was granted.
        assert!(matches!(news(&inputs), News::Read(bytes) if bytes.len() == 900));
        pipes.order(Order::Grant(ID, 10_000));
        assert!(matches!(news(&inputs), News::Read(bytes) if bytes.len() == 4000));
        assert!(matches!(news(&inputs), News::Ended));
    }

    #[test]
    fn where_pipes_cannot_be_polled_every_stream_hears_why_and_a_later_one_works() {
        static FAILING: AtomicBool = AtomicBool::new(true);
        let failing: Poll = |fds, timeout| {
            if fds.len() > 1 && FAILING.swap(false, Ordering::SeqCst) { Err(Errno::NOMEM) } else { poll(fds, timeout) }
        };
        let (to_gateway, inputs) = channel();
        let (sender, orders) = channel();
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let (rung, bell) = (doorbell.clone(), GatewayBell::of_this_thread());
        let thread = std::thread::spawn(move || {
            Poller { pipes: BTreeMap::new(), pieces: Pieces::new(OF_PIPES), to_gateway, bell, poll: failing }
                .run(&orders, &rung);
        });
        let pipes = Pipes { orders: Some(sender), doorbell };
        let (reader, _writer) = pair().unwrap();
        pipes.order(Order::Read(ID, adopt(Some(reader)).unwrap()));
        assert!(matches!(news(&inputs), News::Broken(reason) if reason.contains("cannot be polled")));
        let (reader, writer) = pair().unwrap();
        pipes.order(Order::Read(ID, adopt(Some(reader)).unwrap()));
        pipes.order(Order::Grant(ID, 100));
        drop(writer);
        while !matches!(news(&inputs), News::Ended) {}
        drop(pipes);
        thread.join().unwrap();
    }

    #[test]
    fn a_reader_that_does_not_read_blocks_nobody_and_one_that_goes_is_noticed() {
        let (pipes, inputs) = started();
        let (reader, writer) = pair().unwrap();
        pipes.order(Order::Write(ID, adopt(Some(writer)).unwrap(), Written::Forgotten));
        // Far more than a pipe holds (64 KiB).
        pipes.order(Order::Data(ID, Bytes::from(vec![1; 1 << 20])));
        let News::Wrote(first) = news(&inputs) else { panic!("nothing was written") };
        assert!(first < 1 << 20);
        let mut reader = File::from(reader);
        let mut buffer = vec![0; 600_000];
        reader.read_exact(&mut buffer).unwrap();
        while !matches!(news(&inputs), News::Wrote(wrote) if wrote >= 600_000) {}
        drop(reader);
        while !matches!(news(&inputs), News::Broken(_)) {}
    }

    #[test]
    fn what_is_kept_is_written_again_to_the_next_reader_from_where_it_asks() {
        let (pipes, inputs) = started();
        let (reader, writer) = pair().unwrap();
        pipes.order(Order::Write(ID, adopt(Some(writer)).unwrap(), Written::Kept));
        let whole: Vec<u8> = (0..250_000_u32).flat_map(u32::to_le_bytes).collect();
        pipes.order(Order::Data(ID, Bytes::copy_from_slice(&whole[..600_000])));
        let mut buffer = vec![0; 300_000];
        File::from(reader).read_exact(&mut buffer).unwrap();
        assert!(buffer == whole[..300_000]);
        // It has gone. What comes meanwhile is kept too, and what it had said to have is not.
        while !matches!(news(&inputs), News::Broken(_)) {}
        pipes.order(Order::Release(ID, 100_000));
        pipes.order(Order::Data(ID, Bytes::copy_from_slice(&whole[600_000..])));
        for from in [250_000, 100_000, 50_000] {
            let (reader, writer) = pair().unwrap();
            pipes.order(Order::Rewrite(ID, adopt(Some(writer)).unwrap(), from));
            let from = from.max(100_000) as usize;
            let mut buffer = vec![0; whole.len() - from];
            File::from(reader).read_exact(&mut buffer).unwrap();
            assert!(buffer == whole[from..], "from {from}");
            while !matches!(news(&inputs), News::Broken(_)) {}
        }
    }

    #[test]
    fn only_pipes_are_taken() {
        let file = tempfile::tempfile().unwrap();
        assert!(adopt(Some(file.into())).unwrap_err().contains("not a pipe"));
        assert!(adopt(None).unwrap_err().contains("no pipe"));
        let (reader, writer) = pair().unwrap();
        assert!(has_reader(&writer));
        drop(reader);
        assert!(!has_reader(&writer));
    }
}
