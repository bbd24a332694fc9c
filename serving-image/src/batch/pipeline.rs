//! Scores several chunks at the same time; the results stay in order.
//!
//! ```text
//! source ─► chunks ─► workers (decode, prepare, forward) ─► answers in the input's order ─► sink
//! ```
//! The reader puts a place for each chunk's answer into a queue before it hands the chunk out, so
//! that the writer takes answers in order without sorting. The queue's length bounds how many
//! chunks are in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::decode::Decoder;
use super::error::BatchError;
use super::score::{Chunk, Scored, score};
use super::source::Source;
use crate::compute::panic_text;
use crate::model::Model;

type Place = Receiver<Result<Scored, BatchError>>;
type Work = (Chunk, SyncSender<Result<Scored, BatchError>>);

/// How the rows are divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Division {
    /// Rows before the source's first.
    pub rows_before: u64,
    /// Rows in a chunk.
    pub chunk_rows: usize,
    /// Chunks that are predicted at the same time.
    pub workers: usize,
}

/// Predicts all of `source`; `take` gets every chunk's answers, in order.
pub(super) fn run(
    model: &Model,
    source: &mut dyn Source,
    decoder: &Decoder,
    division: Division,
    take: impl FnMut(Scored) -> Result<(), BatchError> + Send,
) -> Result<(), BatchError> {
    let (places, order) = sync_channel::<Place>(2 * division.workers);
    let (hand_out, work) = sync_channel::<Work>(division.workers);
    let work = Mutex::new(work);
    thread::scope(|scope| {
        for _ in 0..division.workers {
            scope.spawn(|| work_off(model, decoder, &work));
        }
        let writer = scope.spawn(move || write(&order, take));
        let read = read(source, division, &places, &hand_out);
        drop((places, hand_out)); // the workers and the writer end when they have done the rest
        let written = writer
            .join()
            .unwrap_or_else(|panic| Err(BatchError::Panicked(panic_text(&*panic))));
        written.and(read)
    })
}

/// Reads until the end of the source, or until the writer has ended.
fn read(
    source: &mut dyn Source,
    division: Division,
    places: &SyncSender<Place>,
    hand_out: &SyncSender<Work>,
) -> Result<(), BatchError> {
    let mut first_row = division.rows_before + 1;
    loop {
        let raw = source
            .next(division.chunk_rows)
            .map_err(BatchError::Input)?;
        let rows = raw.len();
        if rows == 0 {
            return Ok(());
        }
        let chunk = Chunk {
            first_row,
            next_offset: source.offset(),
            raw,
        };
        let (answer, place) = sync_channel(1);
        if places.send(place).is_err() || hand_out.send((chunk, answer)).is_err() {
            return Ok(()); // the writer has an error of its own
        }
        first_row += rows as u64;
    }
}

fn work_off(model: &Model, decoder: &Decoder, work: &Mutex<Receiver<Work>>) {
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok((chunk, answer)) = next() {
        let scored = catch_unwind(AssertUnwindSafe(|| score(model, decoder, chunk)))
            .map_err(|panic| BatchError::Panicked(panic_text(&*panic)))
            .and_then(|scored| scored.map_err(BatchError::Predict));
        let _ = answer.send(scored); // fails where the writer has ended
    }
}

fn write(
    order: &Receiver<Place>,
    mut take: impl FnMut(Scored) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    for place in order {
        let scored = place
            .recv()
            .map_err(|_| BatchError::Panicked("a worker is gone".into()))?;
        take(scored?)?;
    }
    Ok(())
}
