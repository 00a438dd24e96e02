//! Pushing by negotiation: announce, send what is missing over several connections, commit.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::digest::{ObjectId, PageId};
use pool_store::upload::{Target, UploadObject};
use serde::{Deserialize, Serialize};
use ureq::http::Method;

use super::asking::{Json, Octets};
use super::sending::send_all;
use super::{Client, ClientError, Result, UploadStarted};
use crate::announce::{Announcement, Part, page_sources};
use crate::copies;
use crate::paths;
use crate::problem::{BUSY, OBJECT_MISMATCH, ProblemBody};
use crate::types::{PagesAccepted, PushSummary, UploadRequest};
use crate::wire::{self, PageList, RECORD_SIZE};

/// How pages are sent, and when at all.
#[derive(Clone, Copy, Debug)]
pub struct PushOptions {
    /// Requests that send at the same time, of all pushes that a client and its clones have under way together; each has
    /// one in any case.
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
    /// Bytes of requests: announcements and page records, those that had to be sent again, too.
    pub sent_bytes: u64,
    /// Pages that were sent; one that had to be sent again counts again.
    pub sent_pages: u64,
    /// Of these, code and data: what guests have in memory.
    pub sent_memory_pages: u64,
    /// The others, which only the file has: headers, symbols, debug information.
    pub sent_symbol_pages: u64,
    /// Distinct pages that the pool had, so that they were not sent.
    pub unsent_pages: u64,
}

/// The least time between two attempts of a push that waits for others, whatever a service says.
pub(super) const LEAST_PAUSE: Duration = Duration::from_millis(100);

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
        let sources = page_sources(&announcement.parts, &objects);
        let distinct = sources.len() as u64;
        let mut upload = Upload {
            client: self,
            name: announcement.target.name().to_string(),
            path: String::new(),
            sources,
            in_memory: pages_in_memory(announcement, &objects),
            options,
            sent: Sent::default(),
        };
        // Libraries are thought to be there until the service says that they are not.
        let libraries = announcement.parts.iter().filter(|part| part.is_library);
        let mut left_out: HashSet<ObjectId> = match announcement.target {
            Target::Image { .. } => libraries.map(|part| part.id).collect(),
            Target::Library { .. } => HashSet::new(),
        };
        loop {
            let request = request(announcement, &objects, &left_out);
            let json = serde_json::to_vec(&request).expect("requests have only string keys");
            let pushed = upload
                .begin(&json)
                .and_then(|started| upload.carry_out(started, progress));
            match pushed {
                Err(error) if learn(&mut left_out, &error) => {}
                pushed => {
                    let (summary, bytes) = (pushed?, announcement.file_bytes);
                    return Ok(upload.sent.report(summary, bytes, distinct));
                }
            }
        }
    }
}

/// What is announced, without what is left out: the file by the pages that it shares with the others, which are what it
/// is made of but for its headers and symbols.
fn request(
    announcement: &Announcement<'_>,
    objects: &[UploadObject],
    left_out: &HashSet<ObjectId>,
) -> UploadRequest {
    let file = match &announcement.target {
        Target::Image { description, .. } => Some(description.image.digest),
        Target::Library { .. } => None,
    };
    let is_file = |object: &UploadObject| Some(object.id) == file;
    let others: Vec<_> = objects.iter().filter(|object| !is_file(object)).collect();
    let announced = objects
        .iter()
        .filter(|object| !left_out.contains(&object.id));
    let announced = announced.map(|object| {
        if is_file(object) {
            copies::copied(object, &others)
        } else {
            copies::listed(object)
        }
    });
    UploadRequest {
        target: (&announcement.target).into(),
        objects: announced.collect(),
    }
}

/// Whether a push that failed is to be tried again, with more announced; that is no longer left out then.
fn learn(left_out: &mut HashSet<ObjectId>, error: &ClientError) -> bool {
    let is_wrong = |body: &ProblemBody| body.error == OBJECT_MISMATCH;
    match error {
        ClientError::Refused {
            status: 409, body, ..
        } => {
            let unknown = body.unknown.iter().flatten();
            unknown.filter(|id| left_out.remove(id)).count() > 0
        }
        // The pool's copy of what was left out is damaged. By its digest it may find a page in another place.
        ClientError::NotAnnounced(_) => !mem::take(left_out).is_empty(),
        ClientError::Refused { body, .. } if is_wrong(body) => !mem::take(left_out).is_empty(),
        _ => false,
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

/// What was sent.
#[derive(Default)]
struct Sent {
    /// Bytes of announcements.
    announced: u64,
    /// Pages, as often as they were sent.
    memory: u64,
    symbols: u64,
    pages: HashSet<PageId>,
}

impl Sent {
    fn report(self, summary: PushSummary, file_bytes: u64, distinct: u64) -> PushReport {
        let sent_pages = self.memory + self.symbols;
        PushReport {
            summary,
            file_bytes,
            sent_bytes: self.announced + sent_pages * RECORD_SIZE as u64,
            sent_pages,
            sent_memory_pages: self.memory,
            sent_symbol_pages: self.symbols,
            unsent_pages: distinct.saturating_sub(self.pages.len() as u64),
        }
    }
}

struct Upload<'a> {
    client: &'a Client,
    /// What it is to be called in the pool.
    name: String,
    path: String,
    sources: HashMap<PageId, &'a [u8]>,
    in_memory: HashSet<PageId>,
    options: PushOptions,
    sent: Sent,
}

impl Upload<'_> {
    /// Begins, when others have ended if too many are under way: not after a longer wait than
    /// for a service that says nothing.
    fn begin(&mut self, json: &[u8]) -> Result<UploadStarted> {
        let client = self.client;
        let condition = self.options.only_new.then_some(("if-none-match", "*"));
        let since = Instant::now();
        let mut is_told = false;
        loop {
            self.sent.announced += json.len() as u64;
            match client.ask_if(Method::POST, "/v1/uploads", Json(json), condition) {
                Err(ClientError::Refused {
                    status: 503,
                    body,
                    retry_after: Some(after),
                }) if body.error == BUSY
                    && client.is_patient(since.elapsed().saturating_add(after)) =>
                {
                    if !is_told {
                        (self.options.waiting)(&body.detail, client.patience(""));
                        is_told = true;
                    }
                    thread::sleep(after.max(LEAST_PAUSE));
                }
                begun => return client.json(begun?),
            }
        }
    }

    /// Carries out what was begun, or gives it up.
    fn carry_out(
        &mut self,
        started: UploadStarted,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<PushSummary> {
        self.path = paths::upload(&started.id);
        self.client.uploads().insert(self.path.clone());
        let finished = self.finish(started.missing, progress);
        self.client.uploads().remove(&self.path);
        match &finished {
            // Who says nothing would be waited for once more.
            Ok(_) | Err(ClientError::Silent { .. }) => {}
            // It would be forgotten by itself in a while.
            Err(_) => drop(self.client.ask(Method::DELETE, &self.path, ())),
        }
        finished
    }

    /// Sends what is missing and commits, again if a collection came between.
    fn finish(
        &mut self,
        mut missing: PageList,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<PushSummary> {
        for _ in 0..MAX_ROUNDS {
            let pages: Vec<PageId> = missing.stored().collect();
            self.send(&pages, progress)?;
            let memory = pages.iter().filter(|id| self.in_memory.contains(id));
            let memory = memory.count() as u64;
            self.sent.memory += memory;
            self.sent.symbols += pages.len() as u64 - memory;
            self.sent.pages.extend(pages);
            let committed = self
                .client
                .ask(Method::POST, &format!("{}/commit", self.path), ());
            match committed {
                Ok(response) => return self.client.json(response),
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

    /// Sends pages over as many connections at once as other pushes leave; the first failure ends all. Nothing is sent if
    /// one of them is none of the file's.
    fn send(&self, pages: &[PageId], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        if let Some(strange) = pages.iter().find(|id| !self.sources.contains_key(id)) {
            return Err(ClientError::NotAnnounced(*strange));
        }
        let total = pages.len() as u64;
        let batches: Vec<&[PageId]> = pages
            .chunks(self.options.pages_per_request.max(1))
            .collect();
        let sent = AtomicUsize::new(0);
        let (senders, most) = (&self.client.senders, self.options.connections);
        send_all(senders, most, &batches, |batch| {
            self.send_batch(batch)?;
            let done = sent.fetch_add(batch.len(), Ordering::Relaxed) + batch.len();
            progress(done as u64, total);
            Ok(())
        })
    }

    fn send_batch(&self, batch: &[PageId]) -> Result<()> {
        let mut records = Vec::with_capacity(batch.len() * RECORD_SIZE);
        for id in batch {
            let bytes = self.sources.get(id);
            let bytes = bytes.ok_or(ClientError::NotAnnounced(*id))?;
            wire::push_record(&mut records, *id, bytes);
        }
        let path = format!("{}/pages", self.path);
        let response = self.client.ask(Method::PUT, &path, Octets(&records))?;
        self.client.json::<PagesAccepted>(response).map(drop)
    }
}
