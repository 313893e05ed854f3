//! The book: which transfers there are, and how far they are. A store of keys and values (redb: copy on write, checksums, one
//! sync for each commit) with four tables:
//!
//! ```text
//!   own       id             → OwnTransfer        what this node sends
//!   incoming  (peer, id)     → IncomingTransfer   what it receives; ids are their sender's
//!   ended     number         → EndedTransfer      what is over, the last 16,384, oldest first
//!   unheard   number         →                    those of them that ended by this node, and their peer may not have heard
//! ```
//!
//! Changes come in batches, each one commit: all of it is there after a power cut, or nothing. After a commit that failed the
//! store's file is written and opened anew with the next batch. Whether a commit whose sync has failed is there after all is not
//! known until then, so its changes are made again, before the others.
//!
//! A book that is damaged beyond what the store can repair is set aside under another name and a new one begun: a node without
//! its past is better than no node. A book of a later version is left alone, and is an error.

mod backend;
mod records;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use self::backend::Backend;
use self::records::{decode, encode};
use crate::storage::{FileRef, Open, Storage};

pub use self::records::{Change, EndedTransfer, IncomingTransfer, OwnTransfer, Progress, Source, VERSION, check};

/// Ended transfers that are remembered.
pub const MAX_ENDED: usize = 16_384;

/// Memory for pages of the store: it holds little, and is written more than read.
const CACHE_BYTES: usize = 4 << 20;
/// Names that a damaged book is set aside under: `transfers.redb.damaged-0` …
const MAX_SET_ASIDE: u32 = 100;
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

const OWN: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("own");
const INCOMING: TableDefinition<'_, (&str, u128), &[u8]> = TableDefinition::new("incoming");
const ENDED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ended");
const UNHEARD: TableDefinition<'_, u64, ()> = TableDefinition::new("unheard");

/// Why something of the book could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The disk refused; it can be tried again.
    #[error("the book of transfers: {0}")]
    Disk(#[from] io::Error),
    /// It is not as it was written.
    #[error("the book of transfers is damaged: {0}")]
    Damaged(String),
    /// Written by a later version, and left alone.
    #[error(
        "the book of transfers has version {0}; this node knows {VERSION}: start the version that wrote it, or move the file away"
    )]
    Newer(u8),
}

/// What is in it when it is opened.
#[derive(Debug, Default)]
pub struct Contents {
    /// Own transfers, by queue order.
    pub own: Vec<OwnTransfer>,
    /// Incoming ones.
    pub incoming: Vec<IncomingTransfer>,
    /// Ended ones, oldest first.
    pub ended: Vec<EndedTransfer>,
    /// Those of them that ended by this node, and their peer may not have heard so; oldest first.
    pub unheard: Vec<EndedTransfer>,
    /// Where a damaged book was put, and a new one begun.
    pub set_aside: Option<PathBuf>,
}

/// Peer, direction (`true` = sent from here) and id.
type EndKey = (String, bool, u128);

/// The open book. One writer.
#[derive(Debug)]
pub struct Book {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// `None` after an error: opened anew with the next change.
    database: Option<Database>,
    /// What could not be written yet.
    waiting: Vec<Change>,
    /// Where the end of each transfer is; and the reverse, in the order of the table.
    ends: HashMap<EndKey, u64>,
    numbers: BTreeMap<u64, EndKey>,
}

impl Book {
    /// Open it, or begin one.
    ///
    /// # Errors
    /// The disk refused, or it is a later version's.
    pub fn open(storage: Arc<dyn Storage>, path: PathBuf) -> Result<(Self, Contents), BookError> {
        // Whether the process before has seen a sync fail is not known.
        match renew(&*storage, &path) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(path = %path.display(), %error, "the book of transfers is used as it is");
            }
            renewed => renewed?,
        }
        let opened = open_database(&*storage, &path).and_then(|database| {
            let contents = read(&database)?;
            Ok((database, contents))
        });
        let (database, (mut contents, numbers), set_aside) = match opened {
            Ok((database, contents)) => (database, contents, None),
            Err(BookError::Damaged(reason)) => {
                let aside = set_aside(&*storage, &path)?;
                tracing::error!(
                    path = %path.display(), aside = %aside.display(), reason,
                    "the book of transfers is damaged and was set aside; transfers before this are forgotten"
                );
                (open_database(&*storage, &path)?, Default::default(), Some(aside))
            }
            Err(error) => return Err(error),
        };
        contents.set_aside = set_aside;
        let (ends, numbers) = index(&contents, &numbers);
        Ok((Self { storage, path, database: Some(database), waiting: Vec::new(), ends, numbers }, contents))
    }

    /// Let go of the file, all of which is written then; the next change opens it again.
    pub fn close(&mut self) {
        self.database = None;
    }

    /// Make these changes, in this order, in one commit: there after a power cut when this returns. After an error they are
    /// made with the next ones, and before them.
    ///
    /// # Errors
    /// The disk refused. Whether the changes are there is not known before the next time.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), BookError> {
        self.waiting.extend_from_slice(changes);
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let result = self.try_apply(&waiting);
        if result.is_err() {
            (self.database, self.waiting) = (None, latest(waiting));
        }
        result
    }

    fn try_apply(&mut self, changes: &[Change]) -> Result<(), BookError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                renew(&*self.storage, &self.path)?;
                let database = open_database(&*self.storage, &self.path)?;
                let (contents, numbers) = read(&database)?;
                (self.ends, self.numbers) = index(&contents, &numbers);
                database
            }
        };
        let database = self.database.insert(database);
        let (ends, numbers) = (&mut self.ends, &mut self.numbers);
        let transaction = database.begin_write().map_err(store)?;
        {
            let mut own = transaction.open_table(OWN).map_err(store)?;
            let mut incoming = transaction.open_table(INCOMING).map_err(store)?;
            let mut ended = transaction.open_table(ENDED).map_err(store)?;
            let mut unheard = transaction.open_table(UNHEARD).map_err(store)?;
            for change in changes {
                let gone = match change {
                    Change::Own(transfer) => {
                        own.insert(transfer.id, &encode(transfer)?[..]).map_err(store)?;
                        None
                    }
                    Change::OwnGone(id) => {
                        own.remove(id).map_err(store)?;
                        None
                    }
                    Change::Incoming(transfer) => {
                        let key = (transfer.peer.as_str(), transfer.id);
                        incoming.insert(key, &encode(transfer)?[..]).map_err(store)?;
                        None
                    }
                    Change::IncomingGone(peer, id) => {
                        incoming.remove((peer.as_str(), *id)).map_err(store)?;
                        None
                    }
                    Change::Ended(transfer) | Change::GaveUp(transfer) => {
                        let number = numbers.last_key_value().map_or(0, |(last, _)| last + 1);
                        ended.insert(number, &encode(transfer)?[..]).map_err(store)?;
                        if matches!(change, Change::GaveUp(_)) {
                            unheard.insert(number, ()).map_err(store)?;
                        }
                        let key = key_of(transfer);
                        let before = ends.insert(key.clone(), number);
                        numbers.insert(number, key);
                        before
                    }
                    Change::Heard(peer, outgoing, id) => {
                        if let Some(number) = ends.get(&(peer.clone(), *outgoing, *id)) {
                            unheard.remove(number).map_err(store)?;
                        }
                        None
                    }
                    Change::NotEnded(peer, outgoing, id) => ends.remove(&(peer.clone(), *outgoing, *id)),
                };
                if let Some(number) = gone {
                    numbers.remove(&number);
                    ended.remove(number).map_err(store)?;
                    unheard.remove(number).map_err(store)?;
                }
                if numbers.len() > MAX_ENDED
                    && let Some((number, key)) = numbers.pop_first()
                {
                    ends.remove(&key);
                    ended.remove(number).map_err(store)?;
                    unheard.remove(number).map_err(store)?;
                }
            }
        }
        transaction.commit().map_err(store)
    }
}

/// The changes that matter: of each thing the last. So a disk that stays full costs no more memory than there are transfers.
fn latest(changes: Vec<Change>) -> Vec<Change> {
    let mut seen = HashSet::new();
    let mut kept: Vec<Change> = changes
        .into_iter()
        .rev()
        .filter(|change| {
            seen.insert(match change {
                Change::Own(OwnTransfer { id, .. }) | Change::OwnGone(id) => (0, String::new(), *id),
                Change::Incoming(IncomingTransfer { peer, id, .. }) | Change::IncomingGone(peer, id) => {
                    (1, peer.clone(), *id)
                }
                Change::Ended(EndedTransfer { peer, outgoing, id, .. })
                | Change::GaveUp(EndedTransfer { peer, outgoing, id, .. })
                | Change::NotEnded(peer, outgoing, id) => (2 + u8::from(*outgoing), peer.clone(), *id),
                Change::Heard(peer, outgoing, id) => (4 + u8::from(*outgoing), peer.clone(), *id),
            })
        })
        .collect();
    kept.reverse();
    kept
}

fn index(contents: &Contents, numbers: &[u64]) -> (HashMap<EndKey, u64>, BTreeMap<u64, EndKey>) {
    let key = |(number, ended): (&u64, &EndedTransfer)| (*number, key_of(ended));
    let numbers: BTreeMap<u64, EndKey> = numbers.iter().zip(&contents.ended).map(key).collect();
    let ends = numbers.iter().map(|(number, key)| (key.clone(), *number)).collect();
    (ends, numbers)
}

fn key_of(ended: &EndedTransfer) -> EndKey {
    (ended.peer.clone(), ended.outgoing, ended.id)
}

/// Open the store at this path, or make one.
fn open_database(storage: &dyn Storage, path: &Path) -> Result<Database, BookError> {
    let file = match storage.open(path, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Under another name first: a power cut must not leave half of one.
            let new = new_path(path);
            drop(database(storage.open(&new, Open::Empty)?)?);
            storage.rename(&new, path)?;
            storage.sync_folder(folder_of(path))?;
            storage.open(path, Open::Existing)?
        }
        file => file?,
    };
    database(file)
}

fn database(file: FileRef) -> Result<Database, BookError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(Backend(file)).map_err(store)
}

/// Write the store's file anew, from what can be read of it: where a sync has failed, the kernel may have forgotten what it did
/// not write, and a later sync says nothing of it.
fn renew(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    let old = match storage.open(path, Open::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        old => old?,
    };
    let new = storage.open(&new_path(path), Open::Empty)?;
    let (length, mut at) = (old.length()?, 0);
    let mut buffer = vec![0; COPY_BYTES];
    while at < length {
        let take = (length - at).min(COPY_BYTES as u64) as usize;
        old.read_exact_at(&mut buffer[..take], at)?;
        new.write_all_at(&buffer[..take], at)?;
        at += take as u64;
    }
    new.sync()?;
    storage.rename(&new_path(path), path)?;
    storage.sync_folder(folder_of(path))
}

fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// All records, and the numbers of those that ended.
fn read(database: &Database) -> Result<(Contents, Vec<u64>), BookError> {
    // Tables are made with the first change; until then they are not there to be read.
    let transaction = database.begin_write().map_err(store)?;
    transaction.open_table(OWN).map_err(store)?;
    transaction.open_table(INCOMING).map_err(store)?;
    transaction.open_table(ENDED).map_err(store)?;
    transaction.open_table(UNHEARD).map_err(store)?;
    transaction.commit().map_err(store)?;
    let transaction = database.begin_read().map_err(store)?;
    let mut contents = Contents::default();
    let mut numbers = Vec::new();
    for entry in transaction.open_table(OWN).map_err(store)?.iter().map_err(store)? {
        contents.own.push(decode(entry.map_err(store)?.1.value())?);
    }
    for entry in transaction.open_table(INCOMING).map_err(store)?.iter().map_err(store)? {
        contents.incoming.push(decode(entry.map_err(store)?.1.value())?);
    }
    let unheard = transaction.open_table(UNHEARD).map_err(store)?;
    for entry in transaction.open_table(ENDED).map_err(store)?.iter().map_err(store)? {
        let (number, bytes) = entry.map_err(store)?;
        let ended: EndedTransfer = decode(bytes.value())?;
        if unheard.get(number.value()).map_err(store)?.is_some() {
            contents.unheard.push(ended.clone());
        }
        numbers.push(number.value());
        contents.ended.push(ended);
    }
    contents.own.sort_by_key(|transfer| transfer.order);
    Ok((contents, numbers))
}

/// Whether the disk refused, or what is on it is wrong.
fn store(error: impl Into<redb::Error>) -> BookError {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => BookError::Damaged(error.to_string()),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => BookError::Damaged(error.to_string()),
        redb::Error::Io(error) => BookError::Disk(error),
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => BookError::Disk(io::Error::other(error)),
        error => BookError::Damaged(error.to_string()),
    }
}

fn set_aside(storage: &dyn Storage, path: &Path) -> Result<PathBuf, BookError> {
    for attempt in 0..MAX_SET_ASIDE {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{attempt}"));
        let aside = PathBuf::from(name);
        match storage.rename_new(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return Ok(renamed.map(|()| aside)?),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
}
