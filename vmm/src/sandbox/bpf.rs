//! What a process may ask of the kernel, as the program that a seccomp filter is.
//!
//! A [`Policy`] gives each call a [`Rule`]; [`Policy::program`] turns it into classic BPF. The kernel
//! tries every call number against a filter when it is installed, and most calls of a process run
//! through it, so the program is a balanced tree over ranges of numbers: six or seven comparisons,
//! where a list takes one for each call that is allowed.
//!
//! Format: `linux/filter.h` and `linux/seccomp.h`; `struct seccomp_data` is the packet.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
    BPF_W, sock_filter,
};

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: calls of 32-bit code have another value.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Rules and instructions for which there is room from the start: what grows leaves the heap of every
/// guest in pieces.
const MOST_RULES: usize = 512;
const MOST_INSTRUCTIONS: usize = 1024;
/// Verdicts that a program has.
const MOST_ENDS: usize = 16;
/// More than the tests of all rules take. The C library keeps such small pieces when they are freed, so they must not
/// lie behind the room for rules, where each would keep a page for as long as the guest runs.
const TESTS_BYTES: usize = 8 << 10;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The kernel serves it.
    Allow,
    /// It fails.
    Errno(i32),
    /// The tracer is asked; without one it fails with `ENOSYS`.
    Trace,
    /// The tracer is told that it is to fail so, and notes it.
    Refused(i32),
    /// It waits for whoever listens at the filter.
    Wait,
    /// The process ends with SIGSYS.
    Kill,
}

/// A condition on an argument (0 to 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// The lower half, which is all that the kernel looks at where it takes an `int`.
    Equals(u32, u32),
    /// The bits of the lower half that `mask` (second) selects are `value` (third).
    Masked(u32, u32, u32),
    /// The lower half is between two numbers, both included.
    Between(u32, u32, u32),
    /// The whole of it, a pointer, is null.
    Null(u32),
}

/// What becomes of one call: the first case all of whose tests hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// How many tests each has.
    cases: Vec<(usize, Verdict)>,
    /// The tests of all, one after the other.
    tests: Vec<Test>,
    otherwise: Verdict,
}

impl From<Verdict> for Rule {
    fn from(verdict: Verdict) -> Self {
        Self {
            cases: Vec::new(),
            tests: Vec::new(),
            otherwise: verdict,
        }
    }
}

impl Rule {
    /// `otherwise`, with room for `cases` of `tests` tests each.
    pub(super) fn with_room(otherwise: Verdict, cases: usize, tests: usize) -> Self {
        Self {
            cases: Vec::with_capacity(cases),
            tests: Vec::with_capacity(cases * tests),
            otherwise,
        }
    }

    /// `verdict` if all of `tests` hold and no case before does.
    #[must_use]
    pub(super) fn unless(mut self, tests: &[Test], verdict: Verdict) -> Self {
        self.cases.push((tests.len(), verdict));
        self.tests.extend_from_slice(tests);
        self
    }

    /// Allowed if `argument` is one of `values`, otherwise `verdict`.
    pub(super) fn one_of(argument: u32, values: &[u32], verdict: Verdict) -> Self {
        let equals = values.iter().map(|&value| Test::Equals(argument, value));
        Self {
            cases: vec![(1, Verdict::Allow); values.len()],
            tests: equals.collect(),
            otherwise: verdict,
        }
    }

    /// Adds what decides, and says where it begins.
    fn write(&self, code: &mut Code) -> Label {
        // Where a case leads that does not hold, and one whose first test does not.
        let mut next = code.end(self.otherwise);
        let mut skip = next;
        let mut end = self.tests.len();
        for (nth, &(count, verdict)) in self.cases.iter().enumerate().rev() {
            let start = end - count;
            let before = nth.checked_sub(1).map(|nth| self.cases[nth].0);
            let before = before.map(|count| &self.tests[start - count..start]);
            let mut entry = code.end(verdict);
            for &test in self.tests[start..end].iter().skip(1).rev() {
                entry = code.test(test, false, entry, next);
            }
            next = entry;
            let first = self.tests[start..end].first();
            // Where the case before makes the same test, it gets here when that holds.
            if first.is_none() || first != before.and_then(<[Test]>::first) {
                if let Some(&first) = first {
                    let loaded = before.is_some_and(|before| is_loaded(before, first));
                    next = code.test(first, loaded, entry, skip);
                }
                skip = next;
            }
            end = start;
        }
        next
    }
}

/// Whoever gets to `test` because `before` did not hold has its argument loaded.
fn is_loaded(before: &[Test], test: Test) -> bool {
    matches!((before, test), (&[Test::Equals(had, _)], Test::Equals(argument, _)) if had == argument)
}

/// What becomes of every call of x86-64; a process that calls in another way is ended.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// By call; of two for the same the later one counts.
    rules: Vec<(u32, Rule)>,
    otherwise: Rule,
}

impl Policy {
    /// `otherwise` for every call.
    pub(super) fn new(otherwise: Verdict) -> Self {
        let for_tests = std::hint::black_box(Vec::<u8>::with_capacity(TESTS_BYTES));
        let rules = Vec::with_capacity(MOST_RULES);
        drop(for_tests);
        Self {
            rules,
            otherwise: otherwise.into(),
        }
    }

    /// `rule` for the call `number`.
    pub(super) fn set(&mut self, number: u32, rule: impl Into<Rule>) {
        self.rules.push((number, rule.into()));
    }

    /// The filter.
    pub(super) fn program(&self) -> Vec<sock_filter> {
        let mut code = Code {
            ends: Vec::with_capacity(MOST_ENDS),
            reversed: Vec::with_capacity(MOST_INSTRUCTIONS),
        };
        let decide = code.tree(&self.ranges());
        let start = code.after(load(NUMBER), decide);
        let kill = code.end(Verdict::Kill);
        code.branch(BPF_JEQ, AUDIT_ARCH_X86_64, start, kill);
        code.push(load(ARCHITECTURE));
        code.reversed.reverse();
        code.reversed
    }

    /// First number of each run of calls with the same rule, in order, from zero.
    fn ranges(&self) -> Vec<(u32, &Rule)> {
        let mut rules = Vec::with_capacity(MOST_RULES);
        rules.extend(&self.rules);
        rules.sort_by_key(|(number, _)| *number);
        rules.dedup_by(|later, rule| {
            let same = later.0 == rule.0;
            if same {
                *rule = *later;
            }
            same
        });
        let mut ranges = Vec::with_capacity(2 * MOST_RULES);
        ranges.push((0, &self.otherwise));
        let mut add = |number, rule| match ranges.last_mut() {
            Some((first, last)) if *first == number => *last = rule,
            Some((_, last)) if *last == rule => {}
            _ => ranges.push((number, rule)),
        };
        for (number, rule) in rules {
            add(*number, rule);
            add(number + 1, &self.otherwise);
        }
        // A range whose first number took over the rule before it goes on from there.
        ranges.dedup_by(|next, last| next.1 == last.1);
        ranges
    }
}

/// A program that is written from its end on: what is jumped to is there already, and equal ends are there once
/// as long as they can be reached. The kernel takes a fifth of a microsecond for each instruction.
#[derive(Debug)]
struct Code {
    reversed: Vec<sock_filter>,
    /// The last end for each verdict.
    ends: Vec<(Verdict, Label)>,
}

/// An instruction's place in [`Code::reversed`].
type Label = usize;

impl Code {
    /// Conditional jumps reach 255 instructions; a few may be put between.
    const REACH: usize = 250;

    /// Adds an instruction before all others.
    fn push(&mut self, instruction: sock_filter) -> Label {
        self.reversed.push(instruction);
        self.reversed.len() - 1
    }

    /// Instructions between the next to be added and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label
    }

    fn end(&mut self, verdict: Verdict) -> Label {
        let known = self.ends.iter().position(|(known, _)| *known == verdict);
        if let Some(at) = known
            && self.distance(self.ends[at].1) <= Self::REACH
        {
            return self.ends[at].1;
        }
        let label = self.push(end(verdict));
        match known {
            Some(at) => self.ends[at].1 = label,
            None => self.ends.push((verdict, label)),
        }
        label
    }

    /// Adds an instruction that `next` follows.
    fn after(&mut self, instruction: sock_filter, next: Label) -> Label {
        if self.distance(next) > 0 {
            self.push(jump_always(self.distance(next)));
        }
        self.push(instruction)
    }

    /// Adds a condition on what was loaded.
    fn branch(&mut self, condition: u32, k: u32, yes: Label, no: Label) -> Label {
        let [yes, no] = [yes, no].map(|label| match self.distance(label) {
            ..=Self::REACH => label,
            distance => self.push(jump_always(distance)),
        });
        let (yes, no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(jump(condition, k, yes, no))
    }

    /// Adds a test. `loaded`: its argument has been loaded.
    fn test(&mut self, test: Test, loaded: bool, yes: Label, no: Label) -> Label {
        let (argument, entry) = match test {
            Test::Equals(argument, value) => (argument, self.branch(BPF_JEQ, value, yes, no)),
            Test::Masked(argument, mask, value) => {
                let equal = self.branch(BPF_JEQ, value, yes, no);
                let masked = instruction(BPF_ALU | BPF_AND | BPF_K, mask);
                (argument, self.after(masked, equal))
            }
            Test::Between(argument, first, last) => {
                let not_above = self.branch(BPF_JGT, last, no, yes);
                (argument, self.branch(BPF_JGE, first, not_above, no))
            }
            Test::Null(argument) => {
                let upper = self.branch(BPF_JEQ, 0, yes, no);
                let upper = self.after(load(ARGUMENTS + 8 * argument + 4), upper);
                (argument, self.branch(BPF_JEQ, 0, upper, no))
            }
        };
        if loaded {
            return entry;
        }
        self.after(lower(argument), entry)
    }

    /// Adds what finds the range that holds the number, which has been loaded.
    fn tree(&mut self, ranges: &[(u32, &Rule)]) -> Label {
        match ranges {
            [] => self.end(Verdict::Kill),
            [(_, rule)] => rule.write(self),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let first = high[0].0;
                let (high, low) = (self.tree(high), self.tree(low));
                self.branch(BPF_JGE, first, high, low)
            }
        }
    }
}

fn lower(argument: u32) -> sock_filter {
    load(ARGUMENTS + 8 * argument)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let jump = instruction(BPF_JMP | condition | BPF_K, k);
    sock_filter { jt, jf, ..jump }
}

fn jump_always(distance: usize) -> sock_filter {
    instruction(BPF_JMP | BPF_JA, distance as u32)
}

fn end(verdict: Verdict) -> sock_filter {
    let value = match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(error) => libc::SECCOMP_RET_ERRNO | error as u32,
        Verdict::Trace => libc::SECCOMP_RET_TRACE,
        Verdict::Refused(error) => libc::SECCOMP_RET_TRACE | error as u32,
        Verdict::Wait => libc::SECCOMP_RET_USER_NOTIF,
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    instruction(BPF_RET | BPF_K, value)
}

#[cfg(test)]
pub(super) mod tests;
