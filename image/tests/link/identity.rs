//! A library's shared pages are a function of its own members and its own place: other archives, their order, and another
//! version of the C library change nothing in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::{Compiler, Workshop, guests, run, source};
use pool_core::digest::ObjectId;
use pool_core::name::LibraryRef;
use pool_core::registry::{AddressBook, Reservation, ReservationRequest};
use pool_image::link::{LibraryPages, Linked, Registry, RegistryError, link};

/// A library as an image has it: its version, its identity, its place, and its pages as they are in every image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    library: LibraryRef,
    identity: ObjectId,
    place: (u64, u64, u64),
    pages: Vec<u8>,
}

/// Remembers what was asked for.
#[derive(Default)]
struct Asked {
    book: AddressBook,
    requests: Vec<ReservationRequest>,
}

impl Registry for Asked {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        self.requests.extend_from_slice(requests);
        Registry::reserve(&mut self.book, requests)
    }
}

/// Links, and says what each library is, by name.
fn libraries(
    workshop: &Workshop,
    registry: &mut Asked,
    compiler: Compiler,
    arguments: &[&str],
) -> (Linked, BTreeMap<String, Found>) {
    registry.requests.clear();
    let linked = link(&workshop.request(compiler, arguments), registry).unwrap();
    let described = pool_image::describe::describe(&linked.elf).unwrap();
    let mut found = BTreeMap::new();
    for used in &described.description.libraries {
        let request = registry.requests.iter();
        let request = request.clone().find(|r| r.library == used.library).unwrap();
        let reservation = registry.book.get(&used.library).unwrap();
        let place = (
            reservation.shared.start.0,
            reservation.private.start.0,
            reservation.tls.offset,
        );
        let object = described.object(&used.object).unwrap();
        assert!(request.dependencies.is_empty());
        let library = Found {
            library: used.library.clone(),
            identity: request.identity,
            place,
            pages: object.content.bytes().into_owned(),
        };
        found.insert(used.library.name.to_string(), library);
    }
    (linked, found)
}

fn pages_of<'l>(linked: &'l Linked, name: &str) -> &'l LibraryPages {
    let mut libraries = linked.libraries.iter();
    libraries.find(|l| l.library.name.as_str() == name).unwrap()
}

/// Takes a library into a program that does not use it.
const ZLIB: [&str; 2] = ["-lz", "-Wl,-u,zlibVersion"];
const OTHERS: [&str; 4] = [
    "-lsqlite3",
    "-llua",
    "-Wl,-u,sqlite3_libversion",
    "-Wl,-u,luaL_newstate",
];

#[test]
fn other_archives_and_their_order_change_nothing() {
    let workshop = Workshop::new();
    let object = guests().join("hello.o").display().to_string();
    let folder = format!("-L{}", guests().display());
    // It defines functions that other libraries refer to, and its file is not one of theirs.
    let more = workshop.compile(
        Compiler::Musl,
        "more",
        "int more(void) { return 1; } unsigned long strlen(const char *s) { return *s ? 1 + strlen(s + 1) : 0; }",
    );
    let more = workshop.archive("libmore.a", &[&more]);
    let start = ["-static", &object, &folder];
    let lines: [Vec<&str>; 4] = [
        [&start[..], &ZLIB].concat(),
        [&start[..], &ZLIB, &OTHERS].concat(),
        [&start[..], &OTHERS, &ZLIB].concat(),
        [&start[..], &ZLIB, &OTHERS, &["-Wl,-u,more", &more]].concat(),
    ];
    let mut one = Asked::default();
    let mut seen: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for line in &lines {
        let (linked, found) = libraries(&workshop, &mut one, Compiler::Musl, line);
        assert!(!run(&workshop.install("hello", &linked), "hello").is_empty());
        for (name, library) in found {
            seen.entry(name).or_default().push(library);
        }
    }
    for (name, images) in [("z", 4), ("lua", 3), ("sqlite3", 3), ("c", 4)] {
        assert_eq!(seen[name].len(), images, "{name}");
        assert!(seen[name].iter().all(|f| *f == seen[name][0]), "{name}");
        assert!(seen[name][0].pages.len() > 4096);
    }
    // Registries that never met, which give the first library on the line the same place.
    for line in [&lines[0], &lines[1], &lines[3]] {
        let (_, found) = libraries(&workshop, &mut Asked::default(), Compiler::Musl, line);
        assert!(found["z"] == seen["z"][0]);
    }
    // Elsewhere it is the same version.
    let (_, found) = libraries(&workshop, &mut Asked::default(), Compiler::Musl, &lines[2]);
    assert_ne!(found["z"].place, seen["z"][0].place);
    assert_eq!(found["z"].identity, seen["z"][0].identity);
    assert_eq!(found["z"].library, seen["z"][0].library);
}

/// Debian's archive with another `strdup`.
fn patched_c_library(workshop: &Workshop) -> String {
    let asked = Command::new("gcc")
        .arg("-print-file-name=libc.a")
        .output()
        .unwrap();
    let original = String::from_utf8(asked.stdout).unwrap();
    let object = workshop.compile(
        Compiler::Gnu,
        "strdup",
        "#include <stdlib.h>\n#include <string.h>\n\
         char *__strdup(const char *s) { size_t n = strlen(s) + 1; char *copy = malloc(n + 64); if (!copy) return 0;\n\
         memcpy(copy, s, n); copy[n] = 1; return copy; }\n\
         extern __typeof(__strdup) strdup __attribute__((weak, alias(\"__strdup\")));\n",
    );
    let folder = workshop.path("patched");
    std::fs::create_dir(&folder).unwrap();
    let archive = folder.join("libc.a");
    std::fs::copy(original.trim(), &archive).unwrap();
    let done = Command::new("ar")
        .args([Path::new("r"), &archive, Path::new(&object)])
        .status()
        .unwrap();
    assert!(done.success());
    format!("-L{}", folder.display())
}

#[test]
fn a_patched_c_library_leaves_all_others_as_they_are() {
    let workshop = Workshop::new();
    let patched = patched_c_library(&workshop);
    let text = source("cxx.cc").display().to_string();
    let features = workshop.features(Compiler::Gnu, 0, "-O2");
    let archive = features.join("libfeatures.a").display().to_string();
    let features = features.join("features.o").display().to_string();
    let names = [
        "-lm",
        "-Wl,-u,sqrt,-u,pow,-u,floor",
        "-Wl,-u,__divti3,-u,strdup",
    ];
    let mut registry = Asked::default();
    for (compiler, inputs) in [
        (Compiler::Cxx, vec!["-static", &text]),
        (Compiler::Gnu, vec!["-static", &features, &archive]),
    ] {
        let before = [&inputs[..], &names].concat();
        let after = [&inputs[..], &[&patched], &names].concat();
        let (old, old_libraries) = libraries(&workshop, &mut registry, compiler, &before);
        let (new, new_libraries) = libraries(&workshop, &mut registry, compiler, &after);
        let outputs =
            [old, new].map(|linked| run(&workshop.install("program", &linked), "program"));
        assert_eq!(outputs[0], outputs[1]);
        assert!(old_libraries.len() >= 5, "{:?}", old_libraries.keys());
        for (name, old) in &old_libraries {
            let new = &new_libraries[name];
            if name == "c" {
                assert_ne!(old.identity, new.identity);
            } else {
                assert!(old == new, "{name}: {} and {}", old.library, new.library);
            }
        }
    }
}

/// Every kind of instruction that refers to another library's variable.
#[test]
fn instructions_find_what_other_libraries_have_through_slots() {
    for options in ["-O0", "-O2", "-O2 -fno-pie"] {
        let workshop = Workshop::new();
        let compile = |name: &str| {
            let object = workshop.path(&format!("{name}.o"));
            let mut compiler = Command::new("gcc");
            compiler.args(options.split(' ')).arg("-c");
            let compiled = compiler
                .arg(source(&format!("{name}.c")))
                .arg("-o")
                .arg(&object);
            assert!(compiled.status().unwrap().success());
            object.display().to_string()
        };
        let main = workshop.compile(
            Compiler::Gnu,
            "main",
            "void run(void); int main(void) { run(); return 0; }",
        );
        let refers = workshop.archive("librefers.a", &[&compile("slots-lib")]);
        let other = workshop.archive("libother.a", &[&compile("slots-other")]);
        let arguments = ["-static", &main, &refers, &other];
        let expected = run(&workshop.reference(Compiler::Gnu, &arguments), "main");
        assert!(expected.contains("keeps 16 10\n"), "{expected}");
        let request = workshop.request(Compiler::Gnu, &arguments);
        let linked = link(&request, &mut AddressBook::default()).unwrap();
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        let pages = pages_of(&linked, "refers");
        assert_eq!((pages.own.0, pages.bound.0), (0, 0), "{options}: {pages:?}");
    }
}

/// What the command line defines beside a library's symbols is no part of the library, wherever it points.
#[test]
fn symbols_of_the_command_line_change_no_library() {
    let workshop = Workshop::new();
    let object = |name: &str, text: &str| workshop.compile(Compiler::Gnu, name, text);
    let main = object(
        "main",
        "#include <stdio.h>\nint get(void); int main(void) { printf(\"%d\\n\", get()); return 0; }",
    );
    let get = object(
        "get",
        "__asm__(\".text\\n.globl get\\n.type get, @function\\nget: movl $5, value(%rip)\\n\
         mov value+4(%rip), %eax\\nret\\n\");",
    );
    let get = workshop.archive("libget.a", &[&get]);
    let value = workshop.archive("libvalue.a", &[&object("value", "int value[2] = {1, 2};")]);
    let mut registry = Asked::default();
    let mut images = Vec::new();
    for option in ["-Wl,--defsym=inside=get+1", "-Wl,--defsym=beside=get"] {
        let arguments = ["-static", &main, &get, &value, option];
        let (linked, found) = libraries(&workshop, &mut registry, Compiler::Gnu, &arguments);
        assert_eq!(run(&workshop.install("main", &linked), "main"), "2\n");
        assert_eq!(pages_of(&linked, "get").bound.0, 0);
        images.push(found["get"].clone());
    }
    assert!(images[0] == images[1]);
}

/// What cannot be done through a slot is bound, or if much would be, on pages of the image's own.
#[test]
fn what_no_slot_can_stand_in_for_costs_little() {
    let workshop = Workshop::new();
    let text = |code: &str, padding: usize| {
        format!(
            "__asm__(\".data\\nmine: .quad 7\\n.text\\n.globl get\\n.type get, @function\\nget: {code}\\nret\\n\\
             .skip {padding}, 0x90\\n\");\n"
        )
    };
    let main = "#include <stdio.h>\nlong get(void);\n\
                int main(void) { printf(\"%ld\\n\", get()); return 0; }\n";
    let other = workshop.compile(Compiler::Gnu, "other", "long value = 5;");
    let other = workshop.archive("libother.a", &[&other]);
    let unused = workshop.compile(Compiler::Gnu, "unused", "const char unused[9000] = {1};");
    let pushes = ("pushq value(%rip)\\npop %rax", ["5\n", "6\n"]);
    // A field of its own beside the other's.
    let refers_twice = (
        "movq $mine, value(%rip)\\nmov value(%rip), %rax\\nmov (%rax), %rax",
        ["7\n", "7\n"],
    );
    // A computed goto: where it leads, all registers mean something.
    let goes = (
        "lea 1f(%rip), %rax\\nlea value(%rip), %rcx\\nmov %rax, (%rcx)\\nmov $9, %r11d\\njmp *value(%rip)\\n\
         1: mov %r11, %rax",
        ["9\n", "9\n"],
    );
    for ((code, expected), padding, own, bound) in [
        (pushes, 0, 0, 1),
        (goes, 0, 0, 1),
        (goes, 20_000, 1, 0),
        (pushes, 20_000, 1, 0),
        (refers_twice, 0, 0, 1),
        (refers_twice, 20_000, 1, 0),
    ] {
        let object = workshop.compile(Compiler::Gnu, "get", &text(code, padding));
        let get = workshop.archive("libget.a", &[&object, &unused]);
        let mut registry = Asked::default();
        let mut images = Vec::new();
        for (definition, expected) in ["", "long value = 6;"].into_iter().zip(expected) {
            let main = workshop.compile(Compiler::Gnu, "main", &format!("{main}{definition}"));
            let arguments = ["-static", &main, &get, &other];
            let (linked, found) = libraries(&workshop, &mut registry, Compiler::Gnu, &arguments);
            assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
            let pages = pages_of(&linked, "get");
            assert_eq!((pages.own.0, pages.bound.0), (own, bound), "{pages:?}");
            if own > 0 {
                assert_eq!(pages.because[0].symbol, "value");
            }
            images.push(found["get"].clone());
        }
        assert!(images[0] == images[1]);
    }
}

/// Data with a name of its own is the library's as other data is, until a program has more of the name.
#[test]
fn data_that_is_alone_under_its_name_lies_with_its_library() {
    let workshop = Workshop::new();
    let library = "__attribute__((section(\".shelf\"))) long shelf[2] = {1, 2};\n\
                   long sum(void) { return shelf[0] + shelf[1]; } long *where(void) { return shelf; }\n";
    let library = workshop.compile(Compiler::Gnu, "shelf", library);
    let unused = workshop.compile(Compiler::Gnu, "unused", "const char unused[9000] = {1};");
    let archive = workshop.archive("libshelf.a", &[&library, &unused]);
    let alone = "#include <stdio.h>\nlong sum(void), *where(void);\n\
                 int main(void) { where()[1] = 7; printf(\"%ld\\n\", sum()); return 0; }\n";
    let beside = "#include <stdio.h>\nlong sum(void), *where(void);\n\
                  __attribute__((section(\".shelf\"))) long first[2] = {10};\n\
                  int main(void) { where()[1] = 7; printf(\"%ld %d\\n\", sum(), where() == first + 2); return 0; }\n";
    let mut registry = Asked::default();
    let mut images = Vec::new();
    for (main, expected, own) in [(alone, "8\n", 0), (beside, "8 1\n", 1)] {
        let main = workshop.compile(Compiler::Gnu, "main", main);
        let arguments = ["-static", &main, &archive];
        assert_eq!(
            run(&workshop.reference(Compiler::Gnu, &arguments), "main"),
            expected
        );
        let (linked, found) = libraries(&workshop, &mut registry, Compiler::Gnu, &arguments);
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        let pages = pages_of(&linked, "shelf");
        assert_eq!((pages.own.0, pages.bound.0), (own, 0), "{pages:?}");
        images.push(found["shelf"].clone());
    }
    assert!(images[0] == images[1]);
}
