//! The log on stderr: lines for people, or with `LOG_FORMAT=json` one object per line, for programs that collect logs.
//!
//! Why a formatter of our own: an object holds the fields of one event and nothing of spans, of which this program has none.

use serde_json::{Map, Value, json};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The variable that says how lines look; the other one, `RUST_LOG`, says which there are.
pub const FORMAT_VARIABLE: &str = "LOG_FORMAT";

/// Begins to log. Call once.
pub fn begin() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match std::env::var(FORMAT_VARIABLE).unwrap_or_default().as_str() {
        "json" => log.event_format(Json).init(),
        word => {
            log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
            if !matches!(word, "" | "text") {
                tracing::warn!("{FORMAT_VARIABLE} is neither text nor json: lines are written as text");
            }
        }
    }
}

/// One event as one object: `time`, `level`, `target`, `message`, and its fields, such as `call`.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        for (name, value) in
            [("time", time.as_str()), ("level", metadata.level().as_str()), ("target", metadata.target())]
        {
            fields.0.insert(name.to_owned(), json!(value));
        }
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_json_is_one_object_with_the_events_fields() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(Json).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!(call = %"0f87ccc53d57", code = 486, "end \"side\"=sip\n");
            tracing::warn!(live = true, "second");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["call"], &lines[0]["code"]), (&json!("0f87ccc53d57"), &json!(486)));
        assert_eq!((&lines[0]["message"], &lines[0]["level"]), (&json!("end \"side\"=sip\n"), &json!("INFO")));
        assert_eq!((&lines[1]["live"], &lines[1]["level"]), (&json!(true), &json!("WARN")));
        assert!(lines[0]["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }
}
