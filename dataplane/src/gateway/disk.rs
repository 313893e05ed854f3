//! What may block for long on a disk has threads of its own: opening (a partial file is hashed as far as it goes) and
//! finishing (verify, fsync, rename). Both end when the gateway drops their sender.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use florelay_engine::api::{TransferId, TransferMeta};
use florelay_engine::config::PeerId;

use super::Input;
use super::incoming::IncomingFile;
use super::outgoing::OutgoingFile;
use crate::ring::GatewayBell;

/// An offered file whose partial file, if any, is to be opened and hashed.
pub(crate) struct Opening {
    pub(super) inbox: PathBuf,
    pub(super) worker: usize,
    pub(super) peer: PeerId,
    pub(super) id: TransferId,
    pub(super) meta: TransferMeta,
}

/// A received file with nothing missing, on its way to the finisher.
pub(super) struct Finishing {
    pub(super) file: IncomingFile,
    pub(super) id: TransferId,
    pub(super) size: u64,
    pub(super) digest: [u8; 32],
}

/// What the finisher does, in this order.
pub(super) enum Slow {
    Finish(Finishing),
    Hash(TransferId, OutgoingFile),
}

pub(super) fn start_opener(to_gateway: Sender<Input>, bell: GatewayBell) -> std::io::Result<Sender<Opening>> {
    let (sender, receiver) = channel::<Opening>();
    std::thread::Builder::new().name("opener".into()).spawn(move || {
        for opening in receiver {
            let result = IncomingFile::open(&opening.inbox, opening.id, &opening.meta).map(Box::new);
            if to_gateway.send(Input::Opened(Box::new(opening), result)).is_err() {
                return;
            }
            bell.ring();
        }
    })?;
    Ok(sender)
}

pub(super) fn start_finisher(to_gateway: Sender<Input>, bell: GatewayBell) -> std::io::Result<Sender<Slow>> {
    let (sender, receiver) = channel::<Slow>();
    std::thread::Builder::new().name("finisher".into()).spawn(move || {
        for work in receiver {
            let input = match work {
                Slow::Finish(Finishing { file, id, size, digest }) => Input::Finished(id, file.finish(size, &digest)),
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
