//! Twenty different programs, each of which is held where it waits: for a request, for input, for room in
//! its output.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};

use super::MODES;
use super::functions::free_address;
use super::series::Series;
use crate::apps;
use crate::fleet::Fleet;

/// Programs of `apps/` and what they are started with: PORT is a free port, SILENT the address of a server
/// that never answers, FILES a directory.
const PROGRAMS: [(&str, &[&str]); 15] = [
    ("go-http", &["127.0.0.1:PORT"]),
    (
        "redis",
        &["--port", "PORT", "--bind", "127.0.0.1", "--save", ""],
    ),
    ("nginx", &["-c", "FILES/nginx.conf", "-e", "stderr"]),
    ("lighttpd", &["-D", "-f", "FILES/lighttpd.conf"]),
    ("chrony", &["-d", "-x", "-f", "FILES/chrony.conf"]),
    ("iperf", &["-s", "-p", "PORT", "-B", "127.0.0.1"]),
    (
        "memcached",
        &["-l", "127.0.0.1", "-p", "PORT", "-t", "2", "-u", "root"],
    ),
    (
        "python",
        &["-c", "import sys, json, threading; sys.stdin.read()"],
    ),
    ("lua", &["-e", "io.read()"]),
    ("sqlite3", &[":memory:"]),
    ("zstd", &["-c", "-T2"]),
    ("xz", &["-c", "-T2"]),
    ("curl", &["-s", "http://SILENT/"]),
    // These write more than a pipe takes and wait for somebody who reads.
    ("mandelbrot", &[]),
    ("upscale", &[]),
];
/// Guests of the demo and of other measurements, which hold when they are asked to.
const HOLDING: [&str; 5] = [
    "hello",
    "zlib-roundtrip",
    "sqlite-workload",
    "lua-script",
    guests::TOUCH,
];
const PLATFORM: &str = "kvm";
/// A server that waits for requests; PORT and FILES as above.
const CONFIGURATIONS: [(&str, &str); 3] = [
    (
        "nginx.conf",
        "daemon off; master_process off; user root root; error_log stderr; pid FILES/nginx.pid;\n\
         events { worker_connections 256; }\n\
         http { access_log off; client_body_temp_path FILES/body; proxy_temp_path FILES/proxy;\n\
         fastcgi_temp_path FILES/fastcgi; uwsgi_temp_path FILES/uwsgi; scgi_temp_path FILES/scgi;\n\
         server { listen 127.0.0.1:PORT; root FILES; } }\n",
    ),
    (
        "lighttpd.conf",
        "server.document-root = \"FILES\"\nserver.port = PORT\nserver.bind = \"127.0.0.1\"\n\
         server.modules = (\"mod_indexfile\", \"mod_staticfile\")\n",
    ),
    (
        "chrony.conf",
        "port PORT\nbindaddress 127.0.0.1\ncmdport 0\nbindcmdaddress /\nallow 127.0.0.1\n\
         local stratum 7\npidfile FILES/chrony.pid\n",
    ),
];

pub(super) fn measure(host: &Host, out: &Path) -> Result<Vec<Series>> {
    apps::push(host, out, &PROGRAMS.map(|(name, _)| name))?;
    for name in HOLDING {
        guests::push(host, &out.join("guests"), name)?;
    }
    // What it takes in waits in the kernel's queue.
    let silent = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let count = PROGRAMS.len() + HOLDING.len();
    println!("faas: {count} different programs, one after the other");
    MODES
        .into_iter()
        .map(|mode| {
            let shared = super::shared_bytes(host, mode.backing)?;
            let files = tempfile::tempdir().context("making a directory for the programs")?;
            let place = Place {
                host,
                backing: mode.backing,
                files: files.path().to_str().context("the path is not UTF-8")?,
                silent: silent.local_addr()?,
            };
            Series::measure(mode, count, shared, |fleet, at| {
                match (
                    PROGRAMS.get(at),
                    HOLDING.get(at.wrapping_sub(PROGRAMS.len())),
                ) {
                    (Some((name, arguments)), _) => place.start(fleet, name, arguments)?,
                    (None, Some(name)) => {
                        fleet.add(host, &format!("image/{name}:v1"), mode.backing, PLATFORM)?;
                    }
                    (None, None) => {}
                }
                Ok(None)
            })
        })
        .collect()
}

/// What programs are started with.
struct Place<'a> {
    host: &'a Host,
    backing: Backing,
    files: &'a str,
    silent: SocketAddr,
}

impl Place<'_> {
    fn start(&self, fleet: &mut Fleet, name: &str, arguments: &[&str]) -> Result<()> {
        let port = free_address()?.port().to_string();
        let filled = |text: &str| {
            text.replace("PORT", &port)
                .replace("FILES", self.files)
                .replace("SILENT", &self.silent.to_string())
        };
        for (file, text) in CONFIGURATIONS {
            if file.starts_with(name) {
                fs::write(Path::new(self.files).join(file), filled(text))
                    .with_context(|| format!("writing {file}"))?;
            }
        }
        let image = format!("image/{name}:v1");
        let mut command = command(self.host, &image, self.backing, PLATFORM);
        command
            .args(["--net", "host", "--memory", "256M"])
            .args(["--dir", &format!("{0}:{0}", self.files), "--"])
            .args(arguments.iter().map(|argument| filled(argument)));
        fleet.start(&command, Stdio::piped(), Stdio::piped())?;
        Ok(())
    }
}
