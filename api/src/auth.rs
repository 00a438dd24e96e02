//! Who may do what.
//!
//! As long as no token is configured, whoever can reach the service may do everything: so it
//! listens on loopback only, and looks at the headers by which a browser betrays that a web page
//! made it ask. With a token configured, each request carries one (RFC 6750), save those over the
//! Unix socket from the service's own user or from root, who could read the store anyway.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pool_core::digest::ObjectId;
use pool_store::manifest::{Timestamp, TokenRecord, TokenScope};

use crate::problem::{Problem, Result, UNKNOWN_TOKEN};

/// Where a request comes from; whoever accepts connections adds it to each request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over the Unix socket, from a process of this user.
    Unix {
        /// User id, from the kernel (`SO_PEERCRED`).
        uid: u32,
    },
}

/// A secret that lets its bearer in.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What people call it.
    pub name: String,
    /// BLAKE3 digest of the secret.
    pub secret: ObjectId,
    /// What it allows.
    pub scope: TokenScope,
    /// When it was made; absent for one of the configuration.
    pub created_at: Option<Timestamp>,
}

impl From<TokenRecord> for Credential {
    fn from(record: TokenRecord) -> Self {
        Self {
            name: record.name,
            secret: record.secret,
            scope: record.scope,
            created_at: Some(record.created_at),
        }
    }
}

/// Decides about each request.
#[derive(Debug)]
pub struct Gate {
    configured: Vec<Credential>,
    stored: RwLock<Vec<Credential>>,
    loopback_only: bool,
    uid: u32,
    changing: Mutex<()>,
}

impl Gate {
    /// A gate that knows the tokens of the configuration and those of the store. `loopback_only`
    /// says whether nobody but this machine can reach the service.
    pub fn new(configured: Vec<Credential>, stored: Vec<TokenRecord>, loopback_only: bool) -> Self {
        Self {
            configured,
            stored: RwLock::new(stored.into_iter().map(Credential::from).collect()),
            loopback_only,
            uid: rustix::process::geteuid().as_raw(),
            changing: Mutex::new(()),
        }
    }

    /// True when at least one token exists, so that each request must carry one.
    pub fn needs_token(&self) -> bool {
        !self.configured.is_empty() || !self.stored().is_empty()
    }

    /// All tokens, those of the configuration first.
    pub fn credentials(&self) -> Vec<Credential> {
        let mut all = self.configured.clone();
        all.extend(self.stored().iter().cloned());
        all
    }

    /// Held from the check of a change of the stored tokens to its end.
    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the tokens that the store now has.
    pub(crate) fn replace_stored(&self, records: Vec<TokenRecord>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        *stored = records.into_iter().map(Credential::from).collect();
    }

    /// Refuses a change after which nobody could manage tokens, or anybody could do anything.
    /// `remaining` are all tokens after the change.
    pub(crate) fn check_remaining(&self, remaining: &[Credential]) -> Result<()> {
        let conflict = |what: &str, hint: &str| {
            Err(Problem::new(StatusCode::CONFLICT, "last-admin", what).hint(hint))
        };
        if remaining.is_empty() {
            if self.loopback_only {
                return Ok(());
            }
            return conflict(
                "without this token anybody on the network could do anything",
                "stop the service and start it on a loopback address",
            );
        }
        if remaining
            .iter()
            .all(|token| token.scope != TokenScope::Admin)
        {
            return conflict(
                "no token with the scope admin would be left to manage the others",
                "make one with that scope first: pool token add NAME --scope admin",
            );
        }
        Ok(())
    }

    fn stored(&self) -> std::sync::RwLockReadGuard<'_, Vec<Credential>> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the request's sender may do.
    pub(crate) fn admit(&self, peer: Option<Peer>, headers: &HeaderMap) -> Result<TokenScope> {
        if let Some(Peer::Unix { uid }) = peer {
            if uid == self.uid || uid == 0 {
                return Ok(TokenScope::Admin);
            }
            if !self.needs_token() {
                let what = format!("user {uid} may not use this socket without a token");
                return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", what)
                    .hint("ask the service's operator for one: pool token add NAME"));
            }
        }
        if self.needs_token() {
            return self.scope_of_bearer(headers);
        }
        refuse_web_pages(headers)?;
        Ok(TokenScope::Admin)
    }

    fn scope_of_bearer(&self, headers: &HeaderMap) -> Result<TokenScope> {
        let unauthorized = |error: &str, what: &str| {
            Problem::new(StatusCode::UNAUTHORIZED, error, what)
                .hint("send Authorization: Bearer SECRET, or set POOL_TOKEN for pool")
        };
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        // Of several, a proxy in front may have looked at another one.
        let only = lines.next().filter(|_| lines.next().is_none());
        let presented = only
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, secret)| blake3::hash(secret.trim().as_bytes()))
            .ok_or_else(|| unauthorized("unauthorized", "this service wants a token"))?;
        let mut scope = None;
        // Each is compared, in constant time, so that an answer's time tells nothing.
        for credential in self.configured.iter().chain(&*self.stored()) {
            if blake3::Hash::from_bytes(credential.secret.0) == presented {
                scope = scope.max(Some(credential.scope));
            }
        }
        scope.ok_or_else(|| unauthorized(UNKNOWN_TOKEN, "the token is not known here"))
    }
}

/// Without a token, a web page could make its visitor's browser ask: by a name that it lets point
/// at 127.0.0.1 (the Host header then bears that name), or across origins.
fn refuse_web_pages(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let forbidden = |what: String| {
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", what)
            .hint("ask by a loopback address, or configure a token"))
    };
    if let Some(host) = text(header::HOST)
        && !is_loopback_host(host)
    {
        return forbidden(format!(
            "a service without tokens answers only to loopback names, not {host:?}"
        ));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let same = origin
            .split_once("://")
            .is_some_and(|(_, host)| Some(host) == text(header::HOST));
        if !same {
            return forbidden(format!(
                "requests made by a web page of {origin:?} are refused"
            ));
        }
    }
    Ok(())
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// `N` random bytes in hexadecimal.
pub(crate) fn random_hex<const N: usize>() -> Result<String> {
    random::<N>().map(|bytes| hex(&bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A new secret: 256 random bits behind a word that a scanner for leaked secrets can look for.
pub(crate) fn new_secret() -> Result<String> {
    Ok(format!("pool_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(Problem::internal)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    fn gate(scopes: &[TokenScope]) -> Gate {
        let credential = |scope: &TokenScope| Credential {
            name: format!("{scope:?}"),
            secret: ObjectId::of(format!("{scope:?}").as_bytes()),
            scope: *scope,
            created_at: None,
        };
        Gate::new(scopes.iter().map(credential).collect(), vec![], true)
    }

    #[test]
    fn bearers_get_their_scope_and_others_none() {
        let gate = gate(&[TokenScope::Read, TokenScope::Write]);
        let bearer = |value| gate.admit(None, &headers(&[(header::AUTHORIZATION, value)]));
        assert_eq!(bearer("Bearer Read").unwrap(), TokenScope::Read);
        assert_eq!(bearer("bearer Write").unwrap(), TokenScope::Write);
        for bad in ["Bearer Admin", "Bearer", "Basic Read", "Read", "Bearer "] {
            assert_eq!(bearer(bad).unwrap_err().status, 401, "{bad}");
        }
        assert_eq!(gate.admit(None, &HeaderMap::new()).unwrap_err().status, 401);
        let mut two = headers(&[(header::AUTHORIZATION, "Bearer Read")]);
        two.append(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer Write"),
        );
        assert_eq!(gate.admit(None, &two).unwrap_err().status, 401);
        let uid = rustix::process::geteuid().as_raw();
        let own = gate.admit(Some(Peer::Unix { uid }), &HeaderMap::new());
        assert_eq!(own.unwrap(), TokenScope::Admin);
        let other = gate.admit(Some(Peer::Unix { uid: 12345 }), &HeaderMap::new());
        assert_eq!(other.unwrap_err().status, 401);
    }

    #[test]
    fn without_tokens_only_loopback_names_and_no_web_pages() {
        let gate = gate(&[]);
        let by = |pairs: &[_]| gate.admit(None, &headers(pairs)).is_ok();
        for host in [
            "localhost",
            "localhost:7420",
            "127.0.0.1:1",
            "[::1]:7420",
            "127.9.9.9",
        ] {
            assert!(by(&[(header::HOST, host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7420",
            "10.0.0.1",
            "localhost.evil.example",
        ] {
            assert!(!by(&[(header::HOST, host)]), "{host}");
        }
        let local = (header::HOST, "127.0.0.1:7420");
        assert!(by(&[
            local.clone(),
            (header::ORIGIN, "http://127.0.0.1:7420")
        ]));
        assert!(!by(&[
            local.clone(),
            (header::ORIGIN, "http://evil.example")
        ]));
        assert!(!by(&[local, (header::ORIGIN, "null")]));
        let stranger = gate.admit(Some(Peer::Unix { uid: 12345 }), &HeaderMap::new());
        assert_eq!(stranger.unwrap_err().status, 403);
    }

    #[test]
    fn the_last_admin_stays() {
        let all = gate(&[TokenScope::Read, TokenScope::Admin]).credentials();
        let gate_open = gate(&[]);
        assert!(gate_open.check_remaining(&all).is_ok());
        assert!(gate_open.check_remaining(&all[..1]).is_err());
        assert!(gate_open.check_remaining(&[]).is_ok());
        let public = Gate::new(all, vec![], false);
        assert!(public.check_remaining(&[]).is_err());
    }
}
