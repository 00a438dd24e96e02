//! The query of a request: what is asked for there is answered, or refused, never overlooked.
//!
//! A query is read as RFC 3986 has it, so a `+` is a plus (`libstdc++`), not the space that forms
//! make of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::IntoParams;

use crate::problem::{Problem, Result};
use crate::schemas;

/// Which entries of a list.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only names that begin with this; `+` is a plus.
    #[param(required = false, schema_with = schemas::prefix)]
    pub(crate) prefix: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Filter {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let mut filter = Self::default();
        for (name, value) in pairs(parts.uri.query())? {
            if name == "prefix" {
                filter.prefix = checked_prefix(value)?;
            }
        }
        Ok(filter)
    }
}

fn checked_prefix(value: String) -> Result<String> {
    let may_begin_a_name = schemas::PREFIX_LENGTH.contains(&value.len())
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+~@:-".contains(&b));
    if may_begin_a_name {
        return Ok(value);
    }
    let shown: String = value.chars().take(80).collect();
    let what = format!("no name begins with {shown:?}");
    Err(Problem::bad_request("bad-query", what).hint("leave prefix out to list everything"))
}

/// The parameters that each route has, by method and pattern of the path.
#[derive(Clone, Debug)]
pub(crate) struct Known(Arc<HashMap<(Method, String), BTreeSet<String>>>);

impl Known {
    /// Those that an OpenAPI document lists.
    pub(crate) fn of(document: &Value) -> Self {
        let mut known = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = method.to_uppercase().parse::<Method>() else {
                    continue;
                };
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let names = parameters
                    .filter(|parameter| parameter["in"] == "query")
                    .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
                known.insert((method, path.clone()), names.collect());
            }
        }
        Self(Arc::new(known))
    }

    fn check(&self, method: &Method, path: &str, query: Option<&str>) -> Result<()> {
        // HEAD is GET without the body.
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        // A path without that method has an answer of its own.
        let Some(parameters) = self.0.get(&(method.clone(), path.to_owned())) else {
            return Ok(());
        };
        for (name, _) in pairs(query)? {
            if !parameters.contains(&name) {
                let shown: String = name.chars().take(80).collect();
                let what = format!("there is no query parameter {shown:?} here");
                return Err(Problem::bad_request("bad-query", what).hint("see /v1/openapi.json"));
            }
        }
        Ok(())
    }
}

/// Refuses queries that are malformed, or have what the route does not know.
pub(crate) async fn check(State(known): State<Known>, request: Request, next: Next) -> Response {
    if let Some(path) = request.extensions().get::<MatchedPath>() {
        let query = request.uri().query();
        if let Err(problem) = known.check(request.method(), path.as_str(), query) {
            return problem.into_response();
        }
    }
    next.run(request).await
}

/// The parameters of a query, each named and given once.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>> {
    let bad = |what: String| Problem::bad_request("bad-query", what);
    let mut pairs = Vec::new();
    let mut names = HashSet::new();
    for pair in query
        .filter(|query| !query.is_empty())
        .into_iter()
        .flat_map(|q| q.split('&'))
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decoded(name).zip(percent_decoded(value));
        let (name, value) = decoded.ok_or_else(|| {
            bad("the query holds a percent sign without two hexadecimal digits, or no UTF-8".into())
        })?;
        if name.is_empty() {
            return Err(bad("the query holds a parameter without a name".into()));
        }
        if !names.insert(name.clone()) {
            return Err(bad("the query holds a parameter more than once".into()));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Decodes `%XX` (RFC 3986, 2.1), or nothing when there is a `%` that is none or no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_literally_or_refused() {
        let read = |query| pairs(Some(query)).ok();
        let one = |name: &str, value: &str| Some(vec![(name.to_owned(), value.to_owned())]);
        assert_eq!(pairs(None).unwrap(), vec![]);
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read("prefix=g++"), one("prefix", "g++"));
        assert_eq!(read("prefix=g%2B%2b"), one("prefix", "g++"));
        assert_eq!(read("%70refix=a=b"), one("prefix", "a=b"));
        assert_eq!(read("prefix"), one("prefix", ""));
        for bad in [
            "prefix=%",
            "prefix=%4",
            "prefix=%zz",
            "prefix=%ff",
            "=x",
            "&",
            "a=1&",
            "a=1&a=2",
            "a=1&%61=2",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        // As many as anybody can send are read in a moment, each compared with all others never.
        let many: Vec<_> = (0..1_000_000).map(|nth| format!("p{nth}")).collect();
        assert_eq!(pairs(Some(&many.join("&"))).unwrap().len(), many.len());
        for bad in ["", " ", ".x", "a b", "é", &"x".repeat(300)] {
            assert!(checked_prefix((*bad).to_owned()).is_err(), "{bad}");
        }
    }
}
