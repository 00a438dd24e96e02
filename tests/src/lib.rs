//! What end-to-end tests, the demo and the benchmarks stand on: a pool of their own (a real
//! poolsvc, a real mount), real guest programs linked against real libraries, and runs of them.

pub mod guests;
pub mod host;
pub mod requirements;
pub mod run;
