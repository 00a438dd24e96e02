//! The client: every route as a call that waits for its answer.

mod address;
mod asking;
mod error;
mod push;
mod sending;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::Read;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::digest::ObjectId;
use pool_core::name::{ImageRef, LibraryRef, Name, Referent};
use pool_core::registry::{Known, Reservation, ReservationRequest};
use pool_gc::{CollectReport, FsckReport, Scrubbed, Why};
use pool_store::manifest::TokenScope;
use ureq::Agent;
use ureq::http::Method;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, RustlsConnector};

pub use address::{ServerAddress, ServerAddressError};
pub use error::{ClientError, NoCertificates, Result};
pub use push::{PushOptions, PushReport};

use asking::{Content, MAX_JSON, digest_of, is_octets};
use sending::Senders;

use crate::paths;
use crate::types::{
    CollectRequest, Collections, FsckRequest, Image, Library, NewToken, ScrubRequest, Stats,
    TagRequest, Token, TokenRequest, UploadStarted, Version,
};

/// How long the service may say and take nothing before it is given up, unless that is said.
const PATIENCE: Duration = Duration::from_secs(600);

/// A pool service, asked by calls that block. Cloning it is cheap, and clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    server: ServerAddress,
    authorization: Option<String>,
    patience: Option<Duration>,
    /// Paths of the uploads under way.
    uploads: Arc<Mutex<HashSet<String>>>,
    senders: Arc<Senders>,
}

impl Client {
    /// A client of the service at `server`; nothing is sent yet. Who speaks TLS there must be known to
    /// an authority that Mozilla trusts.
    pub fn new(server: ServerAddress, token: Option<&str>) -> Self {
        Self::with_tls(server, token, TlsConfig::default())
    }

    /// The same, trusting those authorities alone whose certificates are in `pem`.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it, or one that cannot be read.
    pub fn trusting(
        server: ServerAddress,
        token: Option<&str>,
        pem: &[u8],
    ) -> std::result::Result<Self, NoCertificates> {
        let mut certificates = Vec::new();
        for item in parse_pem(pem) {
            if let PemItem::Certificate(found) =
                item.map_err(|error| NoCertificates(Some(error)))?
            {
                certificates.push(found);
            }
        }
        if certificates.is_empty() {
            return Err(NoCertificates(None));
        }
        let roots = RootCerts::new_with_certs(&certificates);
        let tls = TlsConfig::builder().root_certs(roots).build();
        Ok(Self::with_tls(server, token, tls))
    }

    fn with_tls(server: ServerAddress, token: Option<&str>, tls: TlsConfig) -> Self {
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .no_delay(true)
            .input_buffer_size(256 << 10)
            .output_buffer_size(256 << 10)
            .user_agent(concat!("pool/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .build();
        let agent = match server.socket() {
            Some(path) => {
                let connector = sockets::UnixConnector::new(path);
                Agent::with_parts(config, connector, sockets::NoResolver)
            }
            None => Agent::with_parts(
                config,
                sockets::TcpConnector.chain(RustlsConnector::default()),
                DefaultResolver::default(),
            ),
        };
        Self {
            agent,
            server,
            authorization: token.map(|token| format!("Bearer {token}")),
            patience: None,
            uploads: Arc::default(),
            senders: Arc::default(),
        }
    }

    /// Gives the service up when it says or takes nothing for so long; zero is never. Otherwise that
    /// is ten minutes, and never for collections and checks of the store, which may take hours. A host
    /// that is gone is noticed in any case: within three minutes while its answer is waited for, and
    /// within half an hour while something is under way to it (`tcp_retries2`, tcp(7)).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// True as long as something may be waited for that has taken `elapsed`.
    fn is_patient(&self, elapsed: Duration) -> bool {
        self.patience("").is_none_or(|patience| elapsed < patience)
    }

    fn patience(&self, path: &str) -> Option<Duration> {
        match self.patience {
            None if matches!(path, "/v1/gc" | "/v1/fsck" | "/v1/scrub") => None,
            None => Some(PATIENCE),
            Some(said) => Some(said).filter(|said| !said.is_zero()),
        }
    }

    /// Gives up what this client and its clones have under way: for whoever ends before they do. What a push has begun
    /// would be in others' way until the service forgets it.
    pub fn give_up(&self) {
        let uploads: Vec<_> = self.uploads().iter().cloned().collect();
        for path in uploads {
            // It would be forgotten by itself in a while.
            drop(self.ask(Method::DELETE, &path, ()));
        }
    }

    fn uploads(&self) -> MutexGuard<'_, HashSet<String>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service that is asked.
    pub fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// What the service is.
    pub fn version(&self) -> Result<Version> {
        self.get("/v1/version")
    }

    /// Library versions whose `NAME@VERSION` begins with `prefix`.
    pub fn libraries(&self, prefix: &str) -> Result<Vec<Library>> {
        self.get(&format!("/v1/libs{}", query(prefix)))
    }

    /// A library version.
    pub fn library(&self, library: &LibraryRef) -> Result<Library> {
        self.get(&paths::library(library))
    }

    /// Images whose `NAME:TAG` begins with `prefix`.
    pub fn images(&self, prefix: &str) -> Result<Vec<Image>> {
        self.get(&format!("/v1/images{}", query(prefix)))
    }

    /// A tagged image.
    pub fn image(&self, image: &ImageRef) -> Result<Image> {
        self.get(&paths::image(image))
    }

    /// The description of an image, as stored.
    pub fn description(&self, image: &ImageRef) -> Result<Vec<u8>> {
        let mut response = self.ask(Method::GET, &format!("{}/desc", paths::image(image)), ())?;
        let read = response.body_mut().with_config().limit(MAX_JSON);
        read.read_to_vec().map_err(|error| self.lost(error))
    }

    /// Gives an image a further tag.
    pub fn tag(&self, from: &ImageRef, to: &ImageRef) -> Result<Image> {
        let request = TagRequest {
            name: to.name.clone(),
            tag: to.tag.clone(),
        };
        self.post(&format!("{}/tag", paths::image(from)), &request)
    }

    /// Keeps a library version whether used or not, or no longer.
    pub fn pin(&self, library: &LibraryRef, pinned: bool) -> Result<Library> {
        let method = if pinned { Method::PUT } else { Method::DELETE };
        let path = format!("{}/pin", paths::library(library));
        self.json(self.ask(method, &path, ())?)
    }

    /// Removes a tag.
    pub fn delete_image(&self, image: &ImageRef) -> Result<()> {
        self.remove(&paths::image(image))
    }

    /// Removes a library version.
    pub fn delete_library(&self, library: &LibraryRef) -> Result<()> {
        self.remove(&paths::library(library))
    }

    /// The content of a library version, the file of an image, or an object or page by its
    /// digest; to be read to its end, where an error says that it has not been what its digest says.
    pub fn content(&self, of: &Referent) -> Result<impl Read + use<>> {
        let path = match of {
            Referent::Library(library) => format!("{}/content", paths::library(library)),
            Referent::Image(image) => format!("{}/elf", paths::image(image)),
            Referent::Digest(id) => format!("/v1/objects/{id}"),
            Referent::Segment(_) => return Err(ClientError::NoContent(of.clone())),
        };
        let response = self.ask(Method::GET, &path, ())?;
        let kind = response.headers().get("content-type");
        let kind = kind.map_or("nothing", |kind| kind.to_str().unwrap_or("?"));
        if response.status() != 200 || !is_octets(kind) {
            // It would be taken for the content, as a gateway's page that asks who one is.
            let why = format!("it sends {kind} where stored bytes belong");
            return Err(self.strange(response.status().as_u16(), &why));
        }
        let expected = match of {
            Referent::Digest(id) => Some(*id),
            _ => response.headers().get("etag").and_then(digest_of),
        };
        let body = response.into_body();
        Ok(Content {
            client: self.clone(),
            check: expected.map(|expected| (expected, Box::default())),
            reader: body.into_with_config().limit(u64::MAX).reader(),
        })
    }

    /// The bytes of an object, `None` when there is no such object.
    pub fn object(&self, id: ObjectId) -> Result<Option<Vec<u8>>> {
        match self.content(&Referent::Digest(id)) {
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(mut reader) => {
                let mut bytes = Vec::new();
                let read = reader.read_to_end(&mut bytes);
                read.map_err(|error| {
                    let told = error.downcast::<ClientError>();
                    told.unwrap_or_else(|error| self.lost(error.into()))
                })?;
                Ok(Some(bytes))
            }
        }
    }

    /// The state of the store in numbers.
    pub fn stats(&self) -> Result<Stats> {
        self.get("/v1/stats")
    }

    /// Collects what nothing refers to, or says what would be collected. Without `grace` the
    /// service's own is used.
    pub fn collect(&self, dry_run: bool, grace: Option<Duration>) -> Result<CollectReport> {
        let request = CollectRequest {
            dry_run,
            grace_seconds: grace.map(|grace| grace.as_secs()),
        };
        self.post("/v1/gc", &request)
    }

    /// What is being collected, and what the last collections did.
    pub fn collections(&self) -> Result<Collections> {
        self.get("/v1/gc")
    }

    /// Has collections wait, the one that is running, too, or go on.
    pub fn pause_collections(&self, paused: bool) -> Result<Collections> {
        let method = if paused { Method::PUT } else { Method::DELETE };
        self.json(self.ask(method, "/v1/gc/pause", ())?)
    }

    /// Stops the collection that is running, if one is.
    pub fn stop_collection(&self) -> Result<Collections> {
        self.json(self.ask(Method::DELETE, "/v1/gc/running", ())?)
    }

    /// Checks the store; `content` reads every page.
    pub fn fsck(&self, content: bool) -> Result<FsckReport> {
        self.post("/v1/fsck", &FsckRequest { content })
    }

    /// Reads all of the store, `rate` bytes a second at most, going on where that was interrupted last.
    pub fn scrub(&self, rate: Option<NonZeroU64>) -> Result<Scrubbed> {
        self.post("/v1/scrub", &ScrubRequest { rate })
    }

    /// What keeps a thing.
    pub fn why(&self, of: &Referent) -> Result<Why> {
        let path = match of {
            Referent::Library(library) => format!("lib/{}", paths::encode(&library.to_string())),
            Referent::Image(image) => format!("image/{}", paths::encode(&image.to_string())),
            Referent::Digest(id) => id.to_string(),
            Referent::Segment(id) => id.to_string(),
        };
        self.get(&format!("/v1/why/{path}"))
    }

    /// Reserves addresses for library versions, in their order: of all of them, or of none.
    pub fn reserve(&self, requests: &[ReservationRequest]) -> Result<Vec<Reservation>> {
        self.post("/v1/registry/batch", &requests)
    }

    /// What decides where everything is in library versions, in their order.
    pub fn known_places(&self, libraries: &[LibraryRef]) -> Result<Vec<Known>> {
        let mut all: Vec<Known> = Vec::with_capacity(libraries.len());
        while all.len() < libraries.len() {
            // The answer is about as many of the first as its size allows.
            let rest = &libraries[all.len()..];
            let known: Vec<Known> = self.post("/v1/registry/known", &rest)?;
            if known.is_empty() || known.len() > rest.len() {
                let why = format!("{} answers to {} questions", known.len(), rest.len());
                return Err(self.strange(200, &why));
            }
            all.extend(known);
        }
        Ok(all)
    }

    /// All address reservations, oldest first.
    pub fn reservations(&self) -> Result<Vec<Reservation>> {
        self.get("/v1/registry")
    }

    /// All tokens.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        self.get("/v1/tokens")
    }

    /// Makes a token.
    pub fn add_token(&self, name: Name, scope: TokenScope) -> Result<NewToken> {
        self.post("/v1/tokens", &TokenRequest { name, scope })
    }

    /// Removes a token.
    pub fn delete_token(&self, name: &str) -> Result<()> {
        self.remove(&paths::token(name))
    }
}

/// The query for names that begin with `prefix`.
fn query(prefix: &str) -> String {
    if prefix.is_empty() {
        String::new()
    } else {
        format!("?prefix={}", paths::encode(prefix))
    }
}
