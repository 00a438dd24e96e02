//! Makes a directory of the shape of a mounted pool from static executables, to try `poolvmm`
//! without a store: `test_pool DIRECTORY dense|sparse NAME=ELF...`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

use support::{Placement, TestPool};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(placement)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: test_pool DIRECTORY dense|sparse NAME=ELF...");
        std::process::exit(2);
    };
    let placement = match placement.as_str() {
        "dense" => Placement::Dense,
        _ => Placement::Sparse,
    };
    let mut pool = TestPool::new(Path::new(&root));
    for argument in arguments {
        if let Some((name, path)) = argument.split_once('=') {
            let map = pool.add(Path::new(path), name, placement);
            println!("{name}:v1 {} ranges", map.description.ranges.len());
        }
    }
}
