//! Call detail records: one line of JSON for every call that is over, appended to a file.
//!
//! A record is made of the call's timeline, once its end and, where it had media, their figures are written. Numbers stay out of it:
//! the call is named as in the log, by its hash.
//!
//! Why a thread and a bounded queue: a disk that stalls must not stop the task that owns every call. A record that finds the queue
//! full is lost and counted.

use super::redact::CallTag;
use super::scrub::scrub;
use super::timeline::{Page, Step};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Records waiting for the disk.
pub const RECORDS_MAX: usize = 4_096;

/// Whether `page` is complete now that `step` was written: the end is there, and where there was a bridge, its figures.
pub fn is_complete(page: &Page, step: Step) -> bool {
    let has = |wanted| page.entries.iter().any(|line| line.step == wanted);
    match step {
        Step::End => has(Step::Media) || !has(Step::Offer),
        Step::Media => has(Step::End),
        _ => false,
    }
}

/// The record; `ended_at` in seconds since 1970.
pub fn record(call_id: &str, page: &Page, ended_at: u64) -> Value {
    let mut steps = Map::new();
    for line in &page.entries {
        steps.entry(line.step.name()).or_insert(json!(line.at_ms));
    }
    let detail =
        |wanted| page.entries.iter().find(|line| line.step == wanted).map(|line| scrub(&line.detail).to_string());
    let end = detail(Step::End).unwrap_or_default();
    let word = |key: &str| {
        let rest = end.split_once(key)?.1;
        rest.split([' ', ':']).next().map(str::to_owned)
    };
    let meta: Vec<String> = page
        .entries
        .iter()
        .filter(|line| line.step == Step::Meta)
        .map(|line| scrub(&line.detail).to_string())
        .collect();
    json!({
        "call": CallTag(call_id).to_string(),
        "ended_at": ended_at,
        "duration_ms": page.entries.iter().map(|line| line.at_ms).max(),
        "side": word("side="),
        "cause": word("cause="),
        "end": end,
        "media": detail(Step::Media),
        "meta": meta,
        "steps_ms": steps,
    })
}

/// The way to the file.
pub struct Writer {
    queue: SyncSender<String>,
    lost: u64,
}

impl Writer {
    /// Opens the file and begins its thread.
    pub fn open(path: &Path) -> io::Result<Writer> {
        let mut file = File::options().create(true).append(true).open(path)?;
        let (queue, lines) = sync_channel::<String>(RECORDS_MAX);
        let name = path.display().to_string();
        std::thread::Builder::new().name("cdr".to_owned()).spawn(move || {
            let mut failed = false;
            for line in lines {
                let written = file.write_all(line.as_bytes());
                if let (Err(error), false) = (&written, failed) {
                    tracing::error!("{name}: call detail records cannot be written: {error}");
                }
                failed = written.is_err();
            }
        })?;
        Ok(Writer { queue, lost: 0 })
    }

    /// Appends one record.
    pub fn write(&mut self, record: &Value) {
        self.lost += u64::from(self.queue.try_send(format!("{record}\n")).is_err());
    }

    /// Records that found the queue full.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Entry, Timeline};
    use super::*;
    use engine::time::Instant;

    fn page(steps: &[(u64, Step, &str)]) -> Page {
        let mut timeline = Timeline::new();
        for (at, step, detail) in steps {
            let entry =
                Entry { call_id: "c".into(), at: Instant::from_millis(*at), step: *step, detail: (*detail).into() };
            assert!(timeline.push(&entry));
        }
        timeline.page("c", 0).unwrap()
    }

    #[test]
    fn a_record_waits_for_the_end_and_for_the_figures_of_its_media() {
        let ringing = page(&[(0, Step::Webhook, ""), (1, Step::Offer, "")]);
        assert!(!is_complete(&ringing, Step::Offer));
        let hung_up = page(&[(1, Step::Offer, ""), (9, Step::End, "side=sip cause=bye")]);
        assert!(!is_complete(&hung_up, Step::End), "its bridge has not ended");
        let whole = page(&[(1, Step::Offer, ""), (9, Step::End, "side=sip cause=bye"), (9, Step::Media, "m")]);
        assert!(is_complete(&whole, Step::Media));
        let other = page(&[(1, Step::Offer, ""), (9, Step::Media, "m"), (9, Step::End, "side=sip cause=bye")]);
        assert!(is_complete(&other, Step::End));
        assert!(is_complete(&page(&[(0, Step::Webhook, ""), (2, Step::End, "")]), Step::End), "it never had a bridge");
    }

    #[test]
    fn a_record_says_who_ended_it_and_when_each_step_came_and_no_number() {
        let end = "side=sip cause=busy: 486 for +447700900123";
        let made = record(
            "wacid.1",
            &page(&[
                (5, Step::Webhook, ""),
                (25, Step::Ringing, "180"),
                (30, Step::Ringing, "183"),
                (105, Step::End, end),
            ]),
            1_767_225_600,
        );
        assert_eq!((&made["side"], &made["cause"]), (&json!("sip"), &json!("busy")));
        assert_eq!((&made["duration_ms"], &made["steps_ms"]["ringing"]), (&json!(100), &json!(20)));
        assert!(!made.to_string().contains("447700900123"), "{made}");
    }

    #[test]
    fn records_are_appended_as_lines() {
        let path = std::env::temp_dir().join(format!("tandem-cdr-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        for n in 0..2 {
            let mut writer = Writer::open(&path).unwrap();
            writer.write(&json!({"n": n}));
            assert_eq!(writer.lost(), 0);
            let expected = n + 1;
            let written = || std::fs::read_to_string(&path).unwrap().lines().count() == expected;
            // The thread that writes has its turn when a busy machine gives it one.
            assert!((0..2_000_000).any(|_| written() || {
                std::thread::yield_now();
                false
            }));
        }
        let _ = std::fs::remove_file(&path);
    }
}
