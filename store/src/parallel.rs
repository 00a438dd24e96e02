//! Work on many things at a time, by a thread for each processor.

use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::thread;

/// Content from which on hashing is worth a thread for each processor.
const WORTH_THREADS: usize = 4 << 20;

/// Threads that so many bytes are worth.
pub(crate) fn threads_for(bytes: usize) -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    if bytes < WORTH_THREADS {
        1
    } else {
        // It reads several files to find out.
        *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
    }
}

/// What `work` makes of parts of `items`, one for each thread, in their order.
pub(crate) fn in_parts<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let mut parts = items.chunks(items.len().div_ceil(threads).max(1));
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| {
                let thread = thread::Builder::new().spawn_scoped(scope, move || work(part));
                (part, thread)
            })
            .collect();
        let mut made = work(first);
        for (part, thread) in others {
            made.extend(match thread {
                // Should it panic, that goes on here.
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // As many as there can be.
                Err(_) => work(part),
            });
        }
        made
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_in_their_order() {
        for count in [0, 1, 2, 7, 100] {
            let items: Vec<u32> = (0..count).collect();
            for threads in [1, 2, 3, 8] {
                let made = in_parts(&items, threads, |part| {
                    part.iter().map(|item| item + 1).collect()
                });
                let expected: Vec<_> = (1..=count).collect();
                assert_eq!(made, expected, "{count} items, {threads} threads");
            }
        }
    }
}
