//! What a process may ask of the kernel, as the program that a seccomp filter is.
//!
//! A [`Policy`] gives each call a [`Rule`]; [`Policy::program`] turns it into classic BPF. The kernel
//! tries every call number against a filter when it is installed, and most calls of a process run
//! through it, so the program is a balanced tree over ranges of numbers: six or seven comparisons,
//! where a list takes one for each call that is allowed.
//!
//! Format: `linux/filter.h` and `linux/seccomp.h`; `struct seccomp_data` is the packet.

use std::collections::BTreeMap;

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
    cases: Vec<(Vec<Test>, Verdict)>,
    otherwise: Verdict,
}

impl From<Verdict> for Rule {
    fn from(verdict: Verdict) -> Self {
        Self {
            cases: Vec::new(),
            otherwise: verdict,
        }
    }
}

impl Rule {
    /// `verdict` if all of `tests` hold and no case before does.
    #[must_use]
    pub(super) fn unless(mut self, tests: &[Test], verdict: Verdict) -> Self {
        self.cases.push((tests.to_vec(), verdict));
        self
    }

    /// Allowed if `argument` is one of `values`, otherwise `verdict`.
    pub(super) fn one_of(argument: u32, values: &[u32], verdict: Verdict) -> Self {
        let equals = |rule: Self, &value: &u32| {
            rule.unless(&[Test::Equals(argument, value)], Verdict::Allow)
        };
        values.iter().fold(verdict.into(), equals)
    }

    fn code(&self) -> Vec<sock_filter> {
        let cases = self.cases.iter();
        let mut code: Vec<_> = cases
            .flat_map(|(tests, verdict)| case(tests, *verdict))
            .collect();
        code.push(end(self.otherwise));
        code
    }
}

/// What becomes of every call of x86-64; a process that calls in another way is ended.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    rules: BTreeMap<u32, Rule>,
    otherwise: Verdict,
}

impl Policy {
    /// `otherwise` for every call.
    pub(super) fn new(otherwise: Verdict) -> Self {
        Self {
            rules: BTreeMap::new(),
            otherwise,
        }
    }

    /// `rule` for the call `number`.
    pub(super) fn set(&mut self, number: u32, rule: impl Into<Rule>) {
        self.rules.insert(number, rule.into());
    }

    /// The filter.
    pub(super) fn program(&self) -> Vec<sock_filter> {
        let mut program = vec![
            load(ARCHITECTURE),
            jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
            end(Verdict::Kill),
            load(NUMBER),
        ];
        program.extend(tree(&self.ranges()));
        program
    }

    /// First number of each run of calls with the same code, in order, from zero.
    fn ranges(&self) -> Vec<(u32, Vec<sock_filter>)> {
        let others = Rule::from(self.otherwise);
        let mut ranges: Vec<(u32, &Rule)> = vec![(0, &others)];
        let mut add = |number, rule| match ranges.last_mut() {
            Some((first, last)) if *first == number => *last = rule,
            Some((_, last)) if *last == rule => {}
            _ => ranges.push((number, rule)),
        };
        for (&number, rule) in &self.rules {
            add(number, rule);
            add(number + 1, &others);
        }
        // A range whose first number took over the rule before it goes on from there.
        ranges.dedup_by(|next, last| next.1 == last.1);
        let with_code = |(number, rule): (u32, &Rule)| (number, rule.code());
        ranges.into_iter().map(with_code).collect()
    }
}

/// Finds the range that holds the number, which has been loaded.
fn tree(ranges: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    match ranges {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (first, low) = (high[0].0, tree(low));
            let mut code = match u8::try_from(low.len()) {
                Ok(distance) => vec![jump(BPF_JGE, first, distance, 0)],
                // Conditional jumps reach 255 instructions.
                Err(_) => vec![jump(BPF_JGE, first, 0, 1), jump_always(low.len())],
            };
            code.extend(low);
            code.extend(tree(high));
            code
        }
    }
}

/// Ends with `verdict` if all of `tests` hold, else goes on behind.
fn case(tests: &[Test], verdict: Verdict) -> Vec<sock_filter> {
    let mut code = vec![end(verdict)];
    for &test in tests.iter().rev() {
        // A rule has few tests of three or four instructions each: the distance fits.
        let past = code.len() as u8;
        let mut test = match test {
            Test::Equals(argument, value) => vec![lower(argument), jump(BPF_JEQ, value, 0, past)],
            Test::Masked(argument, mask, value) => vec![
                lower(argument),
                instruction(BPF_ALU | BPF_AND | BPF_K, mask),
                jump(BPF_JEQ, value, 0, past),
            ],
            Test::Between(argument, first, last) => vec![
                lower(argument),
                jump(BPF_JGE, first, 0, past + 1),
                jump(BPF_JGT, last, past, 0),
            ],
            Test::Null(argument) => vec![
                lower(argument),
                jump(BPF_JEQ, 0, 0, past + 2),
                load(ARGUMENTS + 8 * argument + 4),
                jump(BPF_JEQ, 0, 0, past),
            ],
        };
        test.append(&mut code);
        code = test;
    }
    code
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
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    instruction(BPF_RET | BPF_K, value)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `program` answers to call `number` of x86-64, run as the kernel does.
    pub(in crate::sandbox) fn answer(
        program: &[sock_filter],
        number: u32,
        arguments: [u64; 6],
    ) -> Verdict {
        run(program, AUDIT_ARCH_X86_64, number, arguments)
    }

    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> Verdict {
        let mut data = [0; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (at, argument) in arguments.iter().enumerate() {
            data[16 + at * 8..24 + at * 8].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let choose = |holds: bool| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    let word = &data[k as usize..k as usize + 4];
                    accumulator = u32::from_le_bytes(word.try_into().unwrap());
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= k,
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += choose(accumulator == k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += choose(accumulator >= k),
                code if code == BPF_JMP | BPF_JGT | BPF_K => at += choose(accumulator > k),
                code if code == BPF_RET | BPF_K => {
                    return match k & libc::SECCOMP_RET_ACTION_FULL {
                        libc::SECCOMP_RET_ALLOW => Verdict::Allow,
                        libc::SECCOMP_RET_ERRNO => {
                            Verdict::Errno((k & libc::SECCOMP_RET_DATA) as i32)
                        }
                        libc::SECCOMP_RET_TRACE => match k & libc::SECCOMP_RET_DATA {
                            0 => Verdict::Trace,
                            error => Verdict::Refused(error as i32),
                        },
                        libc::SECCOMP_RET_KILL_PROCESS => Verdict::Kill,
                        other => panic!("returns {other:#x}"),
                    };
                }
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn each_call_meets_its_own_rule() {
        // Enough calls, with gaps and neighbours, that some jumps are long.
        let rule_of = |number: u32| match number % 7 {
            0 => Some(Rule::from(Verdict::Allow)),
            1 | 2 => Some(Rule::one_of(number % 6, &[number, 5], Verdict::Errno(1))),
            3 => Some(Rule::from(Verdict::Errno(number as i32))),
            _ => None,
        };
        let mut policy = Policy::new(Verdict::Errno(38));
        for number in 0..600 {
            if let Some(rule) = rule_of(number) {
                policy.set(number, rule);
            }
        }
        let program = policy.program();
        assert!(program.len() < 4096, "{} instructions", program.len());
        for number in (0..700).chain([1 << 30, u32::MAX]) {
            let at = number as usize % 6;
            for value in [u64::from(number), 5, 6, 5 << 32, 1 << 32 | 5] {
                let mut arguments = [9; 6];
                arguments[at] = value;
                let expected = match (number < 600, number % 7) {
                    (true, 0) => Verdict::Allow,
                    (true, 1 | 2) if [number, 5].contains(&(value as u32)) => Verdict::Allow,
                    (true, 1 | 2) => Verdict::Errno(1),
                    (true, 3) => Verdict::Errno(number as i32),
                    _ => Verdict::Errno(38),
                };
                let found = answer(&program, number, arguments);
                assert_eq!(found, expected, "call {number} with {value:#x}");
            }
        }
    }

    #[test]
    fn ranges_have_both_ends() {
        let tests = [
            Test::Between(1, 5, 7),
            Test::Between(2, 0, 0),
            Test::Null(3),
        ];
        let mut policy = Policy::new(Verdict::Kill);
        policy.set(3, Rule::from(Verdict::Trace).unless(&tests, Verdict::Allow));
        let program = policy.program();
        for (value, expected) in [
            (4, Verdict::Trace),
            (5, Verdict::Allow),
            (1 << 32 | 7, Verdict::Allow),
            (8, Verdict::Trace),
            (u64::MAX, Verdict::Trace),
        ] {
            let found = answer(&program, 3, [0, value, 0, 0, 0, 0]);
            assert_eq!(found, expected, "{value:#x}");
        }
        for arguments in [[0, 6, 1, 0, 0, 0], [0, 6, 0, 1 << 32, 0, 0]] {
            assert_eq!(answer(&program, 3, arguments), Verdict::Trace);
        }
    }

    #[test]
    fn cases_are_tried_in_order_and_pointers_whole() {
        let rule = Rule::from(Verdict::Trace)
            .unless(&[Test::Masked(2, 0x21, 0x21)], Verdict::Errno(1))
            .unless(&[Test::Equals(0, 7), Test::Null(1)], Verdict::Allow);
        let mut policy = Policy::new(Verdict::Kill);
        policy.set(3, rule);
        let program = policy.program();
        let three = |a, b, c| answer(&program, 3, [a, b, c, 0, 0, 0]);
        assert_eq!(three(7, 0, 0x21), Verdict::Errno(1));
        assert_eq!(three(7, 0, 0x20), Verdict::Allow);
        assert_eq!(three(7, 1 << 32, 0), Verdict::Trace);
        assert_eq!(three(7, 1, 0), Verdict::Trace);
        assert_eq!(three(1 << 40 | 7, 0, 0), Verdict::Allow);
        assert_eq!(answer(&program, 2, [0; 6]), Verdict::Kill);
        assert_eq!(answer(&program, 4, [0; 6]), Verdict::Kill);
    }

    #[test]
    fn calls_of_another_architecture_end_the_process() {
        let mut policy = Policy::new(Verdict::Allow);
        policy.set(1, Verdict::Allow);
        let i386 = 0x4000_0003;
        assert_eq!(run(&policy.program(), i386, 1, [0; 6]), Verdict::Kill);
    }
}
