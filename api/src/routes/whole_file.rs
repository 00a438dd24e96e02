//! Taking in a file that is sent whole, whatever it becomes.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use memmap2::Mmap;
use pool_core::name::Named;
use pool_store::Spool;
use pool_store::upload::Content;

use super::responses::Made;
use crate::announce::Announcement;
use crate::body::LimitedBody;
use crate::conditions::Conditions;
use crate::problem::{Problem, Result};
use crate::service::{Service, blocking};
use crate::types::PushSummary;

/// A file on its way in: the last thing that a handler takes of a request.
pub(super) struct WholeFile {
    service: Service,
    conditions: Conditions,
    headers: HeaderMap,
    body: Body,
}

impl FromRequest<Service> for WholeFile {
    type Rejection = Problem;
    async fn from_request(request: Request, service: &Service) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let conditions = Conditions::from_request_parts(&mut parts, service).await?;
        Ok(Self {
            service: service.clone(),
            conditions,
            headers: parts.headers,
            body,
        })
    }
}

/// Stores what it is given.
pub(super) type Store<'a> = &'a dyn Fn(&Announcement<'_>) -> Result<PushSummary>;

impl WholeFile {
    /// Receives the file, which is to have the name `name`, and lets `announce` say what is to be stored
    /// of it.
    ///
    /// Conditions and quotas are looked at before the body is, so that nobody sends in vain, and again
    /// when the name is given.
    pub(super) async fn take_in(
        self,
        name: Named,
        announce: impl FnOnce(&[u8], Store<'_>) -> Result<PushSummary> + Send + 'static,
    ) -> Result<Made<PushSummary>> {
        let Self { service, .. } = self;
        let hint = "push it by negotiation (pool push), or raise body-limit";
        let limit = service.options().limits.body;
        let body = LimitedBody::new(&service, &self.headers, self.body, limit, hint)?;
        let precondition = self.conditions.precondition();
        let (expected, wanted) = (precondition.clone(), name.clone());
        let announced = body.announced().unwrap_or(0);
        service
            .with_store(move |store| {
                store.check(&wanted, &expected)?;
                Ok(store.check_quotas(&wanted, announced)?)
            })
            .await?;
        let spool = receive(&service, body).await?;
        let work = service.clone();
        let summary = service
            .with_store(move |store| {
                announce(&map(&spool)?, &|announcement| {
                    let parts = announcement.parts.iter();
                    let contents: Vec<_> = parts
                        .map(|part| Content::of(&part.bytes, part.placement))
                        .collect();
                    let target = &announcement.target;
                    let store = store.when(&precondition);
                    let summary = store.ingest(target.clone(), &contents)?;
                    work.metrics().note_commit(&summary);
                    Ok(PushSummary::new(target, summary, announcement.file_bytes))
                })
            })
            .await?;
        Ok(Made::of(&name, summary))
    }
}

async fn receive(service: &Service, mut body: LimitedBody) -> Result<Spool> {
    let (work, expected) = (service.clone(), body.announced().unwrap_or(0));
    let spooled = match blocking(move || work.spool(expected)).await {
        Ok(spool) => body.spool(spool).await,
        Err(problem) => Err(problem),
    };
    service.metrics().note_received(body.received());
    spooled
}

/// The bytes of a received file.
fn map(spool: &Spool) -> Result<Mapped> {
    let file = spool.file()?;
    let metadata = file
        .metadata()
        .map_err(|error| Problem::io("measuring the upload", &error))?;
    if metadata.len() == 0 {
        // An empty file cannot be mapped.
        return Ok(Mapped(None));
    }
    // SAFETY: the file has no name and whoever could write to it is borrowed here, so nothing can change
    // or shorten it while it is mapped.
    let map =
        unsafe { Mmap::map(file) }.map_err(|error| Problem::io("reading the upload", &error))?;
    Ok(Mapped(Some(map)))
}

/// A received file, mapped; the default is an empty one.
struct Mapped(Option<Mmap>);

impl std::ops::Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
