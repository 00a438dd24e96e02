//! How servers of `apps/` are started: their arguments, and what they read and write.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Arguments for nginx; as everywhere here, PORT and FILES are filled in.
pub(crate) const NGINX: &[&str] = &["-c", "FILES/nginx.conf", "-e", "stderr"];
/// Arguments for lighttpd.
pub(crate) const LIGHTTPD: &[&str] = &["-D", "-f", "FILES/lighttpd.conf"];
/// Arguments for chronyd.
pub(crate) const CHRONY: &[&str] = &["-d", "-x", "-f", "FILES/chrony.conf"];
/// Arguments for Redis.
pub(crate) const REDIS: &[&str] = &["--port", "PORT", "--bind", "127.0.0.1", "--save", ""];

const CONFIGURATIONS: [(&str, &str); 3] = [
    (
        "nginx.conf",
        "daemon off; master_process off; user root root; error_log stderr; pid FILES/nginx.pid;\n\
         events { worker_connections 256; }\n\
         http { access_log off; client_body_temp_path FILES/body; proxy_temp_path FILES/proxy;\n\
         fastcgi_temp_path FILES/fastcgi; uwsgi_temp_path FILES/uwsgi; scgi_temp_path FILES/scgi;\n\
         keepalive_requests 1000000; server { listen 127.0.0.1:PORT; root FILES; } }\n",
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

/// A directory for one server, with all configurations, and the address that it is to serve.
#[derive(Debug)]
pub(crate) struct Files {
    directory: TempDir,
    address: SocketAddr,
}

impl Files {
    pub(crate) fn new() -> Result<Self> {
        let files = Self {
            directory: tempfile::tempdir().context("making a directory for a server")?,
            address: free_address()?,
        };
        for (name, text) in CONFIGURATIONS {
            fs::write(files.path().join(name), files.fill_in(text))
                .with_context(|| format!("writing {name}"))?;
        }
        Ok(files)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the server is to listen.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory under the same name in a guest, for `--dir`.
    pub(crate) fn grant(&self) -> String {
        format!("{0}:{0}", self.path().display())
    }

    /// Arguments with what is this server's own.
    pub(crate) fn fill(&self, arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|text| self.fill_in(text)).collect()
    }

    fn fill_in(&self, text: &str) -> String {
        text.replace("PORT", &self.address.port().to_string())
            .replace("FILES", &self.path().display().to_string())
    }
}

/// An address of this host that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?)
}
