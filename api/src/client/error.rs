//! What can go wrong when a service is asked.

use std::time::Duration;

use pool_core::digest::{ObjectId, PageId};
use pool_core::name::Referent;
use thiserror::Error;

use crate::problem::ProblemBody;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The service could not be asked, or its answer did not arrive.
    #[error(
        "asking {server} failed: check that poolsvc runs there, or name another one with \
         --server or POOL_SERVER"
    )]
    Connection {
        /// The service.
        server: String,
        /// What the connection met.
        source: Box<ureq::Error>,
    },
    /// Whoever answered cannot prove who it is.
    #[error(
        "{server} shows a certificate that is not accepted here: if its authority is one of the house's \
         own, name that one's with --cacert or SSL_CERT_FILE"
    )]
    Untrusted {
        /// Who answered.
        server: String,
        /// What is wrong with the certificate.
        source: Box<ureq::Error>,
    },
    /// The service is there, and neither says nor takes anything.
    #[error(
        "{server} has been silent for {seconds} seconds: look whether it still works, or wait longer \
         with --timeout"
    )]
    Silent {
        /// The service.
        server: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The service refused.
    #[error("{}{}", .body.detail, hint(.body))]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        body: Box<ProblemBody>,
        /// When it wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// Whatever answered is not a pool service.
    #[error("{server} does not answer as a pool service does (status {status}): {why}")]
    Strange {
        /// Who answered.
        server: String,
        /// HTTP status.
        status: u16,
        /// What is strange.
        why: String,
    },
    /// The service asks for what is no page of the file: it made the digest itself, from what it has.
    #[error(
        "the service asks for page {0}, which is no page of what is pushed: look whether its store is sound \
         (pool fsck --content)"
    )]
    NotAnnounced(PageId),
    /// What arrived is not what its digest says.
    #[error(
        "{server} sends something else than {expected}, with digest {found}: look whether its store is sound \
         (pool fsck --content)"
    )]
    Damaged {
        /// Who sent it.
        server: String,
        /// What was asked for.
        expected: ObjectId,
        /// What arrived.
        found: ObjectId,
    },
    /// Content ended before its end.
    #[error(
        "{server} cut off what it sent: look at its log, and whether its store is sound (pool fsck --content)"
    )]
    CutOff {
        /// Who sent it.
        server: String,
        /// What the connection met.
        source: Box<ureq::Error>,
    },
    /// Nothing has the name, or has no content.
    #[error("{0} has no content to fetch: pool why tells what needs it")]
    NoContent(Referent),
    /// A collection took pages away as fast as they were sent.
    #[error("the upload of {0} was overtaken by collections again and again: try again later")]
    Overtaken(String),
}

fn hint(body: &ProblemBody) -> String {
    body.hint
        .as_ref()
        .map_or_else(String::new, |hint| format!("; {hint}"))
}

/// A text that should hold certificates, and does not.
#[derive(Debug, Error)]
#[error("no certificate in PEM form, or a spoilt one")]
pub struct NoCertificates(#[source] pub(super) Option<ureq::Error>);

/// A result whose error is a [`ClientError`].
pub type Result<T> = std::result::Result<T, ClientError>;
