//! A service behind a proxy that speaks TLS.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::common::{BUSYBOX, Pool, busybox};

/// Speaks TLS on a free port, which it prints, and passes on what it hears; its second line and each
/// further one are connections.
const PROXY: &str = r#"
import select, socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(raw):
    try:
        client = context.wrap_socket(raw, server_side=True)
        service = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        print("connected", flush=True)
        while True:
            ready = [client] if client.pending() else select.select([client, service], [], [])[0]
            for one, other in (client, service), (service, client):
                if one in ready:
                    piece = one.recv(65536)
                    if not piece:
                        return
                    other.sendall(piece)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

struct Proxy {
    child: Child,
    url: String,
    authority: PathBuf,
}

impl Proxy {
    fn start(pool: &Pool) -> Self {
        let authority = pool.path("authority.pem");
        let identity = pool.path("identity.pem");
        make_certificate(pool, &authority, &identity);
        let port = pool.url.rsplit_once(':').unwrap().1;
        let mut child = Command::new("python3")
            .args(["-c", PROXY])
            .arg(identity)
            .arg(port)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut port).unwrap();
        let url = format!("https://localhost:{}", port.trim());
        child.stdout = Some(output.into_inner());
        Self {
            child,
            url,
            authority,
        }
    }

    /// Ends it, and tells how many connections it had.
    fn end(mut self) -> usize {
        self.child.kill().unwrap();
        let output = BufReader::new(self.child.stdout.take().unwrap());
        let connections = output.lines().map_while(Result::ok).count();
        self.child.wait().unwrap();
        connections
    }
}

/// Makes an authority of the house's own, and what proves to be `localhost` by it.
fn make_certificate(pool: &Pool, authority: &Path, identity: &Path) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(pool.directory.path());
        let output = command.output().expect("openssl is installed");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {says}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let root = [
        "req",
        "-x509",
        "-subj",
        "/CN=house",
        "-days",
        "9",
        "-keyout",
        "ca.key",
        "-out",
    ];
    openssl(&[&root[..], &[authority.to_str().unwrap()], &key].concat());
    let request = [
        "req",
        "-subj",
        "/CN=pool",
        "-keyout",
        "key.pem",
        "-out",
        "request.pem",
    ];
    openssl(&[&request[..], &key].concat());
    std::fs::write(pool.path("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let sign = ["x509", "-req", "-in", "request.pem", "-days", "9", "-CA"];
    let with = [
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "leaf.pem",
    ];
    openssl(&[&sign[..], &[authority.to_str().unwrap()], &with].concat());
    let parts = ["leaf.pem", "key.pem"].map(|name| std::fs::read(pool.path(name)).unwrap());
    std::fs::write(identity, parts.concat()).unwrap();
}

#[test]
fn a_service_is_asked_by_way_of_tls() {
    let pool = Pool::start();
    let proxy = Proxy::start(&pool);
    let authority = proxy.authority.to_str().unwrap();
    let ask = |arguments: &[&str]| {
        let words = [&["--server", &proxy.url, "--cacert", authority], arguments];
        pool.bytes(&words.concat())
    };
    ask(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    assert_eq!(ask(&["cat", "image/bb:v1"]), busybox());
    ask(&["rm", "image/bb:v1"]);
    ask(&["gc", "--grace", "0"]);
    let by_environment = |name: &str, value: &str| -> Output {
        let mut command = pool.command(&["--server", &proxy.url, "ls"]);
        command.env("SSL_CERT_FILE", "").env(name, value);
        command.output().unwrap()
    };
    assert!(by_environment("SSL_CERT_FILE", authority).status.success());

    let refused = |output: Output, word: &str| {
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{says}");
        assert!(says.contains(word), "{says}");
    };
    // Nobody whom everybody knows vouches for it.
    refused(by_environment("NOTHING", ""), "--cacert");
    refused(by_environment("SSL_CERT_FILE", "/nowhere"), "/nowhere");
    refused(by_environment("SSL_CERT_FILE", BUSYBOX), "no certificate");
    let elsewhere = proxy.url.replace("localhost", "127.0.0.1");
    let wrong_name = ["--server", &elsewhere, "--cacert", authority, "ls"];
    refused(pool.run(&wrong_name), "certificate");
    // One for each of five verbs, and two more to push by; a connection serves many requests.
    let connections = proxy.end();
    assert!((5..=7).contains(&connections), "{connections}");
}
