//! Tests of a real poolsvc: started, asked, stopped, killed.

mod common;
mod daemon;
mod http;
