//! What may block for long on a disk has threads of its own: opening (what lies behind a partial file's last sync is hashed
//! again), syncing, and finishing (verify, fsync, rename). All end when the gateway drops their sender.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_spool::book::{Change, IncomingTransfer, Progress};

use super::Input;
use super::book::Keeper;
use super::finished::{FinishedFiles, Known};
use super::incoming::{IncomingFile, Syncing, sweep};
use super::outgoing::OutgoingFile;
use crate::ring::GatewayBell;

/// Times that a book which refuses is asked before a file that went on is given up.
const BOOK_ATTEMPTS: u32 = 3;

/// An offered file whose partial file, if any, is to be opened.
pub(crate) struct Opening {
    pub(super) inbox: PathBuf,
    pub(super) worker: usize,
    /// The sender's node name.
    pub(super) from: String,
    pub(super) id: TransferId,
    pub(super) meta: TransferMeta,
    /// What the book has of its partial file.
    pub(super) known: Option<Progress>,
    /// Tells this offer from an earlier one of the same transfer that the opener still has.
    pub(super) number: u64,
}

/// What the opener does, in this order.
pub(super) enum Open {
    Offered(Box<Opening>),
    /// Remove what is left of forgotten transfers; not of these.
    Sweep(PathBuf, HashSet<TransferId>),
}

/// What came of an offer.
pub(crate) enum Opened {
    /// Its partial file, hashed as far as it is believed.
    File(Box<IncomingFile>),
    /// The file has arrived before, and its sender has not heard of it.
    Arrived,
    /// Not to be taken, for this reason.
    Refused(Failure),
}

/// A received file with nothing missing, on its way to the finisher.
pub(super) struct Finishing {
    pub(super) file: IncomingFile,
    /// The sender's node name.
    pub(super) from: String,
    pub(super) id: TransferId,
    pub(super) size: u64,
    pub(super) digest: [u8; 32],
    /// So much of it the book knows to be on the disk.
    pub(super) synced: u64,
}

/// What the finisher does, in this order.
pub(super) enum Slow {
    Finish(Box<Finishing>),
    Hash(TransferId, Box<OutgoingFile>),
}

pub(super) fn start_opener(
    to_gateway: Sender<Input>,
    bell: GatewayBell,
    arrived: Arc<FinishedFiles>,
    boot: String,
    keeper: Keeper,
) -> std::io::Result<Sender<Open>> {
    let (sender, receiver) = channel::<Open>();
    std::thread::Builder::new().name("opener".into()).spawn(move || {
        for work in receiver {
            let opening = match work {
                Open::Offered(opening) => opening,
                Open::Sweep(inbox, keep) => {
                    sweep(&inbox, &keep);
                    continue;
                }
            };
            let result = match arrived.knows(&opening.from, opening.id, &opening.meta) {
                Known::Yes => Opened::Arrived,
                Known::Another => {
                    let reason = "this id was another file's, which has arrived";
                    Opened::Refused(Failure::new(FailCode::Refused, reason))
                }
                Known::No => {
                    let Opening { inbox, id, meta, known, from, .. } = &*opening;
                    match IncomingFile::open(inbox, *id, meta, known.as_ref(), &boot) {
                        Ok(mut file) => match file.settle() {
                            Ok(None) => Opened::File(Box::new(file)),
                            // What is accepted is confirmed: a new start must know of it.
                            Ok(Some(progress)) => {
                                let (name, size) = (meta.name.clone(), meta.size);
                                let transfer = IncomingTransfer { id: id.0, peer: from.clone(), name, size, progress };
                                let change = Change::Incoming(transfer);
                                if (0..BOOK_ATTEMPTS).any(|_| keeper.note_and_wait(change.clone())) {
                                    Opened::File(Box::new(file))
                                } else {
                                    let reason = "the book of transfers cannot be written";
                                    Opened::Refused(Failure::new(FailCode::Storage, reason))
                                }
                            }
                            Err(failure) => Opened::Refused(failure),
                        },
                        Err(failure) => Opened::Refused(failure),
                    }
                }
            };
            if to_gateway.send(Input::Opened(opening, result)).is_err() {
                return;
            }
            bell.ring();
        }
    })?;
    Ok(sender)
}

pub(super) fn start_finisher(
    to_gateway: Sender<Input>,
    bell: GatewayBell,
    arrived: Arc<FinishedFiles>,
) -> std::io::Result<Sender<Slow>> {
    let (sender, receiver) = channel::<Slow>();
    std::thread::Builder::new().name("finisher".into()).spawn(move || {
        for work in receiver {
            let input = match work {
                Slow::Finish(finishing) => {
                    let Finishing { file, from, id, size, digest, synced } = *finishing;
                    Input::Finished(id, file.finish(size, &digest, &from, synced, &arrived))
                }
                Slow::Hash(id, file) => Input::Hashed(id, file.into_digest()),
            };
            if to_gateway.send(input).is_err() {
                return;
            }
            bell.ring();
        }
    })?;
    Ok(sender)
}

/// The thread that syncs partial files, one after the other.
pub(super) fn start_syncer(to_gateway: Sender<Input>, bell: GatewayBell) -> std::io::Result<Sender<Syncing>> {
    let (sender, receiver) = channel::<Syncing>();
    std::thread::Builder::new().name("syncer".into()).spawn(move || {
        for syncing in receiver {
            let (id, name, result) = syncing.sync();
            if to_gateway.send(Input::FileSynced(id, name, result)).is_err() {
                return;
            }
            bell.ring();
        }
    })?;
    Ok(sender)
}
