//! The service that a verb asks.

use anyhow::Result;
use pool_api::client::{Client, ServerAddress};

use crate::Global;

/// Where the service is unless one is named.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7420";

/// A client of the service that the command line or the environment names.
pub(crate) fn client(global: &Global) -> Result<Client> {
    connect(&global.server, global.token.as_deref())
}

/// A client of the service at `server`. An empty token is none.
pub(crate) fn connect(server: &str, token: Option<&str>) -> Result<Client> {
    let address: ServerAddress = server.parse()?;
    Ok(Client::new(
        address,
        token.filter(|token| !token.is_empty()),
    ))
}
