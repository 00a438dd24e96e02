//! `pool token`: who may do what.

use std::process::ExitCode;

use anyhow::{Error, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use pool_api::client::Client;
use pool_api::types::NewToken;
use pool_core::name::Name;
use pool_store::manifest::TokenScope;
use serde::Serialize;

use crate::output::Column;
use crate::{Global, output, server};

/// Make, list and remove tokens
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool token add ops --scope admin   # the first one\n  \
                  pool token add ci --scope write\n  pool token ls\n  pool token rm ci"
)]
pub(crate) struct Token {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token and print its secret, once
    Add {
        /// What to call it
        name: Name,
        /// What it allows
        #[arg(long, value_enum)]
        scope: Scope,
    },
    /// List tokens
    Ls,
    /// Remove a token
    Rm {
        /// What it is called
        name: Name,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    /// List and fetch
    Read,
    /// Also upload, tag, pin and delete
    Write,
    /// Also collect and manage tokens
    Admin,
}

impl From<Scope> for TokenScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Write => Self::Write,
            Scope::Admin => Self::Admin,
        }
    }
}

#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl Token {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let client = server::client(global)?;
        match self.what {
            What::Add { name, scope } => {
                let token = client.add_token(name, scope.into())?;
                let shown = output::print(global.json, &token, |token| token.secret.clone());
                shown.map_err(|error| forget(global, &client, &token, &error))?;
            }
            What::Ls => {
                let tokens = client.tokens()?;
                output::print(global.json, &tokens, |tokens| {
                    let rows: Vec<_> = tokens
                        .iter()
                        .map(|token| {
                            vec![
                                token.name.clone(),
                                format!("{:?}", token.scope).to_lowercase(),
                                token.created_at.map_or("configured".into(), output::age),
                            ]
                        })
                        .collect();
                    if rows.is_empty() {
                        return "no tokens: whoever reaches the service may do everything".into();
                    }
                    let columns = [
                        Column::Text("TOKEN"),
                        Column::Text("SCOPE"),
                        Column::Number("AGE"),
                    ];
                    output::table(&columns, &rows)
                })?;
            }
            What::Rm { name } => {
                client.delete_token(name.as_str())?;
                let removed = name.as_str().to_owned();
                output::print(global.json, &Removed { removed }, |answer| {
                    format!("removed token {}", answer.removed)
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Removes a token whose secret nobody has seen, since nobody ever will.
fn forget(global: &Global, client: &Client, token: &NewToken, why: &Error) -> Error {
    let name = &token.name;
    let by_its_own_right = || -> Result<()> {
        let secret = token.secret.clone();
        let own = Global {
            token: Some(secret),
            ..global.clone()
        };
        Ok(server::client(&own)?.delete_token(name)?)
    };
    // Before the first one everybody may ask, and afterwards only who shows it.
    let removed = client.delete_token(name).or_else(|_| by_its_own_right());
    let then = match removed {
        Ok(()) => "it was removed again".to_owned(),
        Err(error) => format!("remove it (pool token rm {name}); {error:#}"),
    };
    // In words, as it is a failure even when nobody reads what is printed.
    anyhow!("the secret of token {name} was not printed ({why:#}): {then}")
}
