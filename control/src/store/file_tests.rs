use super::*;
use crate::store::{Accepted, Stage};
use engine::random::Random;

fn fixed() -> u64 {
    1_767_225_600_000
}

fn after_ten_minutes() -> u64 {
    fixed() + TOMBSTONE_MS
}

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tandem-store-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn record(session: &str) -> Box<CallRecord> {
    Box::new(CallRecord {
        phone_number_id: "118".into(),
        began_s: 1_767_225_600,
        policy: crate::call::AcceptPolicy::OnProgress,
        stage: Stage::InCall,
        accepted: Accepted::Maybe,
        session: session.into(),
        answer: "v=0\r\n".into(),
        owes_goodbye: true,
    })
}

fn call(call_id: &str, session: &str) -> Change {
    Change::Call { call_id: call_id.into(), record: record(session) }
}

fn over(call_id: &str) -> Change {
    Change::Over { call_id: call_id.into() }
}

#[test]
fn what_was_written_is_there_after_the_next_start() {
    let path = folder("again").join("deep/tandem.redb");
    let (mut store, remembered) = FileStore::open(&path, fixed).unwrap();
    assert_eq!(remembered, Remembered::default());
    for change in [call("a", "s-1"), call("b", "s-2"), call("a", "s-3"), over("b"), over("c")] {
        store.write(change);
    }
    drop(store);
    let (store, remembered) = FileStore::open(&path, fixed).unwrap();
    assert_eq!(remembered.calls, BTreeMap::from([("a".to_owned(), *record("s-3"))]));
    assert_eq!(remembered.over, BTreeMap::from([("b".to_owned(), TOMBSTONE_MS), ("c".to_owned(), TOMBSTONE_MS)]));
    drop(store);
    // Ids of calls that are over are forgotten in time; calls are not.
    let (_store, remembered) = FileStore::open(&path, after_ten_minutes).unwrap();
    assert_eq!((remembered.calls.len(), remembered.over.len()), (1, 0));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "call ids hold phone numbers");
}

#[test]
fn sip_calls_that_were_up_are_remembered_until_they_are_over() {
    let path = folder("dialogs").join("tandem.redb");
    let text = r#"{"dialog":{"call_id":"c","local":"<sip:a@h>;tag=1","remote":"<sip:b@h>;tag=2","remote_tag":"2","local_cseq":7,
        "remote_cseq":null,"route_set":["<sip:p;lr>"],"remote_target":"sip:b@h"},"transport":"tls","peer":"192.0.2.1:5061"}"#;
    let dialog: KeptDialog = serde_json::from_str(text).unwrap();
    let up = |key: &str| Change::Dialog { key: key.into(), dialog: Box::new(dialog.clone()) };
    let (mut store, _) = FileStore::open(&path, fixed).unwrap();
    for change in [up("c;1"), call("c;1", "s"), up("d;1"), Change::DialogOver { key: "d;1".into() }, up("e;1")] {
        store.write(change);
    }
    drop(store);
    let (mut store, remembered) = FileStore::open(&path, fixed).unwrap();
    assert_eq!(remembered.dialogs.keys().collect::<Vec<_>>(), ["c;1", "e;1"]);
    assert_eq!((&remembered.dialogs["c;1"], remembered.calls.len()), (&dialog, 1));
    store.write(Change::DialogOver { key: "c;1".into() });
    store.write(Change::DialogOver { key: "never".into() });
    drop(store);
    let (store, remembered) = FileStore::open(&path, fixed).unwrap();
    assert_eq!(remembered.dialogs.len(), 1);
    drop(store);
    // One that cannot be read is gone for good, and costs no other.
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(DIALOGS).unwrap().insert("x", &b"{}"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let (_store, remembered) = FileStore::open(&path, fixed).unwrap();
        assert_eq!(remembered.dialogs.keys().collect::<Vec<_>>(), ["e;1"]);
    }
}

#[test]
fn a_change_is_written_when_it_is_announced() {
    let path = folder("announced").join("tandem.redb");
    let (mut store, _) = FileStore::open(&path, fixed).unwrap();
    let mut last = 0;
    for number in 0..1_000 {
        last = store.write(call(&format!("wacid.{number}"), "s"));
    }
    let mut written = store.written();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { written.wait_for(|written| *written >= last).await.map(|_| ()).unwrap() });
    // As a crash would find it: nothing is closed, the bytes are what they are.
    let crashed = path.with_extension("crashed");
    std::fs::copy(&path, &crashed).unwrap();
    let (_again, remembered) = FileStore::open(&crashed, fixed).unwrap();
    assert_eq!(remembered.calls.len(), 1_000);
    assert_eq!(store.figures(), StoreFigures { changes: 1_000, waiting: 0, lost: 0 });
}

#[test]
fn a_file_that_another_program_uses_is_refused_and_left_alone() {
    let path = folder("used").join("tandem.redb");
    let (_store, _) = FileStore::open(&path, fixed).unwrap();
    let error = FileStore::open(&path, fixed).err().unwrap();
    assert!(error.contains("another program uses it"), "{error}");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let error = FileStore::open(Path::new("/proc/self/no/tandem.redb"), fixed).err().unwrap();
    assert!(error.contains("cannot be used"), "{error}");
}

#[test]
fn a_damaged_file_is_moved_aside_and_a_new_one_begun() {
    let path = folder("damaged").join("tandem.redb");
    let (mut store, _) = FileStore::open(&path, fixed).unwrap();
    for number in 0..300 {
        store.write(call(&format!("wacid.{number}"), "session"));
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut random = Random::from_test_seed(5);
    let mut damages: Vec<Vec<u8>> = vec![
        b"not a database".to_vec(),
        vec![0; whole.len()],
        whole[..100].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole.iter().map(|byte| !byte).collect(),
    ];
    for _ in 0..40 {
        let mut damaged = whole.clone();
        for _ in 0..64 {
            let at = random.below(damaged.len() as u32) as usize;
            damaged[at] ^= 1 << random.below(8);
        }
        damages.push(damaged);
    }
    let mut aside = 0;
    for (number, damaged) in damages.iter().enumerate() {
        std::fs::write(&path, damaged).unwrap();
        // Whatever is wrong with it, the program starts, and what it writes is kept.
        let (mut store, _) = FileStore::open(&path, fixed).unwrap_or_else(|error| panic!("damage {number}: {error}"));
        store.write(call("fresh", "s"));
        drop(store);
        let (store, remembered) = FileStore::open(&path, fixed).unwrap();
        assert_eq!(remembered.calls.get("fresh"), Some(&*record("s")), "damage {number}");
        drop(store);
        let copies = std::fs::read_dir(path.parent().unwrap()).unwrap().count() - 1;
        assert!(number >= 5 || copies == number + 1, "damage {number} was not noticed");
        aside = copies;
    }
    assert!(aside >= 5);
}

#[test]
fn more_than_the_queue_holds_is_counted_and_nobody_waits() {
    let path = folder("full").join("tandem.redb");
    let (mut store, _) = FileStore::open(&path, fixed).unwrap();
    let changes = 4 * STORE_CHANGES_MAX as u64;
    let mut last = 0;
    for number in 0..changes {
        last = store.write(call(&format!("wacid.{}", number % 50), "s"));
    }
    assert_eq!(last, changes);
    let figures = store.figures();
    assert_eq!(figures.changes + figures.lost, changes);
}
