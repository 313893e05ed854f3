//! An append-only file of records that survives kill -9 and power cuts at any byte.
//!
//! ```text
//!  "FLJ1"  { length u16 · checksum u32 (BLAKE3, first 4 bytes) · body }*      little-endian
//! ```
//!
//! Reading stops at the first record that is not whole or not right; the file is cut there, so that what is appended
//! afterwards is found again. Growth is bounded by its owner, who rewrites it with what still matters: a new file,
//! synced, takes the old one's name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"FLJ1";
const FRAME_BYTES: usize = 6;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Length up to the end of the last whole record.
    length: u64,
    records: usize,
    /// A rewrite has failed; none is tried before there are so many records.
    not_before: Option<usize>,
}

impl Journal {
    /// Open or make one, and read its records.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (bodies, whole) = parse(&bytes);
        let mut journal = Self { path, file, length: whole as u64, records: bodies.len(), not_before: None };
        if whole < bytes.len() {
            tracing::warn!(path = %journal.path.display(), bytes = bytes.len() - whole, "torn end of a journal cut off");
            journal.file.set_len(journal.length)?;
        }
        if whole == 0 {
            journal.write(MAGIC)?;
        }
        Ok((journal, bodies))
    }

    /// Records in the file, those that do not matter any more included.
    #[cfg(test)]
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Add a record of at most 65,535 bytes. On file when this returns; on the disk too if `sync`.
    pub(super) fn append(&mut self, body: &[u8], sync: bool) -> io::Result<()> {
        self.write(&frame(body)?)?;
        self.records += 1;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Replace all records by `live` once there are `most`. That may fail (a full disk) without harm but for the file's
    /// length; then it is tried again when the journal has grown by half, and not with each record.
    pub(super) fn shrink<B: AsRef<[u8]>>(&mut self, most: usize, live: impl FnOnce() -> io::Result<Vec<B>>) {
        if self.records < self.not_before.unwrap_or(most).max(most) {
            return;
        }
        let rewritten = live().and_then(|bodies| self.rewrite(bodies.iter().map(AsRef::as_ref)));
        match rewritten {
            Ok(()) if self.not_before.take().is_some() => {
                tracing::info!(path = %self.path.display(), "journal can be rewritten again");
            }
            Ok(()) => {}
            Err(error) => {
                if self.not_before.replace(self.records + self.records / 2).is_none() {
                    tracing::warn!(path = %self.path.display(), %error, "journal grows: it cannot be rewritten");
                }
            }
        }
    }

    /// Replace all records by these.
    fn rewrite<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        let mut records = 0;
        for body in bodies {
            bytes.extend_from_slice(&frame(body)?);
            records += 1;
        }
        let new = self.path.with_extension("new");
        // What an earlier attempt has left is emptied: nothing of it may remain.
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut file = OpenOptions::new().append(true).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        (self.file, self.length, self.records) = (file, bytes.len() as u64, records);
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part of it may be on file: what is appended behind it would never be read.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn frame(body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = Vec::with_capacity(FRAME_BYTES + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(body));
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// The whole records, and how many bytes they and the magic take.
fn parse(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let mut bodies = Vec::new();
    if !bytes.starts_with(MAGIC) {
        return (bodies, 0);
    }
    let mut at = MAGIC.len();
    while let Some(([l0, l1, sum @ ..], rest)) = bytes[at..].split_first_chunk::<FRAME_BYTES>() {
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        let Some(body) = rest.get(..length).filter(|body| checksum(body) == *sum) else { break };
        bodies.push(body.to_vec());
        at += FRAME_BYTES + length;
    }
    (bodies, at)
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = *blake3::hash(body).as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies() -> Vec<Vec<u8>> {
        [&b""[..], b"one", &[0; 300], b"\xff\xff\xff\xff\xff\xff\xff", b"last"].map(<[u8]>::to_vec).into()
    }

    fn whole(path: &Path) -> Vec<u8> {
        let (mut journal, empty) = Journal::open(path.to_owned()).unwrap();
        assert!(empty.is_empty());
        for body in bodies() {
            journal.append(&body, true).unwrap();
        }
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_cut_at_every_byte_leaves_the_records_before_it_and_a_journal_that_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = whole(&path);
        let mut seen = 0;
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut journal, read) = Journal::open(path.clone()).unwrap();
            assert!(bodies().starts_with(&read) && read.len() >= seen, "cut at {cut}: {read:?}");
            seen = read.len();
            journal.append(b"after", false).unwrap();
            let (journal, again) = Journal::open(path.clone()).unwrap();
            assert_eq!(again, [read, vec![b"after".to_vec()]].concat(), "cut at {cut}");
            assert_eq!(journal.records(), again.len());
        }
        assert_eq!(seen, bodies().len());
    }

    #[test]
    fn a_damaged_byte_anywhere_hides_what_follows_and_invents_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = whole(&path);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            std::fs::write(&path, damaged).unwrap();
            let (_, read) = Journal::open(path.clone()).unwrap();
            assert!(bodies().starts_with(&read) && read.len() < bodies().len(), "byte {at}: {read:?}");
        }
    }

    #[test]
    fn a_rewrite_replaces_the_whole_and_one_that_broke_off_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.journal");
        whole(&path);
        std::fs::write(path.with_extension("new"), b"half a journal of an attempt before").unwrap();
        let (mut journal, read) = Journal::open(path.clone()).unwrap();
        assert_eq!(read, bodies());
        journal.rewrite([&b"kept"[..]].into_iter()).unwrap();
        journal.append(b"added", true).unwrap();
        assert_eq!(journal.records(), 2);
        assert_eq!(Journal::open(path).unwrap().1, [b"kept".to_vec(), b"added".to_vec()]);
    }

    #[test]
    fn a_rewrite_that_fails_is_tried_again_by_growth_and_not_for_every_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.journal");
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        // In the new file's place is what cannot be written to, also by root.
        std::fs::create_dir(path.with_extension("new")).unwrap();
        let mut attempts = Vec::new();
        let mut add = |journal: &mut Journal| {
            journal.append(b"record", false).unwrap();
            let records = journal.records();
            journal.shrink(10, || {
                attempts.push(records);
                Ok(vec![b"kept"])
            });
        };
        for _ in 0..100 {
            add(&mut journal);
        }
        std::fs::remove_dir(path.with_extension("new")).unwrap();
        for _ in 0..80 {
            add(&mut journal);
        }
        // The last one succeeds, and from then on ten are the limit again.
        assert_eq!(attempts[..8], [10, 15, 22, 33, 49, 73, 109, 10]);
        assert!(journal.records() < 10);
        assert_eq!(Journal::open(path).unwrap().1.len(), journal.records());
    }

    #[test]
    fn a_full_disk_leaves_no_torn_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path().join("journal")).unwrap();
        journal.append(b"one", true).unwrap();
        let good = std::mem::replace(&mut journal.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(journal.append(b"two", true).is_err());
        journal.file = good;
        journal.append(b"three", true).unwrap();
        assert_eq!(Journal::open(journal.path.clone()).unwrap().1, [b"one".to_vec(), b"three".to_vec()]);
    }
}
