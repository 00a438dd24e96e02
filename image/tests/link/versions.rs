//! A version that is linked where an earlier one is on record keeps the places of that: pages that hold nothing new stay, in the
//! library and in whoever calls it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use crate::slides::check_addresses;
use crate::support::{Compiler, Workshop, run};
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_core::registry::{AddressBook, Known, Reservation, ReservationRequest};
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
        1 => "x + 1",
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
    let source = workshop.path("steps.c");
    std::fs::write(&source, text).unwrap();
    let object = workshop.path("steps.o");
    let done = Command::new("gcc")
        .args(["-O1", "-ffunction-sections", "-fdata-sections", "-c"])
        .args([&source, std::path::Path::new("-o"), &object])
        .status();
    assert!(done.unwrap().success());
    let folder = workshop.path(&format!("v{version}"));
    let _ = std::fs::create_dir(&folder);
    let archive = folder.join("libsteps.a");
    let _ = std::fs::remove_file(&archive);
    let done = Command::new("ar")
        .arg("rcs")
        .arg(&archive)
        .arg(&object)
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
        let request = workshop.request(Compiler::Gnu, &arguments);
        let linked = link(&request, &mut book).unwrap();
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

/// What a build server sees that asked before another one registered the version.
struct TooLate {
    book: AddressBook,
    stale: Vec<Known>,
    asked: usize,
}

impl Registry for TooLate {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        Registry::reserve(&mut self.book, requests)
    }

    fn known(&mut self, libraries: &[LibraryRef]) -> Result<Vec<Known>, RegistryError> {
        self.asked += 1;
        if self.stale.is_empty() {
            return Registry::known(&mut self.book, libraries);
        }
        let stale = std::mem::take(&mut self.stale);
        Ok(libraries.iter().map(|_| stale[0].clone()).collect())
    }
}

#[test]
fn who_comes_second_takes_over_what_the_first_one_decided() {
    let workshop = Workshop::new();
    let main = workshop.compile(Compiler::Gnu, "main", MAIN);
    let mut book = AddressBook::default();
    let mut last = None;
    for version in 1..3 {
        let archive = library(&workshop, version);
        let request = workshop.request(Compiler::Gnu, &["-static", &main, &archive]);
        last = Some((link(&request, &mut book).unwrap(), request));
    }
    let (first, request) = last.unwrap();
    let mut late = TooLate {
        book,
        stale: vec![Known::Nothing],
        asked: 0,
    };
    let second = link(&request, &mut late).unwrap();
    assert_eq!(late.asked, 2);
    assert_eq!(second.elf, first.elf);
}
