//! The log: one JSON object a line, with the fields of the event and of the spans around it, each
//! once.
//!
//! The usual JSON format nests every span with its name under `name`, beside a field of that name,
//! and repeats the innermost. Here a span only lends its fields, so that all lines about one model
//! are found by `namespace` and `name`:
//!
//! ```json
//! {"timestamp":"…","level":"INFO","target":"serin::controller","message":"…",
//!  "namespace":"ml","name":"churn","action":"StepAdvanced"}
//! ```

use std::{
    fmt::{Debug, Write as _},
    io::Write as _,
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::MakeWriter,
    layer::Context,
    layer::SubscriberExt,
    registry::{LookupSpan, Scope},
    util::SubscriberInitExt,
};

use crate::runtime::settings::LogFormat;

/// The end of a field's name whose text is JSON: it becomes a value of the line, under the name
/// without it.
pub const JSON_SUFFIX: &str = "_json";
/// Spans of these crates repeat what ours say.
const FOREIGN: &str = "kube";

/// Logs to standard output from now on. `level` is a level such as `info`, or directives such as
/// `info,serin=debug`. An error where `level` cannot be parsed.
pub fn start(level: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(level)?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry.with(JsonLines(std::io::stdout)).init(),
        LogFormat::Text => registry.with(tracing_subscriber::fmt::layer()).init(),
    }
    Ok(())
}

/// Writes each event as one line of JSON.
struct JsonLines<W>(W);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut of_event = Fields::default();
        event.record(&mut of_event);
        let metadata = event.metadata();
        let mut line = Fields::default();
        line.set("timestamp", Timestamp::now().to_string().into());
        line.set("level", metadata.level().as_str().into());
        line.set("target", metadata.target().into());
        if let Some(message) = of_event.take("message") {
            line.set("message", message);
        }
        // From the outermost in, so that the innermost wins.
        let scope = context.event_scope(event);
        for span in scope.into_iter().flat_map(Scope::from_root) {
            if span.metadata().target().starts_with(FOREIGN) {
                continue;
            }
            if let Some(fields) = span.extensions().get::<Fields>() {
                fields.merge_into(&mut line);
            }
        }
        of_event.merge_into(&mut line);
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            // An error means that no process reads the log.
            let _ = self.0.make_writer().write_all(&text);
        }
    }
}

/// Names and values in the order in which they came; a name that comes again replaces its value.
#[derive(Default)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(index).1)
    }

    fn merge_into(&self, other: &mut Self) {
        for (name, value) in &self.0 {
            other.set(name, value.clone());
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name().strip_suffix(JSON_SUFFIX) {
            Some(name) => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                self.set(name, value);
            }
            None => self.set(field.name(), value.into()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A log that the test reads.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'writer> MakeWriter<'writer> for Log {
        type Writer = Self;

        fn make_writer(&'writer self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_its_models_name_and_every_field_once() {
        let log = Log::default();
        let subscriber = tracing_subscriber::registry().with(JsonLines(log.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let foreign = tracing::info_span!(
                target: "kube_runtime::controller", "reconciling object", object.ref = "ml/churn"
            );
            let _foreign = foreign.enter();
            let _ours =
                tracing::info_span!("reconcile", namespace = "ml", name = "churn").entered();
            tracing::info!(
                action = "StepAdvanced",
                weight = 25,
                verdict = None::<String>,
                evidence_json = r#"[{"objective":"errors"}]"#,
                "0 errors in {} requests.",
                40
            );
        });
        let bytes = log.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let (timestamp, rest) = text.split_once(',').unwrap();
        assert!(timestamp.starts_with(r#"{"timestamp":""#), "{timestamp}");
        assert_eq!(
            rest,
            concat!(
                r#""level":"INFO","target":"serin::runtime::log::tests","#,
                r#""message":"0 errors in 40 requests.","#,
                r#""namespace":"ml","name":"churn","action":"StepAdvanced","weight":25,"#,
                r#""evidence":[{"objective":"errors"}]}"#,
                "\n"
            )
        );
    }
}
