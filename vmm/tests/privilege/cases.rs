//! What each guest may come to, on every kind of host.

/// A run of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Image.
    pub(crate) image: &'static str,
    /// Processors of its machine.
    pub(crate) cpus: u16,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Exit statuses that are right. Hosts differ in which exception an instruction gives.
    pub(crate) right: Vec<i32>,
}

impl Case {
    /// The arguments in one line.
    pub(crate) fn line(&self) -> String {
        self.arguments.join(" ")
    }
}

/// The attempt went on, at CPL 3 (see `hostile.c`).
const WENT_ON: i32 = 42;
const TRAP: i32 = 133;
/// An invalid instruction, or one that programs may not use.
const REFUSED: [i32; 2] = [132, 139];
/// An address or a port that programs may not use.
const DENIED: [i32; 1] = [139];

/// The monitor's pages: tables, gates, entry.
const GATES: u64 = 4096;
const ENTRY: u64 = 2 * 4096;
const SECOND_TABLES: u64 = 3 * 4096;

/// Attempts to become privileged. None may, and none may stop the VMM itself.
pub(crate) fn attempts() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |words: &str, right: &[i32]| cases.push(attempt(words, 1, right));
    for (words, right) in [
        ("first-exit-call-port", &DENIED[..]),
        ("first-exit-fault-port", &DENIED),
        ("first-exit-fault", &[WENT_ON]),
        // Where calls arrive at CPL 3, a jump to their entry is a call.
        ("first-exit-forged-call", &[WENT_ON, 139]),
        ("first-exit-gate", &DENIED),
        ("forge-ports", &DENIED),
        ("frame-on-monitor-stack", &DENIED),
        ("int1", &[TRAP, 132]),
        ("trap-flag-call", &[TRAP]),
        ("trap-flag-shadow", &[TRAP]),
        ("flags", &[WENT_ON]),
        ("stack", &[WENT_ON]),
        ("bases", &[WENT_ON]),
        ("call-at-end", &[WENT_ON]),
        ("call-near-end", &DENIED),
        // A hypercall that is refused, or no instruction at all.
        ("vmcall", &[WENT_ON, 132, 139]),
        ("vmmcall", &[WENT_ON, 132, 139]),
    ] {
        add(words, right);
    }
    for port in [
        0, 0x20, 0x60, 0x7c, 0x7d, 0x7e, 0x7f, 0x80, 0x3f8, 0xcf8, 0xffff,
    ] {
        for instruction in ["out", "out32", "in", "outs"] {
            add(&format!("{instruction} {port}"), &DENIED);
        }
    }
    for page in 0..3 {
        let readable = page == 2;
        let right = if readable { &[WENT_ON][..] } else { &DENIED };
        add(&format!("read-monitor {page}"), right);
        add(&format!("write-monitor {page}"), &DENIED);
    }
    for at in [
        0,
        GATES,
        GATES + 14 * 16,
        GATES + 0x200,
        GATES + 0x202,
        GATES + 0x210,
    ] {
        add(&format!("jump-monitor {at}"), &DENIED);
    }
    add(&format!("jump-monitor {ENTRY}"), &[WENT_ON, 139]);
    for at in [1, 2, 16, 18, 32] {
        add(&format!("jump-monitor {}", ENTRY + at), &[132, TRAP, 139]);
    }
    for target in 0..6 {
        add(&format!("forge-back {target}"), &DENIED);
    }
    for vector in [0, 1, 2, 6, 8, 13, 14, 18, 32, 128, 255] {
        add(&format!("int {vector}"), &REFUSED);
    }
    add("int 3", &[TRAP]);
    add("int 4", &DENIED);
    for bit in [47, 48, 63] {
        add(&format!("jump {bit}"), &DENIED);
    }
    for bit in [12, 31, 46] {
        add(&format!("jump-high {bit}"), &DENIED);
    }
    for selector in [0x08, 0x10, 0x23, 0x38, 0x07, 0x0f] {
        for transfer in ["far-jump", "far-call", "far-return", "interrupt-return"] {
            add(&format!("{transfer} {selector}"), &REFUSED);
        }
    }
    for transfer in ["far-jump", "far-return"] {
        add(&format!("{transfer} {}", 0x33), &[WENT_ON]);
    }
    for selector in [0, 8, 64] {
        add(&format!("local-gate {selector}"), &DENIED);
    }
    for register in ["ds", "es", "fs", "gs", "ss"] {
        add(&format!("load-{register} {}", 0x2b), &[WENT_ON]);
        for selector in [0x08, 0x10, 0x38, 0x07] {
            add(&format!("load-{register} {selector}"), &DENIED);
        }
    }
    add("load-ss 0", &DENIED);
    for instruction in [
        "cli",
        "sti",
        "hlt",
        "swapgs",
        "clts",
        "read-cr0",
        "read-cr3",
        "read-cr4",
        "write-cr0",
        "write-cr3",
        "write-cr8",
        "read-dr7",
        "write-dr7",
        "rdmsr",
        "wrmsr",
        "rdpmc",
        "xsetbv",
        "lmsw",
        "lldt",
        "ltr",
        "lgdt",
        "lidt",
        "invlpg",
        "invd",
        "wbinvd",
        "sysretq",
        "sysexit",
        "sysenter",
        "rsm",
        "monitor",
        "mwait",
        "vmrun",
        "stgi",
        "vmxoff",
    ] {
        add(instruction, &REFUSED);
    }
    // Where the processor has UMIP these are refused; elsewhere they tell a guest nothing of use.
    for instruction in ["sgdt", "sidt", "sldt", "str", "smsw"] {
        add(instruction, &[WENT_ON, 139]);
    }
    // Another processor's tables lie behind the entry.
    for words in ["read-monitor 3", "write-monitor 3"] {
        cases.push(attempt(words, 2, &DENIED));
    }
    cases.push(attempt(
        &format!("jump-monitor {SECOND_TABLES}"),
        2,
        &DENIED,
    ));
    cases
}

fn attempt(words: &str, cpus: u16, right: &[i32]) -> Case {
    Case {
        image: "hostile",
        cpus,
        arguments: words.split(' ').map(str::to_owned).collect(),
        right: right.to_vec(),
    }
}

/// What they do where processors are a machine's own: elsewhere some registers that programs may read are the host's.
pub(crate) const OF_MACHINES: [(&str, &str, u16); 1] = [("processors", "told", 2)];

/// What ordinary programs do, in two C libraries, and their arguments, with so many processors; right is what they
/// do natively.
pub(crate) fn ordinary() -> Vec<(&'static str, &'static str, u16)> {
    /// Memory in pieces: RAM is packed again, page tables start again.
    const MAPPINGS: [(&str, &str); 5] = [
        ("mappings", "1 400"),
        ("mappings", "2 400"),
        ("mappings", "3 400"),
        ("sparse", "4194304 1500"),
        ("sparse", "1073741824 1500"),
    ];
    /// Readings, calls among them, milliseconds of sleep; and a write to what is the kernel's.
    const CLOCK: [(&str, &str); 2] = [("clock", "4000 400 20"), ("clock", "write-code")];
    const WHAT: [&str; 14] = [
        "hello",
        "calls",
        "memory",
        "threads",
        "withdraw",
        "signals",
        "write-text",
        "execute-data",
        "unmapped",
        "protected",
        "read-only",
        "null",
        "trap",
        "divide",
    ];
    /// Of the programs that `threads.rs` and `signals.rs` run.
    const THREADS: [&str; 10] = [
        "mutex",
        "condition",
        "barrier",
        "spin",
        "registers",
        "timed",
        "robust",
        "inherit",
        "whole-group",
        "odd",
    ];
    const SIGNALS: [&str; 13] = [
        "stack",
        "nest",
        "mend",
        "jump",
        "skip",
        "registers",
        "preempted",
        "suspend",
        "queue",
        "masks",
        "step",
        "nowhere",
        "ports",
    ];
    const TOGETHER: [&str; 4] = ["hello", "threads", "withdraw", "signals"];
    let of = |image| WHAT.iter().map(move |&what| (image, what));
    let programs = of("musl").chain(of("glibc")).chain(MAPPINGS).chain(CLOCK);
    let alone = programs.map(|(image, what)| (image, what, 1));
    let together = TOGETHER.map(|what| [("musl", what, 2), ("glibc", what, 3)]);
    let turns = THREADS.map(|what| ("threads", what, 2));
    let handlers = SIGNALS.map(|what| ("signals", what, 1));
    let programs = alone.chain(together.concat());
    programs.chain(turns).chain(handlers).collect()
}
