//! The pool over HTTP: what is said ([`types`]), how the service answers ([`routes`]), and the
//! client that programs use ([`client`]).
//!
//! An upload is a negotiation: the client announces objects as lists of page digests, the
//! service answers which pages it lacks, the client sends those and commits. [`announce`] makes
//! such announcements from files, for the client and for the routes that take a whole file.
//!
//! Everything that touches the store runs on threads that may block ([`service::Service`]); the
//! routes only speak HTTP.

pub mod announce;
pub mod auth;
mod body;
pub mod client;
mod collector;
mod conditions;
mod copies;
mod host;
mod json;
pub mod metrics;
mod openapi;
pub mod pace;
mod paths;
pub mod problem;
mod query;
mod records;
pub mod routes;
mod schemas;
mod scrubs;
pub mod service;
mod shape;
pub mod types;
mod uploads;
pub mod wire;

pub use pool_gc::Cause;
pub use problem::Problem;
pub use service::{Limits, Service, ServiceOptions};
