//! Tests of a real poolsvc: started, asked, stopped, killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod conditions;
mod daemon;
mod edges;
mod json;
mod obstacles;
mod openapi;
mod routes;
mod slow;
mod uploads;
