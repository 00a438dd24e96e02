//! Tests of a real poolsvc: started, asked, stopped, killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod collections;
mod common;
mod conditions;
mod daemon;
mod edges;
mod json;
mod leaving_out;
mod obstacles;
mod openapi;
mod quotas;
mod routes;
mod scrubs;
mod slow;
#[path = "../../../store/tests/common/mod.rs"]
mod store;
mod uploads;
