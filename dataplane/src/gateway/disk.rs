//! What may block for long on a disk has threads of its own: opening (a partial file is hashed as far as it goes) and
//! finishing (verify, fsync, rename). Both end when the gateway drops their sender.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use florelay_engine::api::{TransferId, TransferMeta};

use super::Input;
use super::finished::{FinishedFiles, Known};
use super::incoming::{IncomingFile, sweep};
use super::outgoing::OutgoingFile;
use crate::ring::GatewayBell;

/// An offered file whose partial file, if any, is to be opened and hashed.
pub(crate) struct Opening {
    pub(super) inbox: PathBuf,
    pub(super) worker: usize,
    /// The sender's node name.
    pub(super) from: String,
    pub(super) id: TransferId,
    pub(super) meta: TransferMeta,
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
    /// Its partial file, hashed as far as it goes.
    File(Box<IncomingFile>),
    /// The file has arrived before, and its sender has not heard of it.
    Arrived,
    /// Not to be taken, for this reason.
    Refused(String),
}

/// A received file with nothing missing, on its way to the finisher.
pub(super) struct Finishing {
    pub(super) file: IncomingFile,
    /// The sender's node name.
    pub(super) from: String,
    pub(super) id: TransferId,
    pub(super) size: u64,
    pub(super) digest: [u8; 32],
}

/// What the finisher does, in this order.
pub(super) enum Slow {
    Finish(Finishing),
    Hash(TransferId, OutgoingFile),
}

pub(super) fn start_opener(
    to_gateway: Sender<Input>,
    bell: GatewayBell,
    arrived: Arc<FinishedFiles>,
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
                Known::Another => Opened::Refused("this id was another file's, which has arrived".into()),
                Known::No => match IncomingFile::open(&opening.inbox, opening.id, &opening.meta) {
                    Ok(file) => Opened::File(Box::new(file)),
                    Err(reason) => Opened::Refused(reason),
                },
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
                Slow::Finish(Finishing { file, from, id, size, digest }) => {
                    Input::Finished(id, file.finish(size, &digest, &from, &arrived))
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
