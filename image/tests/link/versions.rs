//! A version that is linked where an earlier one is on record keeps the places of that: pages that hold nothing new stay, in the
//! library and in whoever calls it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use crate::slides::check_addresses;
use crate::support::{Compiler, Workshop, run};
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_core::registry::{AddressBook, Known, Places, Reservation, ReservationRequest};
use pool_image::link::{Linked, Registry, RegistryError, link};

/// The shared pages of an image's libraries as they are in every image, by name.
fn pages(linked: &Linked) -> BTreeMap<String, Vec<Vec<u8>>> {
    let described = pool_image::describe::describe(&linked.elf).unwrap();
    let libraries = described.description.libraries.iter();
    libraries
        .map(|used| {
            let object = described.object(&used.object).unwrap();
            let bytes = object.content.bytes();
            let pages = bytes.chunks(PAGE_SIZE as usize);
            (
                used.library.name.to_string(),
                pages.map(<[u8]>::to_vec).collect(),
            )
        })
        .collect()
}

/// Numbers of the pages of the first that are not the same in the second.
fn lost(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<usize> {
    let is_lost = |at: &usize| after.get(*at) != Some(&before[*at]);
    (0..before.len()).filter(is_lost).collect()
}

/// Debian's C library with another `strdup`, which is longer than its own.
fn patched_c_library(workshop: &Workshop) -> String {
    let asked = Command::new("gcc").arg("-print-file-name=libc.a").output();
    let original = String::from_utf8(asked.unwrap().stdout).unwrap();
    let padding = "__asm__ volatile(\".skip 200, 0x90\");";
    let object = workshop.compile(
        Compiler::Gnu,
        "strdup",
        &format!(
            "#include <stdlib.h>\n#include <string.h>\n\
             char *__strdup(const char *s) {{ size_t n = strlen(s) + 1; char *copy = malloc(n); {padding}\n\
             if (!copy) return 0; memcpy(copy, s, n); copy[0] = 'H'; return copy; }}\n\
             extern __typeof(__strdup) strdup __attribute__((weak, alias(\"__strdup\")));\n"
        ),
    );
    let folder = workshop.path("patched");
    std::fs::create_dir(&folder).unwrap();
    let archive = folder.join("libc.a");
    std::fs::copy(original.trim(), &archive).unwrap();
    let done = Command::new("ar")
        .arg("r")
        .arg(&archive)
        .arg(object)
        .status();
    assert!(done.unwrap().success());
    format!("-L{}", folder.display())
}

/// A program that calls one function of the libraries here.
fn caller_of_a_step(workshop: &Workshop) -> String {
    let source = "int step_7(int); int main(void) { return step_7(3) == 0; }";
    workshop.compile(Compiler::Gnu, "main", source)
}

#[test]
fn a_patched_c_library_keeps_all_pages_but_those_of_the_change() {
    let workshop = Workshop::new();
    let patched = patched_c_library(&workshop);
    let main = workshop.compile(
        Compiler::Gnu,
        "main",
        "#include <stdio.h>\n#include <string.h>\n\
         int main(int argc, char **argv) { puts(strdup(argc > 9 ? argv[1] : \"hello\")); return 0; }",
    );
    let mut book = AddressBook::default();
    let mut build = |arguments: &[&str], expected: &str| {
        let request = workshop.request(Compiler::Gnu, arguments);
        let linked = link(&request, &mut book).unwrap();
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        linked
    };
    let old = build(&["-static", &main, "-lm", "-Wl,-u,sqrt"], "hello\n");
    let after = ["-static", &main, &patched, "-lm", "-Wl,-u,sqrt"];
    let new = build(&after, "Hello\n");
    let (before, kept) = (pages(&old), pages(&new));
    for (name, before) in &before {
        let lost = lost(before, &kept[name]);
        // Where the function was, where it is, and its frame.
        let most = if name == "c" { 4 } else { 0 };
        assert!(lost.len() <= most, "{name}: {lost:?} of {}", before.len());
    }
    // Whoever links it again has the same, from the record alone.
    assert_eq!(build(&after, "Hello\n").elf, new.elf);
    // Where the earlier one is not known it is as any first version is.
    let request = workshop.request(Compiler::Gnu, &after);
    let alone = link(&request, &mut AddressBook::default()).unwrap();
    assert!(lost(&before["c"], &pages(&alone)["c"]).len() > 100);
}

/// A library of many functions, with what changes between its versions.
fn library(workshop: &Workshop, version: usize) -> String {
    let mut text = String::from("#include <string.h>\n#include <stdlib.h>\n");
    for n in 0..700 {
        let _ = writeln!(
            text,
            "static int state_{n} = {n}; const char *name_{n}(void) {{ return \"function {n}\"; }}\n\
             int step_{n}(int x) {{ state_{n} += x; return state_{n} * {n} + (int)strlen(name_{n}()); }}"
        );
    }
    if version > 1 {
        text +=
            "int fresh_state = 5; int fresh(int x) { return fresh_state += x * atoi(\"3\"); }\n";
    }
    let grown = match version {
        // Long enough for a jump in its place.
        1 => "x * 31 + x / 7 + 1",
        2 => "x * x * step_7(x) / (x + 3) + step_9(x) % 5 - fresh(x) + (int)strlen(name_11())",
        _ => {
            "x * x * step_7(x) / (x + 3) + step_9(x) % 5 - fresh(x) + step_20(x) * step_21(x) - step_22(x) % 3"
        }
    };
    let _ = writeln!(
        text,
        "__attribute__((noinline)) int changed(int x) {{ return {grown}; }}"
    );
    if version < 3 {
        text += "int dropped(int x) { return x - 17; }\n";
    }
    text += "int first(int x) { return changed(x) + step_3(x); }\n\
             int second(int x) { return changed(x + 1) + step_4(x); }\n\
             int (*pointer(void))(int) { return changed; }\n";
    archive(workshop, &format!("v{version}"), &[("steps.o", &text)])
}

/// An archive `libsteps.a` in a folder of its own, of members that are called so and made of such sources.
fn archive(workshop: &Workshop, folder: &str, members: &[(&str, &str)]) -> String {
    let folder = workshop.path(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let source = workshop.path("steps.c");
    for (member, text) in members {
        std::fs::write(&source, text).unwrap();
        let done = Command::new("gcc")
            .args(["-O1", "-ffunction-sections", "-fdata-sections", "-c"])
            .args([&source, std::path::Path::new("-o"), &folder.join(member)])
            .status();
        assert!(done.unwrap().success());
    }
    let archive = folder.join("libsteps.a");
    let _ = std::fs::remove_file(&archive);
    let done = Command::new("ar")
        .current_dir(&folder)
        .args(["rcs", "libsteps.a"])
        .args(members.iter().map(|(member, _)| member))
        .status();
    assert!(done.unwrap().success());
    archive.display().to_string()
}

const MAIN: &str = "#include <stdio.h>\nint first(int), second(int), step_250(int); int (*pointer(void))(int);\n\
                    int main(void) { printf(\"%d %d %d %d\\n\", first(3), second(4), pointer()(5), step_250(1));\n\
                    return 0; }";

#[test]
fn versions_of_a_library_keep_what_they_share() {
    let workshop = Workshop::new();
    let main = workshop.compile(Compiler::Gnu, "main", MAIN);
    let mut book = AddressBook::default();
    let mut versions = Vec::new();
    for version in 1..4 {
        let archive = library(&workshop, version);
        let arguments = ["-static", &main, &archive];
        let expected = run(&workshop.reference(Compiler::Gnu, &arguments), "main");
        let mut request = workshop.request(Compiler::Gnu, &arguments);
        request.prints_map = true;
        let linked = link(&request, &mut book).unwrap();
        let map = linked.map.as_ref().unwrap();
        let keeps = "/libsteps.a), with what it has of steps@";
        assert_eq!(map.contains(keeps), version > 1);
        let described = pool_image::describe::describe(&linked.elf).unwrap();
        let told = pool_image::inspect::inspect(&described).to_string();
        let keeps = " has what it has of steps@";
        assert_eq!(told.contains(keeps), version > 1, "{told}");
        assert_eq!(map.contains(".text.changed (a jump to it)"), version > 1);
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        // Wherever its parts are, it is known what of them holds addresses.
        check_addresses(&linked);
        // From the record alone it is the same, to the byte.
        assert_eq!(link(&request, &mut book).unwrap().elf, linked.elf);
        versions.push(linked);
    }
    let all: Vec<_> = versions.iter().map(pages).collect();
    for two in all.windows(2) {
        let (before, after) = (&two[0]["steps"], &two[1]["steps"]);
        let lost = lost(before, after);
        assert!(before.len() >= 14, "{}", before.len());
        // Frames are the second half: they are one section, in which all behind a new one move.
        let lost = lost.iter().filter(|page| **page < before.len() / 2);
        let lost: Vec<&usize> = lost.collect();
        assert!(lost.len() <= 3, "{lost:?} of {}", before.len());
    }
    let keeping = book
        .reservations()
        .iter()
        .filter(|r| r.request.keeps.is_some());
    assert_eq!(keeping.count(), 2);
}

/// A registry whose first answers about one library are others.
struct Otherwise<'c> {
    book: AddressBook,
    change: &'c dyn Fn(Known) -> Known,
    times: usize,
    asked: usize,
}

impl<'c> Otherwise<'c> {
    fn once(book: &AddressBook, change: &'c dyn Fn(Known) -> Known) -> Self {
        Self {
            book: book.clone(),
            change,
            times: 1,
            asked: 0,
        }
    }

    fn always(book: &AddressBook, change: &'c dyn Fn(Known) -> Known) -> Self {
        Self {
            times: usize::MAX,
            ..Self::once(book, change)
        }
    }
}

impl Registry for Otherwise<'_> {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        Registry::reserve(&mut self.book, requests)
    }

    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        self.asked += 1;
        let mut known = Registry::known(&mut self.book, libraries)?;
        if self.asked <= self.times {
            for (known, library) in known.iter_mut().zip(libraries) {
                if library.name.as_str() == "steps" {
                    *known = (self.change)(known.clone());
                }
            }
        }
        Ok(known)
    }
}

/// The version that a request is about, as `book` has it.
fn known(book: &AddressBook, version: &LibraryRef) -> Known {
    let mut book = book.clone();
    Registry::known(&mut book, std::slice::from_ref(version))
        .unwrap()
        .remove(0)
}

fn steps(linked: &Linked) -> LibraryRef {
    let libraries = linked.libraries.iter().map(|used| &used.library);
    let mut steps = libraries.filter(|library| library.name.as_str() == "steps");
    steps.next().unwrap().clone()
}

#[test]
fn who_comes_second_takes_over_what_the_first_one_decided() {
    let workshop = Workshop::new();
    let main = workshop.compile(Compiler::Gnu, "main", MAIN);
    let request = |version: usize| {
        let archive = library(&workshop, version);
        workshop.request(Compiler::Gnu, &["-static", &main, &archive])
    };
    let requests = [request(1), request(2), request(3)];
    // What the third version keeps, as was true at several times.
    let mut book = AddressBook::default();
    let mut stale = vec![Known::Nothing];
    let third = link(&requests[2], &mut AddressBook::default()).unwrap();
    for request in &requests[..2] {
        link(request, &mut book).unwrap();
        stale.push(known(&book, &steps(&third)));
    }
    // The first one knew of both others, of none, or of the first.
    for knew in 0..3 {
        let told = |_| stale[knew].clone();
        let mut decided = Otherwise::once(&book, &told);
        let first = link(&requests[2], &mut decided).unwrap();
        let keeps = decided.book.get(&steps(&third)).unwrap();
        assert_eq!(keeps.request.keeps.is_some(), knew > 0);
        for (at, stale) in stale.iter().enumerate() {
            let told = |_| stale.clone();
            let mut late = Otherwise::once(&decided.book, &told);
            let second = link(&requests[2], &mut late).unwrap();
            assert!(second.elf == first.elf, "{knew} {at}");
            assert_eq!(late.asked, 1 + usize::from(at != knew), "{knew} {at}");
        }
    }
}

#[test]
fn names_of_members_are_no_part_of_a_version() {
    let workshop = Workshop::new();
    let main = workshop.compile(
        Compiler::Gnu,
        "main",
        "int changed(int), first(int); int main(void) { return changed(3) + first(4) == 0; }",
    );
    let mut many = String::from("int changed(int);\n");
    for n in 0..400 {
        let _ = writeln!(
            many,
            "int step_{n}(int x) {{ return changed(x * {n}) - {n}; }}"
        );
    }
    let few = "int changed(int); int first(int x) { return changed(x * 5 + 2) - x * changed(x); }";
    let mut book = AddressBook::default();
    let mut build = |folder: &str, names: [&str; 2], changed: &str| {
        let members = [
            (names[0], changed),
            (names[1], few),
            ("steps.o", many.as_str()),
        ];
        let archive = archive(&workshop, folder, &members);
        let request = workshop.request(Compiler::Gnu, &["-static", &main, &archive]);
        link(&request, &mut book).unwrap()
    };
    let names = ["a.o", "b.o"];
    build("one", names, "int changed(int x) { return x + 1; }");
    let changed =
        "int changed(int x) { int y = x; while (y > 9) y = y / 3 + y % 7 * x; return x * y; }";
    let two = build("two", names, changed);
    let swapped = build("swapped", ["b.o", "a.o"], changed);
    assert_eq!(steps(&two), steps(&swapped));
    assert_eq!(pages(&two), pages(&swapped));
    let keeping = book.get(&steps(&two)).unwrap();
    assert!(keeping.request.keeps.is_some());
}

#[test]
fn a_record_that_is_not_what_it_was_is_refused() {
    let workshop = Workshop::new();
    let main = workshop.compile(Compiler::Gnu, "main", MAIN);
    let mut book = AddressBook::default();
    let mut link_version = |version: usize| {
        let archive = library(&workshop, version);
        let request = workshop.request(Compiler::Gnu, &["-static", &main, &archive]);
        (link(&request, &mut book).unwrap(), request)
    };
    link_version(1);
    let (linked, request) = link_version(2);
    let says = |change: &dyn Fn(&mut Vec<u8>)| {
        let damaged = |known| match known {
            Known::Keeping { version, places } => {
                let mut bytes = places.bytes().to_vec();
                change(&mut bytes);
                let places = Places::new(bytes).unwrap();
                Known::Keeping { version, places }
            }
            other => other,
        };
        let refused = link(&request, &mut Otherwise::always(&book, &damaged)).map(|_| ());
        refused.unwrap_err().to_string()
    };
    let size = match known(&book, &steps(&linked)) {
        Known::Keeping { places, .. } => places.bytes().len(),
        other => panic!("{other:?}"),
    };
    for at in (0..size).step_by(size / 30) {
        let says = says(&|bytes| bytes[at] ^= 1 << (at % 8));
        assert!(says.contains("restore"), "{at}: {says}");
    }
    assert!(says(&Vec::clear).contains("restore"));
    let lost = |_| Known::Nothing;
    let refused = link(&request, &mut Otherwise::always(&book, &lost)).map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("restore"));
    // Asked again, it has it.
    let found = link(&request, &mut Otherwise::once(&book, &lost)).unwrap();
    assert!(found.elf == linked.elf);
}

#[test]
fn nonsense_about_an_earlier_version_costs_pages_at_most() {
    let workshop = Workshop::new();
    let main = workshop.compile(Compiler::Gnu, "main", MAIN);
    let request = |version: usize| {
        let archive = library(&workshop, version);
        workshop.request(Compiler::Gnu, &["-static", &main, &archive])
    };
    let (one, two) = (request(1), request(2));
    let mut book = AddressBook::default();
    link(&one, &mut book).unwrap();
    let expected = run(
        &workshop.install("main", &link(&two, &mut book.clone()).unwrap()),
        "main",
    );
    let mut keeping = 0;
    for case in 0..24usize {
        let damaged = |known| match known {
            Known::Earlier { version, places } => {
                let mut bytes = places.bytes().to_vec();
                // The borders come first.
                let at = if case < 12 {
                    8 + case
                } else {
                    case * bytes.len() / 24
                };
                bytes[at] = bytes[at].wrapping_add(if case % 2 == 0 { 1 } else { 64 });
                let places = Places::new(bytes).unwrap();
                Known::Earlier { version, places }
            }
            other => other,
        };
        let mut registry = Otherwise::once(&book, &damaged);
        let linked = link(&two, &mut registry).unwrap();
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        assert!(
            link(&two, &mut registry).unwrap().elf == linked.elf,
            "{case}"
        );
        let reserved = registry.book.get(&steps(&linked)).unwrap();
        keeping += usize::from(reserved.request.keeps.is_some());
    }
    assert!(keeping > 0);
}

#[test]
fn new_data_before_many_zeros_leave_them_where_they_are() {
    let workshop = Workshop::new();
    let main = caller_of_a_step(&workshop);
    let mut book = AddressBook::default();
    let mut build = |folder: &str, fresh: usize| {
        let mut text = String::from("static char room[300000];\n");
        for n in 0..fresh {
            let _ = writeln!(text, "int fresh_{n} = {n} + 1;");
        }
        for n in 0..300 {
            let _ = writeln!(
                text,
                "static int state_{n} = {n}; int step_{n}(int x) {{ return (room[x & 255] += x) * {n} + state_{n}++; }}"
            );
        }
        let archive = archive(&workshop, folder, &[("steps.o", &text)]);
        let request = workshop.request(Compiler::Gnu, &["-static", &main, &archive]);
        let linked = link(&request, &mut book).unwrap();
        run(&workshop.install("main", &linked), "main");
        linked
    };
    let (before, after) = (build("one", 0), build("two", 40));
    assert_eq!(
        lost(&pages(&before)["steps"], &pages(&after)["steps"]),
        [0usize; 0]
    );
}

/// The frames of an object are one section: where it has a function more they grow, and what is behind them makes room.
#[test]
fn one_object_with_a_function_more_keeps_its_code() {
    let workshop = Workshop::new();
    let main = caller_of_a_step(&workshop);
    let mut book = AddressBook::default();
    let mut build = |folder: &str, more: &str| {
        let mut text = String::from("#include <stdlib.h>\n");
        for n in 0..900 {
            let _ = writeln!(text, "int step_{n}(int x) {{ return abs(x * {n}) + {n}; }}");
        }
        text += more;
        let archive = archive(&workshop, folder, &[("steps.o", &text)]);
        let request = workshop.request(Compiler::Gnu, &["-static", &main, &archive]);
        link(&request, &mut book).unwrap()
    };
    let before = build("one", "");
    let after = build("two", "int fresh(int x) { return x * rand() + 1; }\n");
    let (before, after) = (&pages(&before)["steps"], &pages(&after)["steps"]);
    // Of its two kinds of pages the first is code; of the other those before the new frame stay, too.
    let lost = lost(before, after);
    assert!(lost.len() <= 3, "{lost:?} of {}", before.len());
}
