//! How many files this process may have open, and how many of them may be connections.

use rustix::process::{Resource, getrlimit};

/// Connections at a time, however many files may be open.
const MOST_CONNECTIONS: u64 = 1024;

/// Connections that may be open at a time; those beyond wait in the kernel's queue.
pub(crate) fn connections() -> usize {
    connections_of(getrlimit(Resource::Nofile).current)
}

/// With its upload a connection has two files; half of all are the store's, whatever clients do.
fn connections_of(limit: Option<u64>) -> usize {
    limit.map_or(MOST_CONNECTIONS, |files| {
        (files / 4).clamp(1, MOST_CONNECTIONS)
    }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_are_the_stores() {
        for (limit, connections) in [
            (None, 1024),
            (Some(524_288), 1024),
            (Some(1024), 256),
            (Some(3), 1),
        ] {
            assert_eq!(connections_of(limit), connections, "{limit:?}");
        }
    }
}
