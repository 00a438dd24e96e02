//! The service that a verb asks.

use std::time::Duration;

use anyhow::Result;
use pool_api::client::{Client, ServerAddress};

use crate::Global;

/// Where the service is unless one is named.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7420";

/// A client of the service that the command line or the environment names.
pub(crate) fn client(global: &Global) -> Result<Client> {
    connect(&global.server, global)
}

/// A client of the service at `server`. White space around a token is not its own, as that
/// of a file is not, and an empty one is none.
pub(crate) fn connect(server: &str, global: &Global) -> Result<Client> {
    let address: ServerAddress = server.parse()?;
    let token = global.token.as_deref().map(str::trim);
    let token = token.filter(|token| !token.is_empty());
    let client = Client::new(address, token);
    Ok(match global.timeout {
        Some(seconds) => client.with_patience(Duration::from_secs(seconds)),
        None => client,
    })
}
