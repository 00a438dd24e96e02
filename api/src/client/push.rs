//! Pushing by negotiation: announce, send what is missing over several connections, commit.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::digest::PageId;
use pool_store::upload::UploadObject;
use serde::{Deserialize, Serialize};
use ureq::http::Method;

use super::{Client, ClientError, Json, Octets, Result, UploadStarted};
use crate::announce::{Announcement, Part, page_sources};
use crate::paths;
use crate::problem::BUSY;
use crate::types::{PagesAccepted, PushSummary, UploadRequest};
use crate::wire::{self, PageList, RECORD_SIZE};

/// How pages are sent, and when at all.
#[derive(Clone, Copy, Debug)]
pub struct PushOptions {
    /// Requests that send at the same time.
    pub connections: usize,
    /// Pages of one request.
    pub pages_per_request: usize,
    /// Refuse when the name is there already (`If-None-Match: *`).
    pub only_new: bool,
    /// Is told once that the push has to wait for others: why, and for how long it does at most.
    pub waiting: fn(&str, Option<Duration>),
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            connections: 3,
            pages_per_request: 1024,
            only_new: false,
            waiting: |_, _| (),
        }
    }
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// What the service says.
    #[serde(flatten)]
    pub summary: PushSummary,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of requests: the announcement and the page records.
    pub sent_bytes: u64,
    /// Pages that were sent.
    pub sent_pages: u64,
    /// Of these, code and data: what guests have in memory.
    pub sent_memory_pages: u64,
    /// The others, which only the file has: headers, symbols, debug information.
    pub sent_symbol_pages: u64,
    /// Distinct pages that the pool had, so that they were not sent.
    pub unsent_pages: u64,
}

/// A collection may take a page between two commits; this often is not chance.
const MAX_ROUNDS: usize = 10;

impl Client {
    /// Pushes what was announced. `progress` is called with pages sent and pages to send, from
    /// several threads.
    pub fn push(
        &self,
        announcement: &Announcement<'_>,
        options: PushOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<PushReport> {
        let objects: Vec<_> = announcement.parts.iter().map(Part::object).collect();
        let request = UploadRequest {
            target: (&announcement.target).into(),
            objects: objects.iter().map(Into::into).collect(),
        };
        let json = serde_json::to_vec(&request).expect("requests have only string keys");
        let started = self.begin(&json, options)?;
        let sources = page_sources(&announcement.parts, &objects);
        let distinct = sources.len() as u64;
        let upload = Upload {
            client: self,
            name: announcement.target.name().to_string(),
            path: paths::upload(&started.id),
            sources,
            in_memory: pages_in_memory(announcement, &objects),
            options,
        };
        let finished = upload.finish(started.missing, progress);
        match &finished {
            // Who says nothing would be waited for once more.
            Ok(_) | Err(ClientError::Silent { .. }) => {}
            // It would be forgotten by itself in a while.
            Err(_) => drop(self.ask(Method::DELETE, &upload.path, ())),
        }
        let (summary, sent) = finished?;
        let sent_pages = sent.memory + sent.symbols;
        Ok(PushReport {
            summary,
            file_bytes: announcement.file_bytes,
            sent_bytes: json.len() as u64 + sent_pages * RECORD_SIZE as u64,
            sent_pages,
            sent_memory_pages: sent.memory,
            sent_symbol_pages: sent.symbols,
            unsent_pages: distinct.saturating_sub(sent_pages),
        })
    }
}

impl Client {
    /// Begins an upload, when others have ended if too many are under way: not after a longer wait than
    /// for a service that says nothing.
    fn begin(&self, json: &[u8], options: PushOptions) -> Result<UploadStarted> {
        let condition = options.only_new.then_some(("if-none-match", "*"));
        let since = Instant::now();
        let mut is_told = false;
        loop {
            match self.ask_if(Method::POST, "/v1/uploads", Json(json), condition) {
                Err(ClientError::Refused {
                    status: 503,
                    body,
                    retry_after: Some(after),
                }) if body.error == BUSY
                    && self.is_patient(since.elapsed().saturating_add(after)) =>
                {
                    if !is_told {
                        (options.waiting)(&body.detail, self.patience(""));
                        is_told = true;
                    }
                    thread::sleep(after);
                }
                begun => return self.json(begun?),
            }
        }
    }
}

/// The pages that guests have in memory.
fn pages_in_memory(announcement: &Announcement<'_>, objects: &[UploadObject]) -> HashSet<PageId> {
    let parts = announcement.parts.iter().zip(objects);
    parts
        .filter(|(part, _)| part.in_memory)
        .flat_map(|(_, object)| object.pages.iter().flatten().copied())
        .collect()
}

/// Pages sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    memory: u64,
    symbols: u64,
}

struct Upload<'a> {
    client: &'a Client,
    /// What it is to be called in the pool.
    name: String,
    path: String,
    sources: HashMap<PageId, &'a [u8]>,
    in_memory: HashSet<PageId>,
    options: PushOptions,
}

impl Upload<'_> {
    /// Sends what is missing and commits, again if a collection came between.
    fn finish(
        &self,
        missing: PageList,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(PushSummary, Sent)> {
        let mut missing = missing;
        let mut sent = Sent::default();
        for _ in 0..MAX_ROUNDS {
            let total = self.send(&missing, progress)?;
            let memory = missing
                .stored()
                .filter(|id| self.in_memory.contains(id))
                .count() as u64;
            sent.memory += memory;
            sent.symbols += total - memory;
            let committed = self
                .client
                .ask(Method::POST, &format!("{}/commit", self.path), ());
            match committed {
                Ok(response) => return Ok((self.client.json(response)?, sent)),
                Err(ClientError::Refused {
                    status: 409, body, ..
                }) if body.missing.is_some() => {
                    missing = body.missing.unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
        }
        Err(ClientError::Overtaken(self.name.clone()))
    }

    /// Sends pages over several connections at once; the first failure ends all.
    fn send(&self, missing: &PageList, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<u64> {
        let pages: Vec<PageId> = missing.stored().collect();
        let total = pages.len() as u64;
        let batches: Vec<&[PageId]> = pages
            .chunks(self.options.pages_per_request.max(1))
            .collect();
        let next = AtomicUsize::new(0);
        let sent = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let work = || -> Result<()> {
            while !failed.load(Ordering::Relaxed) {
                let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                self.send_batch(batch).inspect_err(|_| {
                    failed.store(true, Ordering::Relaxed);
                })?;
                let done = sent.fetch_add(batch.len(), Ordering::Relaxed) + batch.len();
                progress(done as u64, total);
            }
            Ok(())
        };
        let workers = self.options.connections.clamp(1, batches.len().max(1));
        thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                let ended = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(ended);
            }
            result
        })?;
        Ok(total)
    }

    fn send_batch(&self, batch: &[PageId]) -> Result<()> {
        let mut records = Vec::with_capacity(batch.len() * RECORD_SIZE);
        for id in batch {
            let bytes = self.sources.get(id).ok_or_else(|| {
                let why = format!("it asks for page {id}, which was not announced");
                self.client.strange(201, &why)
            })?;
            wire::push_record(&mut records, *id, bytes);
        }
        let path = format!("{}/pages", self.path);
        let response = self.client.ask(Method::PUT, &path, Octets(&records))?;
        self.client.json::<PagesAccepted>(response).map(drop)
    }
}
