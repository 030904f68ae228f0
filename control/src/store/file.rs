//! The store on disk: a `redb` file and one thread that writes to it.
//!
//! Whatever waits when the thread comes round goes into one transaction, so the disk's pace sets the size of the batches and never
//! the pace of the calls. A disk that refuses is reported once and asked again with every batch; calls go on without it.

use super::{CallRecord, Change, Remembered, Store, StoreFigures};
use crate::call::limits::{STORE_CHANGES_MAX, TOMBSTONE_MS, TOMBSTONES_MAX};
use crate::sip::KeptDialog;
use crate::sip::limits::CALLS_MAX;
use redb::{Database, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::watch;

/// Call id to `CallRecord` as JSON.
const CALLS: TableDefinition<&str, &[u8]> = TableDefinition::new("calls");

/// Call id to the Unix time in milliseconds at which it may be forgotten.
const OVER: TableDefinition<&str, u64> = TableDefinition::new("over");

/// Call-ID and tag to `KeptDialog` as JSON.
const DIALOGS: TableDefinition<&str, &[u8]> = TableDefinition::new("dialogs");

/// Pause between two sweeps over the ids that may be forgotten.
const SWEEP_MS: u64 = 60_000;

/// Bytes of the database's cache: the file holds a few megabytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Unix time in milliseconds, from whoever may read a clock.
pub type WallClock = fn() -> u64;

/// A store in a file.
pub struct FileStore {
    queue: Option<SyncSender<Numbered>>,
    next: u64,
    written: watch::Receiver<u64>,
    counted: Arc<Counted>,
    writer: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Counted {
    taken: AtomicU64,
    done: AtomicU64,
    lost: AtomicU64,
}

/// The last changes of everything that is named in some changes: all that counts of them.
#[derive(Default)]
struct Batch {
    calls: BTreeMap<String, Option<Box<CallRecord>>>,
    dialogs: BTreeMap<String, Option<Box<KeptDialog>>>,
}

impl Batch {
    fn take(&mut self, change: Change) {
        match change {
            Change::Call { call_id, record } => drop(self.calls.insert(call_id, Some(record))),
            Change::Over { call_id } => drop(self.calls.insert(call_id, None)),
            Change::Dialog { key, dialog } => drop(self.dialogs.insert(key, Some(dialog))),
            Change::DialogOver { key } => drop(self.dialogs.insert(key, None)),
        }
    }
}

struct Numbered {
    number: u64,
    change: Change,
}

impl FileStore {
    /// Opens or makes the file. A damaged one is moved aside; the error is a sentence for the operator.
    pub fn open(path: &Path, wall: WallClock) -> Result<(FileStore, Remembered), String> {
        let (database, remembered) = match open(path, wall()) {
            Ok(opened) => opened,
            Err(Fault::Refused(error)) => return Err(format!("{} cannot be used: {error}", path.display())),
            Err(Fault::Damaged(error)) => {
                let aside = move_aside(path)?;
                tracing::error!(
                    "{} is damaged ({error}) and was moved to {}: calls that were in progress are forgotten, and WhatsApp ends \
                     them by itself; a new file is begun",
                    path.display(),
                    aside.display()
                );
                open(path, wall()).map_err(|fault| match fault {
                    Fault::Refused(error) | Fault::Damaged(error) => {
                        format!("{} cannot be made: {error}", path.display())
                    }
                })?
            }
        };
        let (queue, changes) = sync_channel(STORE_CHANGES_MAX);
        let (announce, written) = watch::channel(0);
        let counted = Arc::new(Counted::default());
        let writer = Writer { database, wall, announce, counted: counted.clone(), swept_ms: wall(), failing: false };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(&changes));
        let writer = thread.map_err(|error| format!("no thread for the store: {error}"))?;
        Ok((FileStore { queue: Some(queue), next: 1, written, counted, writer: Some(writer) }, remembered))
    }
}

impl Store for FileStore {
    fn write(&mut self, change: Change) -> u64 {
        let number = self.next;
        self.next += 1;
        let taken = self.queue.as_ref().is_some_and(|queue| queue.try_send(Numbered { number, change }).is_ok());
        let counter = if taken { &self.counted.taken } else { &self.counted.lost };
        if counter.fetch_add(1, Ordering::Relaxed) == 0 && !taken {
            tracing::warn!("the store's disk is too slow: changes are lost, and a restart may forget calls");
        }
        number
    }

    fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    fn figures(&self) -> StoreFigures {
        let (taken, done) = (self.counted.taken.load(Ordering::Relaxed), self.counted.done.load(Ordering::Relaxed));
        let lost = self.counted.lost.load(Ordering::Relaxed);
        StoreFigures { changes: taken, waiting: taken.saturating_sub(done), lost }
    }
}

/// What waits is written before the program ends.
impl Drop for FileStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Writer {
    database: Database,
    wall: WallClock,
    announce: watch::Sender<u64>,
    counted: Arc<Counted>,
    swept_ms: u64,
    failing: bool,
}

impl Writer {
    fn run(mut self, changes: &Receiver<Numbered>) {
        while let Ok(first) = changes.recv() {
            let mut last = first.number;
            let mut batch = Batch::default();
            let mut count = 0;
            for Numbered { number, change } in std::iter::once(first).chain(changes.try_iter().take(STORE_CHANGES_MAX))
            {
                last = number;
                count += 1;
                batch.take(change);
            }
            match self.commit(&batch) {
                Ok(()) => self.failing = false,
                Err(error) => {
                    if !self.failing {
                        tracing::error!("the store cannot be written ({error}): a restart would forget calls");
                    }
                    self.failing = true;
                    self.counted.lost.fetch_add(count, Ordering::Relaxed);
                }
            }
            self.counted.done.fetch_add(count, Ordering::Relaxed);
            // Also after a failure: a disk that refuses must not stop calls.
            self.announce.send_replace(last);
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), redb::Error> {
        let now_ms = (self.wall)();
        let transaction = self.database.begin_write()?;
        {
            let mut calls = transaction.open_table(CALLS)?;
            let mut over = transaction.open_table(OVER)?;
            for (call_id, record) in &batch.calls {
                match record {
                    // A record is plain data: JSON can hold all of it.
                    Some(record) => {
                        calls.insert(call_id.as_str(), serde_json::to_vec(record).unwrap_or_default().as_slice())?;
                    }
                    None => {
                        calls.remove(call_id.as_str())?;
                        over.insert(call_id.as_str(), now_ms + TOMBSTONE_MS)?;
                    }
                }
            }
            if now_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
                self.swept_ms = now_ms;
                over.retain(|_, until_ms| until_ms > now_ms)?;
            }
            let mut dialogs = transaction.open_table(DIALOGS)?;
            for (key, dialog) in &batch.dialogs {
                match dialog {
                    Some(dialog) => {
                        dialogs.insert(key.as_str(), serde_json::to_vec(dialog).unwrap_or_default().as_slice())?;
                    }
                    None => drop(dialogs.remove(key.as_str())?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Why a file was not opened.
enum Fault {
    /// Moving it aside would not help, or would be wrong.
    Refused(String),
    Damaged(String),
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Fault {
        match error {
            redb::Error::DatabaseAlreadyOpen => Fault::Refused("another program uses it".to_owned()),
            // What is no database, or half of one, shows as invalid data or an early end.
            redb::Error::Io(io) if !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Fault::Refused(io.to_string())
            }
            error => Fault::Damaged(error.to_string()),
        }
    }
}

/// Opens the file and reads all of it. In a thread of its own: a file that is damaged in a way that the library did not foresee
/// may make it panic.
fn open(path: &Path, now_ms: u64) -> Result<(Database, Remembered), Fault> {
    let path = path.to_owned();
    let opened = std::thread::spawn(move || open_and_read(&path, now_ms)).join();
    opened.unwrap_or_else(|_| Err(Fault::Damaged("it cannot be read".to_owned())))
}

fn open_and_read(path: &Path, now_ms: u64) -> Result<(Database, Remembered), Fault> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| Fault::Refused(error.to_string()))?;
    }
    let mut database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(redb::Error::from)?;
    keep_private(path);
    // Reads every page: better now than in the middle of a call.
    database.check_integrity().map_err(redb::Error::from)?;
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    let remembered = read(&transaction, now_ms)?;
    transaction.commit().map_err(redb::Error::from)?;
    Ok((database, remembered))
}

/// Reads what is remembered; what may be forgotten is removed, and what cannot be read as well.
fn read(transaction: &redb::WriteTransaction, now_ms: u64) -> Result<Remembered, redb::Error> {
    let mut remembered = Remembered::default();
    let mut calls = transaction.open_table(CALLS)?;
    let mut unreadable = 0_u64;
    for entry in calls.iter()? {
        let (call_id, bytes) = entry?;
        match serde_json::from_slice::<CallRecord>(bytes.value()) {
            Ok(record) => drop(remembered.calls.insert(call_id.value().to_owned(), record)),
            Err(_) => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::error!("{unreadable} calls in the store cannot be read and are forgotten");
        calls.retain(|_, bytes| serde_json::from_slice::<CallRecord>(bytes).is_ok())?;
    }
    let mut over = transaction.open_table(OVER)?;
    over.retain(|_, until_ms| until_ms > now_ms)?;
    for entry in over.iter()?.take(TOMBSTONES_MAX) {
        let (call_id, until_ms) = entry?;
        // A clock that was set back must not keep ids for longer than for ever new ones.
        let left_ms = until_ms.value().saturating_sub(now_ms).min(TOMBSTONE_MS);
        remembered.over.insert(call_id.value().to_owned(), left_ms);
    }
    let mut dialogs = transaction.open_table(DIALOGS)?;
    for entry in dialogs.iter()? {
        let (key, bytes) = entry?;
        if let Ok(dialog) = serde_json::from_slice::<KeptDialog>(bytes.value())
            && remembered.dialogs.len() < CALLS_MAX
        {
            remembered.dialogs.insert(key.value().to_owned(), dialog);
        }
    }
    // One that cannot be read would stay for ever.
    dialogs.retain(|key, _| remembered.dialogs.contains_key(key))?;
    Ok(remembered)
}

/// Call ids hold phone numbers: nobody else reads the file.
fn keep_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!("{} may be readable by others: {error}", path.display());
    }
}

/// Gives a damaged file another name, the first one that is free.
fn move_aside(path: &Path) -> Result<PathBuf, String> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let aside = (1..1_000).map(name).find(|aside| !aside.exists());
    let aside = aside.ok_or_else(|| format!("{} has too many damaged copies beside it", path.display()))?;
    std::fs::rename(path, &aside).map_err(|error| format!("{} cannot be moved aside: {error}", path.display()))?;
    Ok(aside)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
