//! Who may do what.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_core::digest::ObjectId;
use pool_core::name::Name;
use pool_store::manifest::{TokenRecord, TokenScope};
use pool_store::{Again, StoreError};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::OnePart;
use super::responses::Made;
use crate::auth::{self, Credential};
use crate::json::JsonBody;
use crate::paths;
use crate::problem::{Problem, ProblemBody, Result};
use crate::schemas;
use crate::service::Service;
use crate::types::{NewToken, Token, TokenRequest};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(remove))
}

/// List tokens. Secrets are not kept, so they cannot be listed.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens",
    responses((status = 200, description = "All tokens", body = Vec<Token>))
)]
async fn list(State(service): State<Service>) -> Json<Vec<Token>> {
    let token = |credential: Credential| Token {
        name: credential.name,
        scope: credential.scope,
        created_at: credential.created_at,
    };
    let credentials = service.gate().credentials();
    Json(credentials.into_iter().map(token).collect())
}

/// Make a token.
///
/// The first one must have the scope admin: from then on each request needs one.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses(
        (status = 201, description = "Made; the secret is shown this once", body = NewToken),
        (status = 409, description = "The name is taken, or there is no token with the scope admin yet", body = ProblemBody),
    )
)]
async fn add(
    State(service): State<Service>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<Made<NewToken>> {
    let location = paths::token(request.name.as_str());
    let secret = auth::new_secret()?;
    let digest = ObjectId::of(secret.as_bytes());
    let (name, scope) = (request.name.as_str().to_owned(), request.scope);
    let answer = NewToken {
        name: name.clone(),
        scope,
        secret,
    };
    let shown = answer.secret.clone();
    let work = service.clone();
    service
        .with_store(move |store| {
            let _one_at_a_time = work.gate().changing();
            check_addition(&work, &name, digest, scope)?;
            let added = store.add_token(&name, digest, scope);
            let stored = store.tokens()?;
            let is_there = |token: &TokenRecord| token.name == name && token.secret == digest;
            // One that is made and not acknowledged is there for good, as of the next start at the latest. Nobody is told
            // its secret later, and the first one shuts out whoever has none.
            let is_made = stored.iter().any(is_there);
            work.gate().replace_stored(stored);
            match added {
                Ok(_) => Ok(()),
                Err(error) if is_made => {
                    tracing::warn!(%error, %name, "a token is made nevertheless");
                    Ok(())
                }
                Err(error) => Err(not_seen(error, &name, &shown)),
            }
        })
        .await?;
    Ok(Made {
        created: true,
        location,
        body: answer,
    })
}

/// The answer about a token `name` that could not be made, or that cannot be seen: the journal may have it, and then so does the
/// index, from the next start on.
fn not_seen(error: StoreError, name: &str, secret: &str) -> Problem {
    let is_for_good = matches!(
        error,
        StoreError::NoSpace {
            again: Again::WithSpace,
            ..
        }
    );
    let problem = Problem::from(error);
    if is_for_good {
        return problem;
    }
    problem.hint(format!(
        "keep {secret}: it is the secret of token {name}, should there be one once the service is started again"
    ))
}

fn check_addition(
    service: &Service,
    name: &str,
    secret: ObjectId,
    scope: TokenScope,
) -> Result<()> {
    let mut remaining = service.gate().credentials();
    if remaining.iter().any(|token| token.name == name) {
        let what = format!("there is a token {name} already");
        return Err(Problem::new(StatusCode::CONFLICT, "exists", what)
            .hint("choose another name, or remove it first: pool token rm"));
    }
    remaining.push(Credential {
        name: name.into(),
        secret,
        scope,
        created_at: None,
    });
    service.gate().check_remaining(&remaining)
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct TokenParams {
    /// What people call it.
    #[param(schema_with = schemas::name)]
    name: String,
}

/// Remove a token; its bearers are refused from now on.
#[utoipa::path(
    delete, path = "/v1/tokens/{name}", tag = "tokens",
    params(TokenParams),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "No such token", body = ProblemBody),
        (status = 409, description = "It is the last with the scope admin, or of the configuration", body = ProblemBody),
    )
)]
async fn remove(State(service): State<Service>, OnePart(name): OnePart) -> Result<StatusCode> {
    let name = Name::new(name)?.as_str().to_owned();
    let work = service.clone();
    service
        .with_store(move |store| {
            let _one_at_a_time = work.gate().changing();
            let mut remaining = work.gate().credentials();
            let at = remaining
                .iter()
                .position(|token| token.name == name)
                .ok_or_else(|| {
                    let nothing = Problem::nothing_is(format!("token {name}"));
                    nothing.hint("list those that there are: pool token ls")
                })?;
            if remaining.remove(at).created_at.is_none() {
                let what = format!("token {name} is of the configuration file");
                return Err(Problem::new(StatusCode::CONFLICT, "configured", what)
                    .hint("remove it there and restart poolsvc"));
            }
            work.gate().check_remaining(&remaining)?;
            let removed = store.delete_token(&name);
            // One whose removal is made and not acknowledged is no token any more either.
            work.gate().replace_stored(store.tokens()?);
            Ok(removed?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_secret_is_told_while_its_token_may_yet_be_there() {
        let hint = |error| not_seen(error, "ci", "s3cret").body.hint;
        let full = |again| StoreError::NoSpace {
            doing: "writing",
            path: "index".into(),
            again,
        };
        let refused = hint(full(Again::WithSpace)).unwrap_or_default();
        assert!(!refused.contains("s3cret"), "{refused}");
        let in_doubt = StoreError::InDoubt {
            path: "generation".into(),
            error: io::ErrorKind::Other.into(),
        };
        for error in [
            full(Again::WithRoom(16 << 20)),
            full(Again::Opened),
            in_doubt,
        ] {
            assert!(hint(error).unwrap().contains("s3cret"));
        }
    }
}
