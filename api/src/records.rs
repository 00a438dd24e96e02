//! Taking in the pages of a request: gathered as they arrive, and checked and staged by the batch.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use pool_core::page::PAGE_SIZE;

use crate::body::{Arrived, HELD, LimitedBody};
use crate::problem::{Problem, Result};
use crate::service::blocking;
use crate::uploads::Session;
use crate::wire::{self, RECORD_SIZE};

/// Records that are checked and staged in one go.
const BATCH: usize = 256 * RECORD_SIZE;

/// Memory for those: what arrives with the last of them may be a part of the next.
const ROOM: usize = BATCH + (512 << 10);

/// Takes in all records of a body, and answers with how many.
pub(crate) async fn take_in(session: &Arc<Session>, body: &mut LimitedBody) -> Result<u64> {
    let mut intake = Intake::new(session);
    loop {
        let until = intake.since.map(|since| since + HELD);
        match body.next_until(until).await? {
            Arrived::Piece(piece) => intake.add(&piece).await?,
            Arrived::Nothing => intake.put_down().await?,
            Arrived::End => return intake.finish().await,
        }
    }
}

/// What has arrived: one batch is checked while the next arrives. Two buffers take turns, since memory that nobody has touched yet
/// costs more than what is put there. Whoever sends too little for that has none of them for long: what came is checked as it is, and
/// both are given back.
struct Intake<'a> {
    session: &'a Arc<Session>,
    gathered: Vec<u8>,
    under_way: Option<Batch>,
    /// Since when there is memory with something in it, or for what arrives next.
    since: Option<Instant>,
    /// Records of all batches.
    pages: u64,
}

/// A batch that is being checked, and the buffer that it is in.
type Batch = tokio::task::JoinHandle<Result<Vec<u8>>>;

impl<'a> Intake<'a> {
    fn new(session: &'a Arc<Session>) -> Self {
        Self {
            session,
            gathered: Vec::new(),
            under_way: None,
            since: None,
            pages: 0,
        }
    }

    async fn add(&mut self, piece: &[u8]) -> Result<()> {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.gathered.reserve_exact(ROOM - self.gathered.len());
        }
        self.gathered.extend_from_slice(piece);
        if self.gathered.len() >= BATCH {
            let mut next = self.finish_batch().await?;
            next.reserve_exact(ROOM);
            next.extend_from_slice(&self.gathered[BATCH..]);
            self.gathered.truncate(BATCH);
            let full = std::mem::replace(&mut self.gathered, next);
            self.start(full);
            self.since = Some(Instant::now());
        }
        Ok(())
    }

    /// Checks what came of whole records, and keeps no more memory than what is left of one takes.
    async fn put_down(&mut self) -> Result<()> {
        self.finish_batch().await?;
        let whole = take_whole(&mut self.gathered);
        if !whole.is_empty() {
            self.start(whole);
            self.finish_batch().await?;
        }
        self.since = None;
        Ok(())
    }

    /// The body has ended.
    async fn finish(mut self) -> Result<u64> {
        self.put_down().await?;
        if self.gathered.is_empty() {
            return Ok(self.pages);
        }
        let what = format!(
            "the body ends within a record: records have {RECORD_SIZE} bytes, a digest of 32 and \
             a page of {PAGE_SIZE}"
        );
        Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "cut-off",
            what,
        ))
    }

    fn start(&mut self, mut records: Vec<u8>) {
        self.pages += (records.len() / RECORD_SIZE) as u64;
        let session = Arc::clone(self.session);
        self.under_way = Some(tokio::spawn(blocking(move || {
            session.upload.add_pages(wire::records(&records))?;
            records.clear();
            Ok(records)
        })));
    }

    /// Waits for a batch, and answers with its buffer, which is empty then.
    async fn finish_batch(&mut self) -> Result<Vec<u8>> {
        match self.under_way.take() {
            Some(batch) => batch
                .await
                .unwrap_or_else(|error| Err(Problem::internal(error))),
            None => Ok(Vec::new()),
        }
    }
}

/// Takes the whole records away, in the memory that they are in, and leaves what there is of another in its own.
fn take_whole(gathered: &mut Vec<u8>) -> Vec<u8> {
    let whole = gathered.len() / RECORD_SIZE * RECORD_SIZE;
    let rest = gathered[whole..].to_vec();
    let mut records = std::mem::replace(gathered, rest);
    records.truncate(whole);
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_record_takes_no_more_memory_than_that() {
        for (length, whole) in [
            (0, 0),
            (RECORD_SIZE - 1, 0),
            (RECORD_SIZE, 1),
            (BATCH - 1, 255),
        ] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut gathered = Vec::with_capacity(ROOM);
            gathered.extend_from_slice(&bytes);
            let records = take_whole(&mut gathered);
            assert_eq!(records.len(), whole * RECORD_SIZE);
            assert!(gathered.capacity() < RECORD_SIZE, "{length}");
            assert!([records, gathered].concat() == bytes);
        }
    }
}
