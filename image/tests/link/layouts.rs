//! One program in every layout: it does the same, and what it shares with others is what the layout promises.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Compiler, Workshop, run};
use goblin::elf::Elf;
use goblin::elf::program_header::PT_LOAD;
use pool_core::description::{Layout, RangeKind};
use pool_core::page::PAGE_SIZE;
use pool_core::registry::{AddressBook, PRIVATE_START, SHARED_START};
use pool_core::{PageCount, PageId};
use pool_image::describe::describe;
use pool_image::inspect::inspect;
use pool_image::layout::LayoutKind;
use pool_image::link::{Linked, link, parse_args};

/// Two programs with one library. What it needs of others lies elsewhere in each of them with ld's layout; `spare` is needed by none.
const LIBRARY: [(&str, &str); 3] = [
    (
        "sum",
        "#include <stdlib.h>\n#include <string.h>\nint scale(int); static int memory = 3;\n\
         int sum(const char *text) { char *copy = strdup(text); int n = 0; for (char *c = copy; *c; c++) n += scale(*c); free(copy); return n + memory++; }\n\
         __attribute__((constructor)) static void made(void) { memory += 4; }\n",
    ),
    ("scale", "int scale(int n) { return n * 3; }\n"),
    (
        "spare",
        "int nobody(int); int sum(const char *); int spare(int n) { return nobody(n) + sum(\"x\"); }\n\
         const char table[20000] = \"a spare part\";\n",
    ),
];
const SPARE: &[u8] = b"a spare part";
const PROGRAMS: [(&str, &str); 2] = [
    (
        "one",
        "#include <stdio.h>\nint sum(const char *); int unneeded(void) { return sum(\"b\"); } int main(void) { printf(\"%d %d\\n\", sum(\"ab\"), sum(\"c\")); return 0; }\n",
    ),
    (
        "two",
        "#include <stdio.h>\n#include <math.h>\nint sum(const char *); volatile double x = 2; char room[100000] = {1}; \
         int main(void) { printf(\"%f\\n\", pow(x, sum(\"a\"))); puts(room); return 0; }\n",
    ),
];

/// Where the pages of libraries lie whose addresses are reserved.
fn is_librarys(address: u64) -> bool {
    (SHARED_START.0..PRIVATE_START.0).contains(&address)
}

/// Different contents of read-only pages: of libraries, and of the rest.
fn pages(linked: &Linked) -> (BTreeSet<PageId>, BTreeSet<PageId>) {
    let described = describe(&linked.elf).unwrap();
    let (mut libraries, mut rest) = (BTreeSet::new(), BTreeSet::new());
    for range in &described.description.ranges {
        let Some(source) = range.source.filter(|_| range.kind == RangeKind::Shared) else {
            continue;
        };
        let object = described.object(&source.object).unwrap();
        let first = (source.offset / PAGE_SIZE) as usize;
        let count = PageCount::covering(range.length).0 as usize;
        let own = if is_librarys(range.address.0) {
            &mut libraries
        } else {
            &mut rest
        };
        let of_range = object.content.pages().skip(first).take(count);
        own.extend(of_range.map(PageId::of));
    }
    (libraries, rest)
}

fn is_fixed(linked: &Linked) -> bool {
    linked.layout.fixed.is_some()
}

#[test]
fn programs_do_the_same_in_every_layout() {
    let workshop = Workshop::new();
    for compiler in [Compiler::Gnu, Compiler::Musl] {
        let compile = |(name, text)| workshop.compile(compiler, name, text);
        let members = LIBRARY.map(compile);
        let archive = workshop.archive("libsum.a", &members.each_ref().map(String::as_str));
        let mut book = AddressBook::default();
        let mut found: BTreeMap<&str, Vec<Linked>> = BTreeMap::new();
        for (name, text) in PROGRAMS {
            let object = compile((name, text));
            let line = ["-static", &object, &archive, "-lm"];
            let expected = run(&workshop.reference(compiler, &line), name);
            let arguments = workshop.linker_arguments(compiler, &line);
            for kind in LayoutKind::ALL {
                let own = [
                    "--pool-libraries=all".to_owned(),
                    format!("--pool-layout={}", kind.name()),
                ];
                let request = parse_args(&[&arguments[..], &own].concat()).unwrap();
                let linked = link(&request, &mut book).unwrap();
                let program = workshop.install("program", &linked);
                assert_eq!(run(&program, name), expected, "{kind:?}, {compiler:?}");
                let again = link(&request, &mut book).unwrap();
                assert!(
                    again.elf == linked.elf,
                    "{kind:?}: another file the second time"
                );
                check(kind, &linked);
                found.entry(kind.name()).or_default().push(linked);
            }
        }
        let size = |kind: &str| {
            let of = |linked: &Linked| pages(linked).1.len() + pages(linked).0.len();
            found[kind].iter().map(of).collect::<Vec<_>>()
        };
        for (with, without) in size("default").into_iter().zip(size("dce")) {
            assert!(
                without <= with,
                "{with} pages, and {without} of what is needed"
            );
        }
        // Of each library's pages, those that two programs have in common.
        let shared = |kind: &str| {
            let [one, two] = &found[kind][..] else {
                unreachable!("two programs");
            };
            let (one, two) = (pages(one).0, pages(two).0);
            (one.intersection(&two).count(), one.len())
        };
        let (spacer, pool) = (shared("spacer"), shared("pool"));
        assert_eq!(
            pool.0, pool.1,
            "all of them but for those of libm, which one lacks"
        );
        assert!(spacer.0 > 0, "{compiler:?}: none, of {}", spacer.1);
        // The C library of GNU refers to borders of what the program has; that of musl has them at hand.
        assert_eq!(spacer.0 < spacer.1, compiler == Compiler::Gnu, "{spacer:?}");
    }
}

/// What holds for an image of `kind`.
fn check(kind: LayoutKind, linked: &Linked) {
    assert_eq!(linked.layout.kind, kind);
    let elf = Elf::parse(&linked.elf).unwrap();
    let loaded = elf.program_headers.iter().filter(|p| p.p_type == PT_LOAD);
    let apart = loaded.filter(|p| p.p_vaddr >= SHARED_START.0).count();
    let has_spare = linked.elf.windows(SPARE.len()).any(|bytes| bytes == SPARE);
    let described = describe(&linked.elf).unwrap();
    let report = inspect(&described);
    assert_eq!(described.linked_as, Some(kind));
    assert_eq!(report.slide.image, !is_fixed(linked));
    match kind {
        LayoutKind::Default | LayoutKind::Dce => {
            assert_eq!(apart, 0, "nothing lies apart");
            assert!(!has_spare, "nothing needs it");
        }
        LayoutKind::Spacer | LayoutKind::Pool => {
            assert!(apart > 2, "{apart} segments of libraries");
            assert!(has_spare, "a library is whole");
        }
    }
    let is_pool = kind == LayoutKind::Pool;
    // In the others all moves as one, so that no reference leads out of it. In the pool's own it depends on how many do.
    assert!(
        is_pool || report.slide.libraries == report.slide.image,
        "{report}"
    );
    assert_eq!(linked.layout.libraries.is_empty(), !is_pool);
    assert_eq!(described.description.libraries.is_empty(), !is_pool);
    let layout = if is_pool {
        Layout::Registered
    } else {
        Layout::Own
    };
    assert_eq!(described.description.layout, layout);
    if !is_pool {
        let told = format!("layout own ({})", kind.name());
        assert!(report.to_string().contains(&told), "{report}");
    }
}

/// A library of the Spacer layout is none of the pool's, whatever it is called, and is in nobody's way.
#[test]
fn other_layouts_leave_versions_alone() {
    let workshop = Workshop::new();
    let compile = |(name, text)| workshop.compile(Compiler::Musl, name, text);
    let members = LIBRARY.map(compile);
    let archive = workshop.archive("libsum.a", &members.each_ref().map(String::as_str));
    let object = compile(PROGRAMS[0]);
    let line = [
        "-static",
        &object,
        &archive,
        "-Wl,--pool-library=libsum.a=sum@1",
    ];
    let arguments = workshop.linker_arguments(Compiler::Musl, &line);
    let linked = |book: &mut AddressBook, kind: LayoutKind| {
        let own = format!("--pool-layout={}", kind.name());
        let request = parse_args(&[&arguments[..], &[own]].concat()).unwrap();
        link(&request, book).unwrap().elf
    };
    let mut alone = AddressBook::default();
    let expected = linked(&mut alone, LayoutKind::Pool);
    let mut book = AddressBook::default();
    let first = linked(&mut book, LayoutKind::Pool);
    let spacer = linked(&mut book, LayoutKind::Spacer);
    for kind in LayoutKind::ALL {
        linked(&mut book, kind);
    }
    assert!(first == expected && linked(&mut book, LayoutKind::Pool) == expected);
    assert!(spacer == linked(&mut book, LayoutKind::Spacer));
    let names: Vec<String> = book
        .reservations()
        .iter()
        .map(|r| r.request.library.to_string())
        .collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("sum@1"))
            .count(),
        1,
        "{names:?}"
    );
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("sum~spacer@1"))
            .count(),
        1,
        "{names:?}"
    );
}
