//! The client: every route as a call that waits for its answer.

mod address;
mod error;
mod push;
mod sending;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::digest::ObjectId;
use pool_core::name::{ImageRef, LibraryRef, Name, Referent};
use pool_core::registry::{Known, Reservation, ReservationRequest};
use pool_gc::{CollectReport, FsckReport, Scrubbed, Why};
use pool_store::manifest::TokenScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{HeaderValue, Method, Request, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, RustlsConnector};
use ureq::{Agent, AsSendBody, Body, BodyReader, Timeout};

pub use address::{ServerAddress, ServerAddressError};
pub use error::{ClientError, NoCertificates, Result};
pub use push::{PushOptions, PushReport};

use sending::Senders;

use crate::paths;
use crate::problem::ProblemBody;
use crate::types::{
    CollectRequest, Collections, FsckRequest, Image, Library, NewToken, ScrubRequest, Stats,
    TagRequest, Token, TokenRequest, UploadStarted, Version,
};

/// How long the service may say and take nothing before it is given up, unless that is said.
const PATIENCE: Duration = Duration::from_secs(600);

/// The media type of stored bytes.
const OCTETS: &str = "application/octet-stream";

/// What rustls says of a certificate that it does not accept.
const UNTRUSTED: &str = "invalid peer certificate";

/// Longest JSON answer that is taken in; lists of pages are the long ones.
const MAX_JSON: u64 = 1 << 30;

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

    fn remove(&self, path: &str) -> Result<()> {
        let status = self.ask(Method::DELETE, path, ())?.status().as_u16();
        if status != 204 {
            return Err(self.strange(status, &"a removal is answered by 204"));
        }
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(self.ask(Method::GET, path, ())?)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let json = serde_json::to_vec(body).expect("requests have only string keys");
        self.json(self.ask(Method::POST, path, Json(&json))?)
    }

    /// Sends a request and sorts out refusals.
    fn ask(&self, method: Method, path: &str, body: impl RequestBody) -> Result<Response<Body>> {
        self.ask_if(method, path, body, None)
    }

    /// The same with a condition: a header's name and value.
    fn ask_if(
        &self,
        method: Method,
        path: &str,
        body: impl RequestBody,
        condition: Option<(&str, &str)>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server.base()))
            // Without this any coding may be answered in (RFC 9110, 12.5.3).
            .header("accept-encoding", "identity");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        if let Some(kind) = body.content_type() {
            request = request.header("content-type", kind);
        }
        let request = request
            .body(body.into_send_body())
            .map_err(|error| self.lost(error.into()))?;
        let patience = self.patience(path);
        let request = self
            .agent
            .configure_request(request)
            .timeout_per_read(patience)
            .timeout_per_write(patience)
            .build();
        let mut response = self.agent.run(request).map_err(|error| self.lost(error))?;
        let status = response.status().as_u16();
        let coding = response.headers().get("content-encoding");
        if let Some(coding) = coding.filter(|coding| *coding != "identity") {
            let coding = coding.to_str().unwrap_or("?");
            return Err(self.strange(status, &format!("it answers in {coding}, unasked")));
        }
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        if let Some(place) = header("location").filter(|_| (300..400).contains(&status)) {
            let why = format!(
                "it sends to {place}, and is not followed: name the service itself with --server or \
                 POOL_SERVER"
            );
            return Err(self.strange(status, &why));
        }
        let retry_after = header("retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(MAX_JSON);
        let text = body.read_to_string().unwrap_or_default();
        Err(match serde_json::from_str::<ProblemBody>(&text) {
            Ok(body) => ClientError::Refused {
                status,
                body: Box::new(body),
                retry_after,
            },
            Err(_) => self.strange(status, &text.chars().take(200).collect::<String>()),
        })
    }

    fn json<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T> {
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_JSON);
        let bytes = body.read_to_vec().map_err(|error| self.lost(error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(status, &error))
    }

    fn lost(&self, source: ureq::Error) -> ClientError {
        let server = self.server.to_string();
        if matches!(
            source,
            ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite)
        ) {
            let seconds = self.patience.unwrap_or(PATIENCE).as_secs();
            return ClientError::Silent { server, seconds };
        }
        let untrusted = match &source {
            ureq::Error::Io(error) => error.to_string().starts_with(UNTRUSTED),
            ureq::Error::Rustls(error) => error.to_string().starts_with(UNTRUSTED),
            _ => false,
        };
        let source = Box::new(source);
        if untrusted {
            ClientError::Untrusted { server, source }
        } else {
            ClientError::Connection { server, source }
        }
    }

    fn strange(&self, status: u16, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Strange {
            server: self.server.to_string(),
            status,
            why: why.to_string(),
        }
    }
}

/// Content on its way. What goes wrong with it is told as with any other answer.
struct Content {
    client: Client,
    /// What it must be, and what it has been so far.
    check: Option<(ObjectId, Box<blake3::Hasher>)>,
    reader: BodyReader<'static>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        let read = read.map_err(|error| {
            io::Error::other(match self.client.lost(error.into()) {
                ClientError::Connection { server, source } => {
                    ClientError::CutOff { server, source }
                }
                other => other,
            })
        })?;
        if let Some((expected, hasher)) = &mut self.check {
            hasher.update(&buffer[..read]);
            let is_the_end = read == 0 && !buffer.is_empty();
            let found = is_the_end.then(|| ObjectId::from(hasher.finalize()));
            if let Some(found) = found.filter(|found| found != expected) {
                return Err(io::Error::other(ClientError::Damaged {
                    server: self.client.server.to_string(),
                    expected: *expected,
                    found,
                }));
            }
        }
        Ok(read)
    }
}

/// The digest that an ETag of stored bytes is.
fn digest_of(etag: &HeaderValue) -> Option<ObjectId> {
    let etag = etag.to_str().ok()?;
    // A proxy may have made it weak.
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// A request's body and its media type.
trait RequestBody {
    type Send: AsSendBody;
    fn content_type(&self) -> Option<&'static str>;
    fn into_send_body(self) -> Self::Send;
}

impl RequestBody for () {
    type Send = ();
    fn content_type(&self) -> Option<&'static str> {
        None
    }
    fn into_send_body(self) -> Self::Send {}
}

struct Json<'a>(&'a [u8]);

impl<'a> RequestBody for Json<'a> {
    type Send = &'a [u8];
    fn content_type(&self) -> Option<&'static str> {
        Some("application/json")
    }
    fn into_send_body(self) -> Self::Send {
        self.0
    }
}

/// True of the media type of stored bytes, in whatever letters and with whatever parameters (RFC 9110, 8.3.1).
fn is_octets(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(OCTETS)
}

struct Octets<'a>(&'a [u8]);

impl<'a> RequestBody for Octets<'a> {
    type Send = &'a [u8];
    fn content_type(&self) -> Option<&'static str> {
        Some(OCTETS)
    }
    fn into_send_body(self) -> Self::Send {
        self.0
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
