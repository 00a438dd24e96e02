//! Sending by several requests at a time: by as many as all who send share.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Counts the requests that send at the moment, of all pushes that a client and its clones have under way. Files side by
/// side keep the service busy by one request each; more only take turns on processors. One that is alone needs several.
#[derive(Debug, Default)]
pub(super) struct Senders(AtomicUsize);

/// One of them, until it is dropped.
struct Sender<'a>(&'a Senders);

impl Senders {
    /// One more, however many there are: whoever has something to send has one.
    fn first(&self) -> Sender<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Sender(self)
    }

    /// One more, if there are fewer than `most`.
    fn another(&self, most: usize) -> Option<Sender<'_>> {
        let one_more = |count: usize| (count < most).then_some(count + 1);
        let counted = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok().map(|_| Sender(self))
    }
}

impl Sender<'_> {
    /// True when others have begun since, and there are more than `most`.
    fn is_too_many(&self, most: usize) -> bool {
        self.0.0.load(Ordering::Relaxed) > most
    }
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has `send` send each of `items`, several at a time as long as there are no more than `most` of all `senders`, and always
/// one. The first failure ends all.
pub(super) fn send_all<T: Sync, E: Send>(
    senders: &Senders,
    most: usize,
    items: &[T],
    send: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let has_failed = AtomicBool::new(false);
    // False when there is nothing left.
    let send_next = || {
        if has_failed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return Ok(false);
        };
        let sent = send(item);
        has_failed.fetch_or(sent.is_err(), Ordering::Relaxed);
        sent.map(|()| true)
    };
    let has_more_than_one = || next.load(Ordering::Relaxed) + 1 < items.len();
    thread::scope(|scope| {
        let _first = senders.first();
        let mut others = Vec::new();
        let mut result = loop {
            // As many as there is room for by now: other pushes may have ended.
            while has_more_than_one()
                && let Some(sender) = senders.another(most)
            {
                let send_next = &send_next;
                others.push(scope.spawn(move || {
                    while !sender.is_too_many(most) && send_next()? {}
                    Ok(())
                }));
            }
            match send_next() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Barrier, Mutex};
    use std::thread::ThreadId;

    use super::*;

    /// Sends `items`, and answers with those that were sent and by how many threads.
    fn sent(
        senders: &Senders,
        most: usize,
        items: &[usize],
        send: impl Fn(usize) -> Result<(), String> + Sync,
    ) -> (Result<(), String>, Vec<usize>, usize) {
        let done: Mutex<Vec<(usize, ThreadId)>> = Mutex::default();
        let result = send_all(senders, most, items, |item| {
            done.lock().unwrap().push((*item, thread::current().id()));
            send(*item)
        });
        assert_eq!(senders.0.load(Ordering::Relaxed), 0);
        let mut done = done.into_inner().unwrap();
        done.sort_unstable_by_key(|(item, _)| *item);
        let threads: HashSet<_> = done.iter().map(|(_, thread)| *thread).collect();
        let items = done.into_iter().map(|(item, _)| item);
        (result, items.collect(), threads.len())
    }

    #[test]
    fn who_is_alone_sends_by_several_requests() {
        let items: Vec<_> = (0..12).collect();
        let together = Barrier::new(3);
        let (result, done, threads) = sent(&Senders::default(), 3, &items, |_| {
            together.wait();
            Ok(())
        });
        assert_eq!((result, done, threads), (Ok(()), items, 3));
        for items in [&[][..], &[7]] {
            let (result, done, threads) = sent(&Senders::default(), 3, items, |_| Ok(()));
            let threads_of_one = usize::from(!items.is_empty());
            assert_eq!(
                (result, &done[..], threads),
                (Ok(()), items, threads_of_one)
            );
        }
    }

    #[test]
    fn side_by_side_each_sends_by_one() {
        let (senders, items) = (Senders::default(), [1, 2, 3, 4, 5]);
        let (begun, over) = (Barrier::new(3), Barrier::new(3));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let sender = senders.first();
                    begun.wait();
                    over.wait();
                    drop(sender);
                });
            }
            begun.wait();
            for most in 0..3 {
                let by: Mutex<HashSet<ThreadId>> = Mutex::default();
                send_all(&senders, most, &items, |_| {
                    by.lock().unwrap().insert(thread::current().id());
                    Ok::<_, ()>(())
                })
                .unwrap();
                assert_eq!(by.into_inner().unwrap().len(), 1);
            }
            over.wait();
        });
    }

    #[test]
    fn what_others_leave_is_used_and_what_they_need_is_left_to_them() {
        let senders = Senders::default();
        let others = Mutex::new(vec![senders.first()]);
        let together = Barrier::new(2);
        let by: Mutex<Vec<ThreadId>> = Mutex::default();
        send_all(&senders, 2, &[0, 1, 2, 3, 4, 5, 6], |item| {
            by.lock().unwrap().push(thread::current().id());
            match item {
                // The other one ends, and then two begin.
                0 => drop(others.lock().unwrap().pop()),
                1 | 2 => {
                    together.wait();
                    let begun = [senders.first(), senders.first()];
                    others.lock().unwrap().extend(begun);
                    together.wait();
                }
                _ => {}
            }
            Ok::<_, ()>(())
        })
        .unwrap();
        drop(others);
        let by = by.into_inner().unwrap();
        let first = thread::current().id();
        assert_eq!(by.len(), 7);
        assert_eq!(by[0], first);
        assert_ne!(by[1], by[2]);
        assert_eq!(by[3..], [first; 4]);
    }

    #[test]
    fn the_first_failure_ends_all() {
        let fails = |item| match item {
            2 => Err("it is lost".to_owned()),
            _ => Ok(()),
        };
        let items = [0, 1, 2, 3, 4];
        let (result, done, threads) = sent(&Senders::default(), 1, &items, fails);
        assert_eq!(result, Err("it is lost".into()));
        assert_eq!((&done[..], threads), (&[0, 1, 2][..], 1));
        let together = Barrier::new(3);
        let (result, done, _) = sent(&Senders::default(), 3, &[0, 1, 2], |item| {
            together.wait();
            fails(item)
        });
        assert_eq!(result, Err("it is lost".into()));
        assert_eq!(done, [0, 1, 2]);
    }
}
