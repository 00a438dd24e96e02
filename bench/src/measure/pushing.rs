//! Content that nobody has, and those who push it.

use std::thread;

use anyhow::{Context, Result};
use pool_api::announce;
use pool_api::client::{Client, PushOptions};
use pool_tests::host::Host;

/// Fills `bytes` with what nothing else has, each `seed` with its own.
pub(crate) fn fresh(seed: &[u64], bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    for number in seed {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize_xof().fill(bytes);
}

/// One who asks the host's service.
pub(crate) fn client(host: &Host) -> Result<Client> {
    Ok(Client::new(host.server().parse()?, None))
}

/// Pushes `content` as the library version `name`.
pub(crate) fn push_library(client: &Client, content: &[u8], name: &str) -> Result<()> {
    let announcement = announce::library(content, name.parse()?);
    client.push(&announcement, PushOptions::default(), &|_, _| ())?;
    Ok(())
}

/// Has as many `writers` at once do `work`, each told its number.
pub(crate) fn at_once(writers: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || work(writer)))
            .collect();
        threads.into_iter().try_for_each(joined)
    })
}

/// What a thread comes to.
pub(crate) fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let ended = thread.join().ok();
    ended.context("a thread panicked")?
}
