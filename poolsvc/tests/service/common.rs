//! A real poolsvc on a free port, and requests to it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pool_api::announce;
use pool_api::client::{Client, PushOptions};
use pool_core::digest::PageId;
use pool_store::placement::Placement;
use pool_store::upload::{UploadObject, padded};
use pool_tests::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use super::store::content;

/// A service that ends with this value.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) store: PathBuf,
    /// Keeps the store's directory unless another service has it.
    directory: Option<TempDir>,
}

impl Service {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        let mut service = Self::start_on(&store, flags);
        service.directory = Some(directory);
        service
    }

    pub(crate) fn start_on(store: &Path, flags: &[&str]) -> Self {
        let log = File::options()
            .append(true)
            .create(true)
            .open(store.with_extension("log"))
            .unwrap();
        let mut command = command(store);
        command.args(flags).stderr(log);
        Self::run(command, store)
    }

    /// Starts a service as `command` says.
    pub(crate) fn run(mut command: Command, store: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut url).unwrap();
        assert!(url.starts_with("http://"), "it printed {url:?}");
        Self {
            child,
            // Of all addresses that it may listen on, this one is here.
            url: url.trim().replace("//0.0.0.0:", "//127.0.0.1:"),
            store: store.into(),
            directory: None,
        }
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.store.with_extension("log")).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.url.parse().unwrap(), None)
    }

    /// A connection for what no HTTP library would send.
    pub(crate) fn connect(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream
    }

    /// All that comes back for bytes as they are: what no client would send.
    pub(crate) fn told(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, json: &Value) -> Answer {
        let kind = [("content-type", "application/json")];
        self.ask("POST", path, &kind, json.to_string().as_bytes())
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("PUT", path, &[], body)
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], b"")
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        ask(&self.url, method, path, headers, body)
    }
}

/// Asks the service at `url`.
pub(crate) fn ask(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(wait::PATIENCE))
        .proxy(None)
        .build()
        .into();
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = if matches!(method, "GET" | "HEAD" | "DELETE") {
        agent.run(request.body(()).unwrap()).unwrap()
    } else {
        agent.run(request.body(body).unwrap()).unwrap()
    };
    let mut bytes = Vec::new();
    let headers = response.headers().clone();
    response
        .body_mut()
        .as_reader()
        .read_to_end(&mut bytes)
        .unwrap();
    Answer {
        status: response.status().as_u16(),
        headers,
        bytes,
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poolsvc"));
    command
        .arg("--store")
        .arg(store)
        .args(["--listen", "127.0.0.1:0"])
        .env_remove("NOTIFY_SOCKET")
        .env_remove("POOLSVC_LOG");
    command
}

/// Runs poolsvc until it ends by itself.
pub(crate) fn refused(mut command: Command) -> (ExitStatus, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (
        output.status,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// Where what was made is.
    #[track_caller]
    pub(crate) fn location(&self) -> &str {
        self.headers["location"].to_str().unwrap()
    }

    /// Checks the status, and that a refusal has the one shape that refusals have.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{text}");
        if status >= 400 {
            assert_eq!(self.headers["content-type"], "application/problem+json");
            let body = self.json();
            assert_eq!(body["status"], status, "{text}");
            for member in ["title", "detail", "error"] {
                assert!(
                    body[member].as_str().is_some_and(|word| !word.is_empty()),
                    "{text}"
                );
            }
        }
        self
    }
}

/// The announcement of version 1 of a library, as JSON.
pub(crate) fn announcement(name: &str, content: &[u8]) -> Value {
    let object = UploadObject::of(content, Placement::Windows { phase: 0 });
    let digests: Vec<u8> = object
        .pages
        .iter()
        .flat_map(|page| page.map_or([0; 32], |id| id.0))
        .collect();
    json!({
        "target": {"kind": "library", "name": name, "version": "1", "object": object.id},
        "objects": [{
            "id": object.id,
            "length": object.length,
            "placement": {"kind": "windows", "phase": 0},
            "pages": STANDARD.encode(digests),
        }],
    })
}

/// A page as it is sent.
pub(crate) fn record(page: &[u8]) -> Vec<u8> {
    let mut record = PageId::of(&padded(page)).0.to_vec();
    record.extend(padded(page));
    record
}

/// Pushes a library by negotiation; the pages that were sent.
pub(crate) fn push_library(client: &Client, reference: &str, content: &[u8]) -> u64 {
    let announced = announce::library(content, reference.parse().unwrap());
    let options = PushOptions {
        connections: 3,
        pages_per_request: 50,
        ..PushOptions::default()
    };
    let report = client.push(&announced, options, &|_, _| ()).unwrap();
    report.sent_pages
}

pub(crate) fn busybox() -> Vec<u8> {
    std::fs::read("/bin/busybox").expect("busybox-static is installed")
}
