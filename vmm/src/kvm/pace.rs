//! When the running task is stopped for others. Pure: whoever runs it says what time it is.
//!
//! A task that others wait for runs for [`TURN`]. One that time or a descriptor has woken need not wait so
//! long: it comes as soon as the running one has run as long as it did before it waited. So those that do
//! little are served soon, and those that compute have half of the processor at least. To find out whether a
//! descriptor is ready takes a look, for which the processor has to stop: soon after a task has begun to wait,
//! then ever more seldom.

use std::collections::BTreeMap;

use rustix::time::Timespec;

use crate::linux::Tid;

/// How long a task runs while others could.
const TURN: Timespec = milliseconds(10);
/// A task is not stopped sooner: less is not worth the exits.
const LEAST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000,
};

/// How soon to look again at a processor that was stopped inside the monitor's code.
const SOON: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000,
};

const fn milliseconds(count: i64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: count * 1_000_000,
    }
}

/// The turn of the running task.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: Timespec,
    /// When it is over, if others wait for theirs.
    end: Option<Timespec>,
    /// Tasks that were woken and have not run since: how long each ran before it waited.
    woken: BTreeMap<Tid, Timespec>,
    /// When descriptors are looked at next, and how long it was from the last time to then.
    look: Timespec,
    pause: Timespec,
    /// How many waits for descriptors had begun then.
    waits: u64,
    /// How long the processor had to get out of the monitor's code, if it was stopped there.
    grace: Option<Timespec>,
}

impl Pace {
    /// `task` begins to run.
    pub(super) fn begin(&mut self, task: Tid, now: Timespec) {
        self.began = now;
        self.end = None;
        self.woken.remove(&task);
    }

    /// How long the running task has run.
    pub(super) fn ran(&self, now: Timespec) -> Timespec {
        (now - self.began).max(Timespec::default())
    }

    /// Time or a descriptor has woken `task`, which had run for so long before it waited.
    pub(super) fn wake(&mut self, task: Tid, ran: Timespec) {
        self.woken.insert(task, ran.clamp(LEAST, TURN));
    }

    /// When the processor is to leave at the latest, now that those of `ready` could run. `waits` is how many
    /// waits for descriptors have begun by now, if one lasts.
    pub(super) fn next(
        &mut self,
        waits: Option<u64>,
        ready: impl Iterator<Item = Tid>,
        now: Timespec,
    ) -> Timespec {
        let end = *self.end.get_or_insert(now + TURN);
        // Who was woken for nothing waits again without having run.
        let ran = ready.filter_map(|task| self.woken.get(&task)).min();
        let soon = ran.map(|&ran| self.began + ran);
        if soon.is_none() {
            self.woken.clear();
        }
        let end = soon.map_or(end, |soon| soon.min(end));
        self.end = Some(end);
        let Some(waits) = waits else {
            return end;
        };
        if self.waits != waits {
            self.waits = waits;
            self.pause = LEAST;
            self.look = now + LEAST;
        }
        end.min(self.look)
    }

    /// Descriptors have been looked at.
    pub(super) fn looked(&mut self, now: Timespec) {
        if now >= self.look {
            self.pause = (self.pause + self.pause).clamp(LEAST, TURN);
            self.look = now + self.pause;
        }
    }

    /// When to look again at a processor that was stopped inside the monitor's code: each time in a row it
    /// has twice as long, or where it takes longer than that it would never get out.
    pub(super) fn stopped_inside(&mut self, now: Timespec) -> Timespec {
        let grace = self.grace.map_or(SOON, |grace| (grace + grace).min(TURN));
        self.grace = Some(grace);
        now + grace
    }

    /// The processor has got out of the monitor's code.
    pub(super) fn got_out(&mut self) {
        self.grace = None;
    }

    /// True, once, when the running task has had its turn.
    pub(super) fn is_over(&mut self, now: Timespec) -> bool {
        self.end.take_if(|end| *end <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of some time, in microseconds.
    fn at(microseconds: i64) -> Timespec {
        Timespec {
            tv_sec: 9,
            tv_nsec: microseconds * 1000,
        }
    }

    fn others() -> impl Iterator<Item = Tid> {
        1..4
    }

    fn us(microseconds: i64) -> Timespec {
        at(microseconds) - at(0)
    }

    #[test]
    fn a_turn_is_over_once_when_it_has_lasted() {
        let mut pace = Pace::default();
        pace.begin(1, at(0));
        assert!(!pace.is_over(at(90_000)), "nobody else was there");
        assert_eq!(pace.next(None, others(), at(100)), at(10_100));
        assert_eq!(pace.next(None, others(), at(5000)), at(10_100));
        assert!(!pace.is_over(at(10_099)));
        assert!(pace.is_over(at(10_100)));
        assert!(!pace.is_over(at(10_100)));
    }

    #[test]
    fn who_is_woken_waits_no_longer_than_it_ran() {
        let mut pace = Pace::default();
        pace.begin(1, at(0));
        pace.next(None, others(), at(0));
        pace.wake(2, us(3000));
        assert_eq!(pace.next(None, others(), at(1000)), at(3000));
        pace.wake(3, us(1));
        assert_eq!(
            pace.next(None, others(), at(1000)),
            at(200),
            "it is over already"
        );
        assert!(pace.is_over(at(1000)));
        // The third comes; the second still waits.
        pace.begin(3, at(1000));
        assert_eq!(pace.next(None, others(), at(1000)), at(4000));
        pace.begin(2, at(4000));
        assert_eq!(pace.next(None, others(), at(4000)), at(14_000));
        assert_eq!(pace.ran(at(4500)), us(500));
        pace.wake(1, us(900_000));
        assert_eq!(
            pace.next(None, others(), at(4000)),
            at(14_000),
            "a turn at the most"
        );
    }

    /// Else the processor would leave for ever before it has run anything.
    #[test]
    fn who_was_woken_for_nothing_ends_no_turn() {
        let mut pace = Pace::default();
        pace.begin(1, at(0));
        pace.wake(2, us(1));
        assert_eq!(pace.next(None, std::iter::empty(), at(1000)), at(11_000));
        assert_eq!(
            pace.next(None, others(), at(1000)),
            at(11_000),
            "it is forgotten"
        );
    }

    #[test]
    fn a_processor_inside_the_monitor_gets_ever_longer_to_get_out() {
        let mut pace = Pace::default();
        let times = |pace: &mut Pace| -> Vec<_> {
            (0..10)
                .map(|_| (pace.stopped_inside(at(0)) - at(0)).tv_nsec / 1000)
                .collect()
        };
        let doubled = [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(times(&mut pace), doubled);
        pace.got_out();
        assert_eq!(times(&mut pace), doubled);
    }

    #[test]
    fn descriptors_are_looked_at_soon_and_then_ever_more_seldom() {
        let mut pace = Pace::default();
        pace.begin(1, at(0));
        let mut looks = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            let next = pace.next(Some(1), others(), now);
            looks.push((next - now).tv_nsec / 1000);
            now = next;
            pace.looked(now);
            pace.is_over(now);
        }
        assert_eq!(looks, [200, 400, 800, 1600, 3200, 3800, 2600, 7400]);
        assert_eq!(
            pace.next(Some(2), others(), now),
            now + LEAST,
            "another waits"
        );
        pace.looked(now);
        assert_eq!(
            pace.next(Some(2), others(), now),
            now + LEAST,
            "too soon to count"
        );
    }
}
