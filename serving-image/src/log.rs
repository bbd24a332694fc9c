//! The log on standard error: one line an event, as JSON or for people.
//!
//! A thread that answers requests buffers its lines until it is idle: the answers go first, and the
//! lines of many requests take one system call. Warnings and errors, and the lines of every other
//! thread, are written at once.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};

use tracing::{Level, Metadata, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{LogArgs, LogFormat};
use crate::compute::panic_text;

/// Buffered bytes above which lines are written even if the thread is busy.
const MOST_HELD: usize = 16 << 10;

thread_local! {
    /// `None` on a thread that does not buffer.
    static HELD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Logs the place of a panic, and its message if that is a literal of the code: others may quote
/// data.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let reason = panic_text(panic.payload());
        error!(thread = thread.name(), place, reason, "panicked");
    }));
}

/// Starts the log of this process. Fails if the directives of `--log-level` are malformed.
pub fn init(args: &LogArgs) -> Result<(), ParseError> {
    let filter: EnvFilter = args.log_level.parse()?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr);
    match args.log_format {
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
        LogFormat::Text => log
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .init(),
    }
    log_panics();
    Ok(())
}

/// Buffers the lines of this thread until [`flush`].
pub fn hold_lines() {
    HELD.set(Some(Vec::with_capacity(MOST_HELD)));
}

/// Writes the buffered lines of this thread.
pub fn flush() {
    HELD.with_borrow_mut(|held| {
        if let Some(lines) = held.as_mut().filter(|lines| !lines.is_empty()) {
            let _ = io::stderr().write_all(lines); // a lost log cannot be reported
            lines.clear();
        }
    });
}

/// Makes writers of whole lines.
struct Stderr;

/// Writes to standard error, now or later.
struct Lines {
    at_once: bool,
}

impl MakeWriter<'_> for Stderr {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        Lines { at_once: true }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Lines {
        Lines {
            at_once: *event.level() <= Level::WARN,
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (held, full) = HELD.with_borrow_mut(|held| match held {
            Some(lines) => {
                lines.extend_from_slice(line);
                (true, lines.len() >= MOST_HELD)
            }
            None => (false, false),
        });
        if !held {
            return io::stderr().write(line);
        }
        if full || self.at_once {
            flush();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // standard error has no buffer of its own
    }
}
