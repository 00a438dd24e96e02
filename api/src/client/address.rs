//! Where a pool service is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;
use ureq::http::Uri;

/// Why a text is no address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not the address of a pool service ({why}): write http://HOST:PORT, \
     https://HOST:PORT or unix:/PATH"
)]
pub struct ServerAddressError {
    text: String,
    why: String,
}

/// Where a pool service is: `http://HOST:PORT`, `https://HOST:PORT` (behind a proxy that speaks
/// TLS), or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Without a slash at the end.
    Url(String),
    Socket(PathBuf),
}

impl ServerAddress {
    /// The Unix socket, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Url(_) => None,
            Kind::Socket(path) => Some(path),
        }
    }

    /// True when it is reached by way of TLS.
    pub fn is_https(&self) -> bool {
        self.base()
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case("https://"))
    }

    /// What comes before the path of a request.
    pub(super) fn base(&self) -> &str {
        match &self.0 {
            Kind::Url(url) => url,
            Kind::Socket(_) => "http://localhost",
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Url(url) => f.write_str(url),
            Kind::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| ServerAddressError {
            text: without_secrets(text).chars().take(200).collect(),
            why: why.into(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(wrong("the socket's path must be absolute"));
            }
            return Ok(Self(Kind::Socket(path.into())));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("it begins with neither http://, https:// nor unix:"));
        }
        let has_more = uri.query().is_some() || text.contains('#');
        if uri.host().is_none_or(str::is_empty) || has_more {
            return Err(wrong("a host belongs there, and no query or fragment"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong(
                "no name and password belong there: a token goes into POOL_TOKEN",
            ));
        }
        // Behind a name, or the brackets of an address. What is no port is not one left out.
        let has_port = authority
            .rsplit(']')
            .next()
            .is_some_and(|end| end.contains(':'));
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("a port is a number from 1 to 65535"));
        }
        Ok(Self(Kind::Url(text.trim_end_matches('/').into())))
    }
}

/// An address as it may be shown to whoever reads a log.
fn without_secrets(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    match text[start..].rfind('@') {
        Some(end) if !text.starts_with("unix:") => {
            format!("{}...{}", &text[..start], &text[start + end..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("http://127.0.0.1:7420", "http://127.0.0.1:7420"),
            ("https://pool.example/", "https://pool.example"),
            ("https://example/pool/", "https://example/pool"),
            ("http://[::1]", "http://[::1]"),
            ("http://[::1]:7420", "http://[::1]:7420"),
            ("unix:/run/pool.sock", "unix:/run/pool.sock"),
            ("unix:///run/pool.sock", "unix:/run/pool.sock"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_https(), text.starts_with("https"), "{text}");
        }
        for bad in [
            "",
            "localhost:7420",
            "ftp://x",
            "unix:pool.sock",
            "http://",
            "http://a?b",
            "http://a#b",
            // Port 80 would be asked, and shown the token.
            "http://a:99999",
            "http://a:742O/pool",
            "http://a:",
            "http://a:0",
            "http://[::1]:x",
        ] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad}");
        }
        for bad in [
            "https://me:hidden@pool.example",
            "me:hidden@pool",
            "http://me:hid@den@a",
        ] {
            let error = bad.parse::<ServerAddress>().unwrap_err().to_string();
            assert!(!error.contains("hid"), "{error}");
        }
    }
}
