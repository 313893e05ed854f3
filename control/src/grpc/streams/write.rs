//! `Streams.Write`.

use bytes::Bytes;
use florelay_dataplane::ipc::TransferStatus;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::super::api::{Answered, Api, stopping};
use super::super::error::{self, Subject};
use super::super::proto::write_response::Message as To;
use super::super::proto::{self, write_request::Message as From};
use super::super::requests::{self, Writing};
use super::super::{answers, ask};
use crate::client::{ClientError, Node, StreamWriter, Watcher};

/// Answers that wait for the client; `accepted` is not said while it has so many to read.
const AHEAD: usize = 16;

/// From the call to the thread that writes.
enum Piece {
    Data(Bytes),
    Finish,
}

/// What the thread says at last.
type End = Result<TransferStatus, ClientError>;

/// Opens the stream, and lets it run.
pub(super) async fn start(
    api: &Api,
    inbound: Streaming<proto::WriteRequest>,
    wanted: Writing,
    place: OwnedSemaphorePermit,
) -> Result<Answered<proto::WriteResponse>, Status> {
    let subject = match &wanted {
        Writing::Open { order, .. } => Subject::Peer(order.to.clone(), Code::FailedPrecondition),
        Writing::Resume(id) => Subject::Transfer(*id),
    };
    let node = api.node.clone();
    let opened = ask::blocking(move || open(&node, wanted)).await;
    let (writer, at) = match opened {
        Ok(opened) => opened,
        Err(e) => return Err(error::about(&api.node, subject, e).await),
    };
    let opened =
        To::Opened(proto::WriteOpened { transfer: Some(answers::transfer(writer.status())), next_offset_bytes: at });

    let (accepted, changes) = watch::channel(at);
    let (mut watcher, interrupt) = (writer.watch(), writer.watch());
    tokio::task::spawn_blocking(move || {
        while let Some(status) = watcher.next_change() {
            accepted.send_replace(status.accepted);
        }
    });
    let (pieces, to_write) = mpsc::channel(1);
    let (safe, is_safe) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let result = write(writer, to_write, safe);
        drop(place);
        // The call has gone.
        let _ = end.send(result);
    });
    let (to, receiver) = mpsc::channel(AHEAD);
    let call =
        Call { inbound, to, interrupt, pieces: Some(pieces), at, finished: false, stop: Box::pin(api.stopped()) };
    tokio::spawn(call.run(opened, changes, is_safe, ended));
    Ok(ReceiverStream::new(receiver))
}

fn open(node: &Node, wanted: Writing) -> Result<(StreamWriter, u64), ClientError> {
    match wanted {
        Writing::Open { order, declared, linger } => {
            StreamWriter::open(node, order, declared, linger).map(|writer| (writer, 0))
        }
        Writing::Resume(id) => StreamWriter::resume(node, id),
    }
}

/// The thread of a stream. It ends when the call has (unless all was said: then when nothing can be lost any more), or
/// with the stream.
fn write(mut writer: StreamWriter, mut pieces: mpsc::Receiver<Piece>, safe: oneshot::Sender<()>) -> End {
    loop {
        let written = match pieces.blocking_recv() {
            Some(Piece::Data(data)) => writer.write_all(&data),
            Some(Piece::Finish) => break,
            // It has ended by itself; or the call has gone: dropped, the writer leaves the stream to whoever resumes it.
            None => writer.write_all(&[]).and(Err(ClientError::Interrupted)),
        };
        if let Err(error) = written {
            return or_ended(error, &writer.status());
        }
    }
    if let Err(error) = writer.end() {
        return or_ended(error, &writer.status());
    }
    let running = writer.finish()?;
    // Whoever waited for this may have gone.
    let _ = safe.send(());
    running.wait()
}

/// A stream that has failed has ended; that is no error of the call.
fn or_ended(error: ClientError, status: &TransferStatus) -> End {
    if status.ended.is_some() { Ok(status.clone()) } else { Err(error) }
}

/// The task of a call.
struct Call<S> {
    inbound: Streaming<proto::WriteRequest>,
    to: mpsc::Sender<Result<proto::WriteResponse, Status>>,
    interrupt: Watcher,
    /// `None` when nothing more is to be written.
    pieces: Option<mpsc::Sender<Piece>>,
    /// Bytes that have come.
    at: u64,
    /// The client has said the end.
    finished: bool,
    stop: S,
}

impl<S: Future<Output = ()> + Unpin> Call<S> {
    async fn run(
        mut self,
        opened: To,
        mut accepted: watch::Receiver<u64>,
        is_safe: oneshot::Receiver<()>,
        mut ended: oneshot::Receiver<End>,
    ) {
        // The channel is empty.
        let _ = self.to.try_send(Ok(response(opened)));
        let mut waiting: Option<Piece> = None;
        let mut watched = true;
        let why = loop {
            let listens = waiting.is_none() && self.pieces.is_some();
            tokio::select! {
                end = &mut ended => return self.end(end.unwrap_or(Err(ClientError::Interrupted))).await,
                changed = accepted.changed(), if watched => {
                    // Nothing more is heard of a stream that has ended.
                    watched = changed.is_ok();
                    if !watched {
                        self.pieces = None;
                    }
                    self.say_accepted(*accepted.borrow_and_update());
                }
                permit = reserve(self.pieces.clone()), if waiting.is_some() => match (permit, waiting.take()) {
                    (Some(permit), Some(piece)) => {
                        self.finished |= matches!(piece, Piece::Finish);
                        permit.send(piece);
                        if self.finished {
                            self.pieces = None;
                        }
                    }
                    // The thread has ended, and says why.
                    _ => self.pieces = None,
                },
                message = self.inbound.message(), if listens => match message.and_then(|m| self.piece(m)) {
                    Ok(piece) => waiting = Some(piece),
                    Err(status) => break Some(status),
                },
                () = self.to.closed() => break None,
                () = &mut self.stop => break Some(stopping()),
            }
        };
        if let Some(status) = why {
            let _ = self.to.try_send(Err(status));
        }
        self.pieces = None;
        if self.finished && is_safe.await.is_err() {
            // It has ended already.
            return;
        }
        self.interrupt.interrupt();
    }

    fn piece(&mut self, message: Option<proto::WriteRequest>) -> Result<Piece, Status> {
        match message.map(|m| m.message) {
            Some(Some(From::Chunk(chunk))) => {
                let data = requests::chunk(chunk, self.at)?;
                self.at += data.len() as u64;
                Ok(Piece::Data(data))
            }
            Some(Some(From::Finish(proto::WriteFinish { size_bytes }))) if size_bytes == self.at => Ok(Piece::Finish),
            Some(Some(From::Finish(proto::WriteFinish { size_bytes }))) => Err(Status::invalid_argument(format!(
                "finish.size_bytes: {size_bytes}, where {} bytes have come",
                self.at
            ))),
            Some(Some(From::Open(_) | From::Resume(_)) | None) => {
                Err(Status::invalid_argument("message: `chunk` or `finish` is expected"))
            }
            None => Err(Status::cancelled("the call was half-closed before `finish`")),
        }
    }

    /// Newer news make up for what is not said while the client does not read.
    fn say_accepted(&self, offset_bytes: u64) {
        let _ = self.to.try_send(Ok(response(To::Accepted(proto::Accepted { offset_bytes }))));
    }

    async fn end(self, end: End) {
        let last = end.map(|status| response(To::Ended(answers::transfer(status)))).map_err(error::status);
        // A client that has gone needs no answer.
        let _ = self.to.send(last).await;
    }
}

async fn reserve(pieces: Option<mpsc::Sender<Piece>>) -> Option<mpsc::OwnedPermit<Piece>> {
    pieces?.reserve_owned().await.ok()
}

fn response(message: To) -> proto::WriteResponse {
    proto::WriteResponse { message: Some(message) }
}
