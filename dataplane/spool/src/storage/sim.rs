//! A file system in memory that fails as real ones do, and forgets what was not synced.
//!
//! ```text
//!   write ─► content (what a read sees) ── sync ──► durable
//!                └ unsynced: the operations in between; a power cut keeps any of them, each whole or in part
//! ```
//!
//! Names likewise: of what was not synced in a folder a power cut keeps a prefix, as a journal does. A sync that fails makes any
//! part of it durable and forgets that the rest was not. All chance comes from the seed; faults are ordered by the test.
//!
//! After [`SimStorage::kill`] and [`SimStorage::power_cut`] files that were open are gone: what a dead process still does to
//! them (its destructors, in a test) does nothing.

mod changes;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::changes::{NameChange, SplitMix};
use super::{FileRef, Identity, Open, Storage, StoredFile};

/// A power cut tears writes at multiples of this.
const SECTOR_BYTES: usize = 512;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What is to go wrong. By default nothing does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of 100 writes so many take only a part of what they are given.
    pub short_writes_percent: u8,
    /// The disk takes so many more bytes; then ENOSPC. Bytes of removed files come free.
    pub room_bytes: Option<u64>,
    /// The n-th call from now that changes or reads something fails with EIO (0 = the next).
    pub fail_call: Option<u64>,
    /// The n-th sync from now fails with EIO (0 = the next).
    pub fail_sync: Option<u64>,
    /// The process dies in the n-th call from now (0 = the next): that one may be done, in part or not at all, and no later one
    /// is; see [`SimStorage::is_dead`].
    pub die_call: Option<u64>,
}

/// A file system in memory. Clones are the same one.
#[derive(Clone)]
pub struct SimStorage(Arc<Mutex<Disk>>);

impl std::fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let disk = self.disk();
        let lengths = disk.names.iter().filter_map(|(name, inode)| Some((name, disk.inodes.get(inode)?.content.len())));
        f.debug_struct("SimStorage")
            .field("faults", &disk.faults)
            .field("lengths", &lengths.collect::<Vec<_>>())
            .finish()
    }
}

enum Unsynced {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
    modified: i128,
    /// Its sectors are gone for good.
    bad: bool,
}

struct Disk {
    random: SplitMix,
    /// Processes that have used it so far.
    generation: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: VecDeque<NameChange>,
    faults: Faults,
    dead: bool,
    clock: i128,
    syncs: u64,
    bytes_read: u64,
}

impl SimStorage {
    /// An empty one; equal seeds, equal chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            random: SplitMix(seed),
            generation: 0,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: VecDeque::new(),
            faults: Faults::default(),
            dead: false,
            clock: 0,
            syncs: 0,
            bytes_read: 0,
        })))
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.disk().faults = faults;
    }

    /// What goes wrong from now on, as far as it has not yet.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.disk().faults
    }

    /// The process was killed: what it wrote is there.
    pub fn kill(&self) {
        self.disk().new_process();
    }

    /// The power was cut: of what was not synced any part is there.
    pub fn power_cut(&self) {
        let mut disk = self.disk();
        disk.new_process();
        disk.power_cut();
    }

    /// Whether the process has died in a call, as [`Faults::die_call`] said: then nothing is done for it any more, until
    /// [`kill`](Self::kill) or [`power_cut`](Self::power_cut) makes a new one.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.disk().dead
    }

    /// The sectors of this file are gone: whatever is done with its bytes fails with EIO, for good and under any name. `false` =
    /// there is no such file.
    pub fn spoil(&self, path: &Path) -> bool {
        let mut disk = self.disk();
        let number = disk.names.get(path).copied();
        number.and_then(|number| disk.inodes.get_mut(&number)).map(|inode| inode.bad = true).is_some()
    }

    /// All names that there are. No fault, no account.
    #[must_use]
    pub fn names(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    /// Syncs so far, of files and folders.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Bytes that were read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.disk().bytes_read
    }

    /// A file's bytes as a reader sees them now; `None` = there is no such file. No fault, no account.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names.get(path).and_then(|inode| disk.inodes.get(inode)).map(|inode| inode.content.clone())
    }

    /// Put a file there, as if it had always been; for damage and foreign files.
    pub fn put(&self, path: &Path, content: &[u8]) {
        let mut disk = self.disk();
        let number = disk.new_inode();
        let inode = Inode { content: content.to_vec(), durable: content.to_vec(), ..Inode::default() };
        disk.inodes.insert(number, inode);
        disk.names.insert(path.to_owned(), number);
        disk.durable_names.insert(path.to_owned(), number);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A test that panicked while it held it has failed anyhow.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    fn new_process(&mut self) {
        self.generation += 1;
        (self.faults, self.dead) = (Faults::default(), false);
    }

    /// A call: it may be the one that fails, or the last of its process.
    fn call(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if count_down(&mut self.faults.die_call).is_err() {
            self.dead = true;
            if self.random.below(2) == 0 {
                return Err(io::Error::from_raw_os_error(EIO));
            }
        }
        count_down(&mut self.faults.fail_call)
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(|| io::Error::from_raw_os_error(EIO))
    }

    fn name(&mut self, change: NameChange) {
        self.unsynced_names.push_back(change);
    }

    /// A name was removed: its file goes unless a power cut may bring the name back.
    fn sweep(&mut self) {
        let (names, durable, waiting) = (&self.names, &self.durable_names, &self.unsynced_names);
        let named = |number: &u64| {
            names.values().any(|n| n == number)
                || durable.values().any(|n| n == number)
                || waiting.iter().any(|change| matches!(change, NameChange::Is(_, n) if n == number))
        };
        self.inodes.retain(|number, _| named(number));
    }

    fn sync_file(&mut self, number: u64) -> io::Result<()> {
        self.syncs += 1;
        let failed = count_down(&mut self.faults.fail_sync);
        let Some(mut inode) = self.inodes.remove(&number) else { return Err(io::Error::from_raw_os_error(EIO)) };
        let unsynced = std::mem::take(&mut inode.unsynced);
        if failed.is_ok() {
            unsynced.iter().for_each(|change| apply(&mut inode.durable, change));
        } else {
            self.survive(&mut inode.durable, unsynced);
        }
        self.inodes.insert(number, inode);
        failed
    }

    /// Any of these changes, each whole or in part.
    fn survive(&mut self, durable: &mut Vec<u8>, unsynced: Vec<Unsynced>) {
        // Now and then all or nothing survives: what is written back at once, or a disk that was slow.
        let mode = self.random.below(4);
        for change in unsynced {
            match change {
                _ if mode == 0 => {}
                change if mode == 1 => apply(durable, &change),
                Unsynced::Length(length) if self.random.below(2) == 0 => apply(durable, &Unsynced::Length(length)),
                Unsynced::Length(_) => {}
                Unsynced::Write(offset, data) => {
                    let mut at = 0;
                    while at < data.len() {
                        let sector = SECTOR_BYTES - ((offset as usize + at) % SECTOR_BYTES);
                        let end = (at + sector * (1 + self.random.below(64) as usize)).min(data.len());
                        if self.random.below(3) > 0 {
                            apply(durable, &Unsynced::Write(offset + at as u64, data[at..end].to_vec()));
                        }
                        at = end;
                    }
                }
            }
        }
    }

    fn power_cut(&mut self) {
        // In one order over all folders, as one journal has them.
        let kept = self.random.below(self.unsynced_names.len() as u64 + 1) as usize;
        for change in std::mem::take(&mut self.unsynced_names).into_iter().take(kept) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for (number, mut inode) in std::mem::take(&mut self.inodes) {
            let unsynced = std::mem::take(&mut inode.unsynced);
            self.survive(&mut inode.durable, unsynced);
            inode.content.clone_from(&inode.durable);
            self.inodes.insert(number, inode);
        }
        self.sweep();
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Length(length) => bytes.resize(*length as usize, 0),
        Unsynced::Write(offset, data) => {
            let from = *offset as usize;
            if bytes.len() < from + data.len() {
                bytes.resize(from + data.len(), 0);
            }
            bytes[from..from + data.len()].copy_from_slice(data);
        }
    }
}

fn count_down(calls: &mut Option<u64>) -> io::Result<()> {
    match calls {
        Some(0) => {
            *calls = None;
            Err(io::Error::from_raw_os_error(EIO))
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &Path, open: Open) -> io::Result<FileRef> {
        let mut disk = self.disk();
        disk.call()?;
        let number = match disk.names.get(path).copied() {
            Some(number) => number,
            None if open == Open::Existing => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let number = disk.new_inode();
                disk.inodes.insert(number, Inode::default());
                disk.names.insert(path.to_owned(), number);
                disk.name(NameChange::Is(path.to_owned(), number));
                number
            }
        };
        if open == Open::Empty {
            let inode = disk.inode(number)?;
            inode.content.clear();
            inode.unsynced.push(Unsynced::Length(0));
        }
        Ok(Arc::new(SimFile { storage: self.clone(), inode: number, generation: disk.generation }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        disk.name(NameChange::Moved(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.disk().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        let number = disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let length = disk.inode(number).map_or(0, |inode| inode.content.len() as u64);
        if let Some(room) = &mut disk.faults.room_bytes {
            *room += length;
        }
        disk.name(NameChange::Gone(path.to_owned()));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.call()?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn make_folder(&self, _folder: &Path) -> io::Result<()> {
        self.disk().call()
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        if self.list(folder)?.is_empty() { Ok(()) } else { Err(io::ErrorKind::DirectoryNotEmpty.into()) }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        disk.syncs += 1;
        count_down(&mut disk.faults.fail_sync)?;
        for change in std::mem::take(&mut disk.unsynced_names) {
            if change.folder() == Some(folder) {
                change.apply(&mut disk.durable_names);
            } else {
                disk.unsynced_names.push_back(change);
            }
        }
        disk.sweep();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    storage: SimStorage,
    inode: u64,
    generation: u64,
}

impl SimFile {
    /// The disk, for a call that may fail.
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.storage.disk();
        if disk.generation != self.generation {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        disk.call()?;
        Ok(disk)
    }

    /// The same, for one that needs the file's sectors.
    fn sectors(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.disk()?;
        if disk.inode(self.inode)?.bad {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(disk)
    }
}

impl StoredFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk()?.inode(self.inode)?.content.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.sectors()?;
        let content = &disk.inode(self.inode)?.content;
        let from = usize::try_from(offset).map_or(content.len(), |from| from.min(content.len()));
        let n = buffer.len().min(content.len() - from);
        buffer[..n].copy_from_slice(&content[from..from + n]);
        disk.bytes_read += n as u64;
        Ok(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.sectors()?;
        let mut n = data.len();
        if n > 1 && (disk.dead || disk.random.below(100) < u64::from(disk.faults.short_writes_percent)) {
            n = 1 + disk.random.below(n as u64 - 1) as usize;
        }
        let length = disk.inode(self.inode)?.content.len() as u64;
        if let Some(room) = disk.faults.room_bytes {
            let fits = (length + room).saturating_sub(offset).min(n as u64);
            if fits == 0 && n > 0 {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            n = fits as usize;
            disk.faults.room_bytes = Some(room - (offset + fits).saturating_sub(length).min(room));
        }
        disk.clock += 1;
        let clock = disk.clock;
        let inode = disk.inode(self.inode)?;
        let change = Unsynced::Write(offset, data[..n].to_vec());
        apply(&mut inode.content, &change);
        inode.unsynced.push(change);
        inode.modified = clock;
        Ok(n)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut disk = self.sectors()?;
        disk.clock += 1;
        let clock = disk.clock;
        let before = disk.inode(self.inode)?.content.len() as u64;
        if let Some(room) = &mut disk.faults.room_bytes {
            *room += before.saturating_sub(length);
        }
        let inode = disk.inode(self.inode)?;
        apply(&mut inode.content, &Unsynced::Length(length));
        inode.unsynced.push(Unsynced::Length(length));
        inode.modified = clock;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.sectors()?;
        disk.sync_file(self.inode)
    }

    fn identity(&self) -> io::Result<Identity> {
        let mut disk = self.disk()?;
        let inode = disk.inode(self.inode)?;
        let (size, modified_ns) = (inode.content.len() as u64, inode.modified);
        Ok(Identity { device: 1, inode: self.inode, size, modified_ns, regular: true })
    }
}
