//! Who waits for which word, and who owns it. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::super::scheduler::Tid;
use crate::memory::FilePlace;

/// A word that can be waited for, whatever address it is used by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Word {
    /// At this address.
    At(u64),
    /// Of a file, at this place.
    Of(FilePlace),
}

/// A task that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) task: Tid,
    pub(super) bits: u32,
    /// Waits to own the word, rather than for a change.
    pub(super) owns: bool,
}

/// Who owns a word, and an address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) task: Tid,
    pub(super) address: u64,
}

/// Who waits for what, first come first; and who owns the words that are waited for to be owned, whatever
/// programs have made of them since (`struct futex_pi_state`).
#[derive(Debug, Default)]
pub(in super::super) struct Futexes {
    queues: BTreeMap<Word, VecDeque<Waiter>>,
    owners: BTreeMap<Word, Owner>,
}

impl Futexes {
    /// Has one more wait for `word`.
    pub(super) fn add(&mut self, word: Word, waiter: Waiter) {
        self.queues.entry(word).or_default().push_back(waiter);
    }

    /// Takes at most `count` of those that wait for one of `bits` of `word`, rather than to own it.
    pub(super) fn take(&mut self, word: Word, count: u64, bits: u32) -> Vec<Waiter> {
        let mut taken = Vec::new();
        let Some(queue) = self.queues.get_mut(&word) else {
            return taken;
        };
        queue.retain(|waiter| {
            let awaits = !waiter.owns && waiter.bits & bits != 0;
            let takes = (taken.len() as u64) < count && awaits;
            if takes {
                taken.push(*waiter);
            }
            !takes
        });
        if queue.is_empty() {
            self.queues.remove(&word);
        }
        taken
    }

    /// Takes the first that waits to own `word`, which is its own then.
    pub(super) fn take_owner(&mut self, word: Word) -> Option<Tid> {
        let queue = self.queues.get(&word)?;
        let task = queue.iter().find(|waiter| waiter.owns)?.task;
        self.remove(word, task);
        if let Some(owner) = self.owners.get_mut(&word) {
            owner.task = task;
        }
        Some(task)
    }

    /// The words that `task` owns and others wait to own, each with an address of it.
    pub(super) fn owned_by(&self, task: Tid) -> Vec<(Word, u64)> {
        let owned = self.owners.iter().filter(|(_, owner)| owner.task == task);
        owned.map(|(&word, owner)| (word, owner.address)).collect()
    }

    /// Says who owns `word`, if nobody knows.
    pub(super) fn know_owner(&mut self, word: Word, owner: Owner) {
        self.owners.entry(word).or_insert(owner);
    }

    /// Whose word `task` waits to own, if it waits for `word`.
    pub(super) fn awaited_owner(&self, task: Tid, word: Word) -> Option<Tid> {
        let mut queue = self.queues.get(&word)?.iter();
        let owner = self.owners.get(&word)?.task;
        let waits = queue.any(|waiter| waiter.owns && waiter.task == task);
        waits.then_some(owner)
    }

    /// `task` does not wait for `word` any more.
    pub(super) fn remove(&mut self, word: Word, task: Tid) {
        if let Some(queue) = self.queues.get_mut(&word) {
            queue.retain(|waiter| waiter.task != task);
            if queue.is_empty() {
                self.queues.remove(&word);
            }
        }
        if !self.is_owned(word) {
            self.owners.remove(&word);
        }
    }

    /// True if somebody waits for `word`.
    pub(super) fn is_awaited(&self, word: Word) -> bool {
        self.queues.contains_key(&word)
    }

    /// True if somebody waits to own it.
    pub(super) fn is_owned(&self, word: Word) -> bool {
        let queue = self.queues.get(&word);
        queue.is_some_and(|queue| queue.iter().any(|waiter| waiter.owns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: u32 = u32::MAX;
    const WORD: Word = Word::At(8);

    fn waiter(task: Tid, bits: u32) -> Waiter {
        Waiter {
            task,
            bits,
            owns: false,
        }
    }

    fn to_own(task: Tid) -> Waiter {
        Waiter {
            owns: true,
            ..waiter(task, ANY)
        }
    }

    fn owner(task: Tid) -> Owner {
        Owner { task, address: 8 }
    }

    #[test]
    fn waiters_are_taken_in_order_by_their_bits() {
        let mut futexes = Futexes::default();
        for (task, bits) in [(1, 1), (2, 2), (3, 3), (4, 2)] {
            futexes.add(WORD, waiter(task, bits));
        }
        let tasks = |taken: Vec<Waiter>| taken.iter().map(|w| w.task).collect::<Vec<_>>();
        assert_eq!(tasks(futexes.take(WORD, 2, 2)), [2, 3]);
        assert_eq!(futexes.take(Word::At(12), 9, ANY), []);
        assert_eq!(futexes.take(WORD, 0, ANY), []);
        assert_eq!(tasks(futexes.take(WORD, 9, ANY)), [1, 4]);
        assert!(!futexes.is_awaited(WORD));
    }

    #[test]
    fn a_word_is_handed_to_who_waits_to_own_it() {
        let mut futexes = Futexes::default();
        futexes.add(WORD, waiter(1, ANY));
        for task in [2, 3] {
            futexes.add(WORD, to_own(task));
        }
        futexes.owners.insert(WORD, owner(7));
        assert_eq!(futexes.owned_by(7), [(WORD, 8)]);
        assert_eq!(futexes.take_owner(WORD), Some(2));
        assert!(futexes.owned_by(7).is_empty());
        assert_eq!(futexes.owned_by(2), [(WORD, 8)]);
        assert_eq!(futexes.take_owner(WORD), Some(3));
        assert!(futexes.owners.is_empty(), "nobody waits to own it");
        assert_eq!(futexes.take_owner(WORD), None);
        assert!(futexes.is_awaited(WORD) && !futexes.is_owned(WORD));
    }

    #[test]
    fn who_waits_to_own_a_word_is_not_woken_without_it() {
        let mut futexes = Futexes::default();
        futexes.add(WORD, to_own(1));
        futexes.add(WORD, waiter(2, ANY));
        futexes.owners.insert(WORD, owner(3));
        assert_eq!(futexes.take(WORD, 9, ANY), [waiter(2, ANY)]);
        assert_eq!(futexes.awaited_owner(1, WORD), Some(3));
        assert_eq!(futexes.awaited_owner(2, WORD), None);
        assert_eq!(futexes.awaited_owner(1, Word::At(16)), None);
    }

    #[test]
    fn whoever_leaves_is_not_taken() {
        let mut futexes = Futexes::default();
        futexes.add(WORD, waiter(1, ANY));
        futexes.add(WORD, waiter(2, ANY));
        futexes.remove(WORD, 1);
        futexes.remove(Word::At(16), 2);
        assert_eq!(futexes.take(WORD, 9, ANY), [waiter(2, ANY)]);
        let nothing = futexes.queues.is_empty() && futexes.owners.is_empty();
        assert!(nothing, "nothing is left of a word");
    }
}
