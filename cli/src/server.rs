//! The service that a verb asks.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pool_api::client::{Client, ServerAddress, ServerAddressError};

use crate::{Global, WrongUse};

/// Where the service is unless one is named.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7420";

/// A client of the service that the command line or the environment names.
pub(crate) fn client(global: &Global) -> Result<Client> {
    connect(&global.server, global)
}

/// A client of the service at `server`. White space around a token is not its own, as that
/// of a file is not, and an empty one is none.
pub(crate) fn connect(server: &str, global: &Global) -> Result<Client> {
    let address: ServerAddress = server
        .parse()
        .map_err(|error: ServerAddressError| WrongUse(error.to_string()))?;
    let token = global.token.as_deref().map(str::trim);
    let token = token.filter(|token| !token.is_empty());
    let can_be_sent = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !token.is_none_or(|token| token.bytes().all(can_be_sent)) {
        let what =
            "the token holds characters that no request can carry: look at --token or POOL_TOKEN";
        bail!(WrongUse(what.into()));
    }
    let client = match authorities(global).filter(|_| address.is_https()) {
        None => Client::new(address, token),
        Some(file) => {
            let of = || format!("the certificates of authorities, {}", file.display());
            let pem = fs::read(&file).with_context(of)?;
            Client::trusting(address, token, &pem).with_context(of)?
        }
    };
    Ok(match global.timeout {
        Some(seconds) => client.with_patience(Duration::from_secs(seconds)),
        None => client,
    })
}

/// The file of the authorities that are trusted, if one is named.
fn authorities(global: &Global) -> Option<PathBuf> {
    let said = global.cacert.clone();
    let usual = || std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    said.or_else(|| usual().map(PathBuf::from))
}
