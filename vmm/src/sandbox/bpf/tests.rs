//! Programs, run as the kernel runs them.

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
                    libc::SECCOMP_RET_ERRNO => Verdict::Errno((k & libc::SECCOMP_RET_DATA) as i32),
                    libc::SECCOMP_RET_TRACE => match k & libc::SECCOMP_RET_DATA {
                        0 => Verdict::Trace,
                        error => Verdict::Refused(error as i32),
                    },
                    libc::SECCOMP_RET_USER_NOTIF => Verdict::Wait,
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

/// What a rule says, read as it is written.
fn meant(rule: &Rule, arguments: [u64; 6]) -> Verdict {
    let holds = |test: &Test| {
        let word = |at: u32| arguments[at as usize] as u32;
        match *test {
            Test::Equals(at, value) => word(at) == value,
            Test::Masked(at, mask, value) => word(at) & mask == value,
            Test::Between(at, first, last) => (first..=last).contains(&word(at)),
            Test::Null(at) => arguments[at as usize] == 0,
        }
    };
    let mut tests = rule.tests.as_slice();
    for &(count, verdict) in &rule.cases {
        let (own, rest) = tests.split_at(count);
        if own.iter().all(holds) {
            return verdict;
        }
        tests = rest;
    }
    rule.otherwise
}

/// Rules whose cases share their first tests, or not; and arguments that meet them.
#[test]
fn programs_do_what_rules_say() {
    let mut state = 1u64;
    let mut random = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32 % below
    };
    for _ in 0..300 {
        let mut rules = Vec::new();
        for _ in 0..=random(12) {
            let mut rule = Rule::from(Verdict::Errno(1));
            for _ in 0..random(8) {
                let count = random(4);
                let test = |_| match random(8) {
                    0 => Test::Masked(random(2), 1 + random(3), random(3)),
                    1 => Test::Between(random(2), random(3), 1 + random(3)),
                    2 => Test::Null(random(2)),
                    _ => Test::Equals(random(2), random(3)),
                };
                let tests: Vec<_> = (0..count).map(test).collect();
                rule = rule.unless(&tests, Verdict::Errno(2 + random(4) as i32));
            }
            rules.push((random(20), rule));
        }
        let mut policy = Policy::new(Verdict::Kill);
        for (number, rule) in &rules {
            policy.set(*number, rule.clone());
        }
        let program = policy.program();
        for number in 0..22 {
            let rule = rules.iter().rfind(|(of, _)| *of == number);
            for first in 0..4 {
                for second in [0, 1, 2, 1 << 32, 1 << 32 | 2] {
                    let arguments = [first, second, 0, 0, 0, 0];
                    let expected = rule.map_or(Verdict::Kill, |(_, rule)| meant(rule, arguments));
                    let found = answer(&program, number, arguments);
                    assert_eq!(found, expected, "{rule:?} {arguments:?}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_values_share_an_end() {
    let odd: Vec<u32> = (0..1000).filter(|value| value % 2 == 1).collect();
    let mut policy = Policy::new(Verdict::Kill);
    let rule = Rule::one_of(1, &odd, Verdict::Trace);
    policy.set(3, rule.unless(&[Test::Equals(2, 8)], Verdict::Errno(1)));
    let program = policy.program();
    assert!(program.len() < 520, "{} instructions", program.len());
    for value in 0..1002 {
        let is_odd = value % 2 == 1 && value < 1000;
        for (other, expected) in [(7, Verdict::Trace), (8, Verdict::Errno(1))] {
            let expected = if is_odd { Verdict::Allow } else { expected };
            let found = answer(&program, 3, [0, value, other, 0, 0, 0]);
            assert_eq!(found, expected, "{value} {other}");
        }
    }
}

#[test]
fn cases_share_their_first_test() {
    let at = |value| Test::Equals(0, value);
    let rule = Rule::from(Verdict::Kill)
        .unless(&[at(1), Test::Between(1, 2, 3)], Verdict::Errno(1))
        .unless(&[at(1), Test::Equals(1, 5)], Verdict::Errno(2))
        .unless(&[at(1)], Verdict::Errno(3))
        .unless(&[at(2)], Verdict::Errno(4))
        .unless(&[at(3), Test::Null(2)], Verdict::Errno(5))
        .unless(&[at(3), Test::Masked(1, 1, 1)], Verdict::Errno(6))
        .unless(&[Test::Equals(1, 8)], Verdict::Errno(7));
    let mut policy = Policy::new(Verdict::Allow);
    policy.set(3, rule);
    let program = policy.program();
    for (first, second, third, error) in [
        (1, 2, 1, Some(1)),
        (1, 5, 1, Some(2)),
        (1, 8, 1, Some(3)),
        (2, 8, 1, Some(4)),
        (3, 9, 0, Some(5)),
        (3, 9, 1, Some(6)),
        (3, 8, 1, Some(7)),
        (4, 8, 1, Some(7)),
        (3, 4, 1, None),
        (4, 4, 0, None),
    ] {
        let expected = error.map_or(Verdict::Kill, Verdict::Errno);
        let found = answer(&program, 3, [first, second, third, 0, 0, 0]);
        assert_eq!(found, expected, "{first} {second} {third}");
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
