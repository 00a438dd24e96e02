//! The linker against real inputs: what it links runs like what GNU ld links, and the shared
//! pages of a library are the same bytes in every image.

use std::collections::BTreeMap;

use crate::support::{Compiler, Workshop, guests, run};
use goblin::elf::Elf;
use goblin::elf::program_header::{PF_W, PF_X, PT_LOAD, PT_TLS};
use pool_core::name::LibraryRef;
use pool_core::registry::{AddressBook, Reservation, ReservationRequest};
use pool_image::layout::{LAYOUT_SECTION, LinkLayout};
use pool_image::link::{LinkError, Linked, Registry, RegistryError, link};

const PROGRAMS: [&str; 5] = [
    "hello",
    "zlib-roundtrip",
    "sqlite-workload",
    "lua-script",
    "touch8m",
];
/// Takes a library into a program that does not use it.
const TAKE: [&str; 3] = [
    "-Wl,-u,zlibVersion",
    "-Wl,-u,sqlite3_libversion",
    "-Wl,-u,luaL_newstate",
];

/// Links a guest program with its own libraries, and all others of the three if `all`.
fn link_guest(workshop: &Workshop, book: &mut AddressBook, program: &str, all: bool) -> Linked {
    let guests = guests();
    let libs = std::fs::read_to_string(guests.join(format!("{program}.libs"))).unwrap();
    let object = guests.join(format!("{program}.o"));
    let folder = format!("-L{}", guests.display());
    let names = format!("-Wl,@{}", guests.join("pool-library.args").display());
    let mut arguments = vec!["-static", object.to_str().unwrap(), &folder, &names];
    arguments.extend(libs.split_whitespace());
    if all {
        arguments.extend(["-lz", "-llua", "-lsqlite3"]);
        arguments.extend(TAKE);
    }
    let request = workshop.request(Compiler::Musl, &arguments);
    link(&request, book).unwrap()
}

/// The bytes of each library's shared range as they are in every image: those of the segment, but for pages that the
/// image has of its own.
fn shared_ranges(linked: &Linked) -> BTreeMap<LibraryRef, Vec<u8>> {
    let elf = Elf::parse(&linked.elf).unwrap();
    let described = pool_image::describe::describe(&linked.elf).unwrap();
    let mut ranges = BTreeMap::new();
    for placed in &linked.layout.libraries {
        let shared = placed.shared;
        let segment = elf
            .program_headers
            .iter()
            .find(|p| p.p_type == PT_LOAD && p.p_vaddr == shared.start.0)
            .expect("a library has a segment of its own");
        assert_eq!(segment.p_filesz, shared.pages.bytes(), "whole pages");
        assert_eq!(segment.p_memsz, segment.p_filesz);
        assert_eq!(segment.p_flags & PF_W, 0, "shared pages are read-only");
        let start = segment.p_offset as usize;
        let bytes = &linked.elf[start..start + segment.p_filesz as usize];
        let used = described.description.libraries.iter();
        let used = used.clone().find(|used| used.library == placed.library);
        let object = described.object(&used.unwrap().object).unwrap();
        let elsewhere = object.content.bytes().into_owned();
        let pages = bytes.chunks(4096).zip(elsewhere.chunks(4096)).enumerate();
        for (page, (here, elsewhere)) in pages {
            let own = placed.own.iter().any(|own| own.0 == page as u64);
            assert_eq!(own, here != elsewhere, "{}: page {page}", placed.library);
        }
        ranges.insert(placed.library.clone(), elsewhere);
    }
    ranges
}

#[test]
fn programs_run_as_when_linked_by_gnu_ld() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    for program in PROGRAMS {
        let linked = link_guest(&workshop, &mut book, program, false);
        let ours = workshop.install(program, &linked);
        let reference = guests().join("reference").join(program);
        let expected = run(&reference, program);
        assert!(expected.len() > 10, "{program} prints something");
        assert_eq!(run(&ours, program), expected, "{program}");
        assert_eq!(linked.warnings, Vec::<String>::new(), "{program}");
    }
}

#[test]
fn shared_pages_are_the_same_in_every_image() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let mut seen: BTreeMap<LibraryRef, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for all in [false, true] {
        for program in PROGRAMS {
            let linked = link_guest(&workshop, &mut book, program, all);
            let ours = workshop.install(program, &linked);
            assert!(!run(&ours, program).is_empty());
            for (library, bytes) in shared_ranges(&linked) {
                seen.entry(library)
                    .or_default()
                    .push((format!("{program}, all {all}"), bytes));
            }
        }
    }
    for name in ["musl", "zlib", "sqlite", "lua"] {
        let (library, images) = seen
            .iter()
            .find(|(library, _)| library.name.as_str() == name)
            .unwrap();
        assert!(images.len() >= 5, "{library} is in {} images", images.len());
        let (first, bytes) = &images[0];
        assert!(bytes.len() > 10 * 4096 && bytes.iter().any(|b| *b != 0));
        for (image, others) in images {
            let difference = bytes.iter().zip(others).position(|(a, b)| a != b);
            assert_eq!(difference, None, "{library} in {first} and in {image}");
            assert_eq!(bytes.len(), others.len());
        }
    }
}

#[test]
fn the_order_of_libraries_on_the_command_line_does_not_matter() {
    let workshop = Workshop::new();
    let guests = guests();
    let object = guests.join("hello.o");
    let folder = format!("-L{}", guests.display());
    let mut book = AddressBook::default();
    let mut images = Vec::new();
    for order in [["-lz", "-llua", "-lsqlite3"], ["-lsqlite3", "-lz", "-llua"]] {
        let mut arguments = vec!["-static", object.to_str().unwrap(), &folder];
        arguments.extend(order);
        arguments.extend(TAKE);
        let request = workshop.request(Compiler::Musl, &arguments);
        images.push(shared_ranges(&link(&request, &mut book).unwrap()));
    }
    assert_eq!(images[0].len(), 4, "musl, zlib, Lua and SQLite");
    assert!(images[0] == images[1]);
}

#[test]
fn the_same_inputs_give_the_same_file() {
    let workshop = Workshop::new();
    let link_once = || {
        let mut book = AddressBook::default();
        link_guest(&workshop, &mut book, "zlib-roundtrip", true).elf
    };
    assert!(link_once() == link_once());
}

#[test]
fn pages_of_the_file_are_pages_of_memory() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    for program in PROGRAMS {
        let linked = link_guest(&workshop, &mut book, program, true);
        let elf = Elf::parse(&linked.elf).unwrap();
        let mut end = 0;
        let mut headers_loaded = false;
        for segment in elf.program_headers.iter().filter(|p| p.p_type == PT_LOAD) {
            assert_eq!(segment.p_offset % 4096, segment.p_vaddr % 4096);
            assert_ne!(segment.p_flags & (PF_W | PF_X), PF_W | PF_X);
            assert!(segment.p_vaddr >= end, "segments share no page");
            end = (segment.p_vaddr + segment.p_memsz).next_multiple_of(4096);
            let headers = elf.header.e_phoff + 56 * u64::from(elf.header.e_phnum);
            headers_loaded |= segment.p_offset == 0 && segment.p_filesz >= headers;
        }
        assert!(headers_loaded);
        let section = elf
            .section_headers
            .iter()
            .find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(LAYOUT_SECTION))
            .unwrap();
        let text = &linked.elf[section.file_range().unwrap()];
        let layout: LinkLayout = serde_json::from_slice(text).unwrap();
        assert_eq!(layout, linked.layout);
    }
}

#[test]
fn descriptions_find_the_libraries() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let linked = link_guest(&workshop, &mut book, "hello", true);
    let described = pool_image::describe::describe(&linked.elf).unwrap();
    let mut found: Vec<_> = described
        .description
        .libraries
        .iter()
        .map(|used| (used.library.clone(), used.address))
        .collect();
    let placed = linked.layout.libraries.iter();
    let mut expected: Vec<_> = placed
        .map(|p| (p.library.clone(), p.shared.start))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 4);
}

/// `.tbss` takes no addresses: here the entry point lies where its own seem to.
#[test]
fn much_zeroed_thread_local_memory_is_not_code_left_out() {
    let workshop = Workshop::new();
    let program = workshop.compile(
        Compiler::Musl,
        "threads",
        "#include <stdio.h>\n__thread volatile char large[9000];\n\
         int main(void) { puts(large[8999] ? \"set\" : \"zero\"); return 0; }",
    );
    let request = workshop.request(Compiler::Musl, &["-static", &program]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let elf = Elf::parse(&linked.elf).unwrap();
    let named = |name| {
        let mut headers = elf.section_headers.iter();
        headers.find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(name))
    };
    assert!(
        named(".tbss")
            .unwrap()
            .vm_range()
            .contains(&(elf.entry as usize))
    );
    pool_image::describe::describe(&linked.elf).unwrap();
}

#[test]
fn stripping_and_other_options_are_followed() {
    let workshop = Workshop::new();
    let program = workshop.compile(
        Compiler::Gnu,
        "small",
        "#include <stdio.h>\nint main(void) { puts(\"small\"); return 0; }",
    );
    let sections = |options: &[&str]| {
        let mut arguments = vec!["-static", program.as_str()];
        arguments.extend(options);
        let request = workshop.request(Compiler::Gnu, &arguments);
        let linked = link(&request, &mut AddressBook::default()).unwrap();
        assert_eq!(run(&workshop.install("small", &linked), "small"), "small\n");
        let elf = Elf::parse(&linked.elf).unwrap();
        let headers = elf.section_headers.iter();
        let names = headers.filter_map(|s| elf.shdr_strtab.get_at(s.sh_name));
        (names.map(str::to_owned).collect::<Vec<_>>(), linked)
    };
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let (names, linked) = sections(&["-Wl,--build-id=0x12345678", "-Wl,-Map,map"]);
    assert!(has(&names, ".symtab") && has(&names, ".note.gnu.build-id"));
    assert!(linked.elf.windows(8).any(|w| w == b"GNU\0\x12\x34\x56\x78"));
    assert!(linked.map.unwrap().contains("small.o"));
    let (names, linked) = sections(&["-s", "-Wl,--build-id=none"]);
    assert!(!has(&names, ".symtab") && !has(&names, ".note.gnu.build-id"));
    assert!(has(&names, LAYOUT_SECTION) && linked.map.is_none());
}

#[test]
fn every_code_model_of_thread_local_and_imported_symbols_works() {
    let workshop = Workshop::new();
    for compiler in [Compiler::Gnu, Compiler::Musl] {
        let mut book = AddressBook::default();
        for (number, options) in [
            "-O2",
            "-O2 -fPIC",
            "-O0 -fno-pie",
            "-O2 -fPIC -mtls-dialect=gnu2",
            "-O1 -fPIC -fcommon -fno-plt",
            "-O2 -fPIC -ftls-model=local-dynamic",
            "-Os -ffunction-sections -fdata-sections -fno-pie",
        ]
        .iter()
        .enumerate()
        {
            let folder = workshop.features(compiler, number, options);
            let file = |name: &str| folder.join(name).display().to_string();
            let (program, library) = (file("features.o"), file("libfeatures.a"));
            let request = workshop.request(compiler, &["-static", &program, &library]);
            let linked = link(&request, &mut book).unwrap();
            let ours = workshop.install("features", &linked);
            let expected = run(&folder.join("reference"), "features");
            assert!(expected.contains("library destructor"));
            assert_eq!(run(&ours, "features"), expected, "{compiler:?} {options}");
            let elf = Elf::parse(&linked.elf).unwrap();
            assert!(elf.program_headers.iter().any(|p| p.p_type == PT_TLS));
        }
    }
}

#[test]
fn imports_leave_the_shared_pages_alone() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let folder = workshop.features(Compiler::Musl, 90, "-O2");
    let library = folder.join("libfeatures.a").display().to_string();
    let program = folder.join("features.o").display().to_string();
    let other = workshop.compile(
        Compiler::Musl,
        "other",
        "int pad[500]; int application_data = 4; int library_run(int);\n\
         int application_callback(int x) { return x - 1; }\n\
         int application_lacks_this(int x) { return x + 40; }\n\
         int main(void) { return library_run(2); }\n",
    );
    let mut images = Vec::new();
    let mut texts = Vec::new();
    for object in [program, other] {
        let request = workshop.request(Compiler::Musl, &["-static", &object, &library]);
        let linked = link(&request, &mut book).unwrap();
        texts.push(run(&workshop.install("imports", &linked), "imports"));
        images.push(shared_ranges(&linked));
    }
    assert!(texts[0].contains("weak -1") && texts[1].contains("weak 41"));
    assert!(texts[1].contains("callback 1 1 1, data 4"), "{}", texts[1]);
    assert!(images[0] == images[1]);
    assert_eq!(images[0].len(), 2);
}

#[test]
fn debian_s_c_library_and_c_plus_plus_work() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let source = crate::support::source("cxx.cc");
    let mut images = Vec::new();
    let hello = guests().join("hello.o").display().to_string();
    let hello_c = workshop.compile(
        Compiler::Gnu,
        "glibc-hello",
        "#include <stdio.h>\n#include <string.h>\n\
         int main(int c, char **v) { printf(\"%s %zu\\n\", v[0], strlen(v[0])); return c - 1; }\n",
    );
    assert!(std::path::Path::new(&hello).exists());
    for (compiler, input) in [
        (Compiler::Gnu, hello_c.as_str()),
        (Compiler::Cxx, source.to_str().unwrap()),
    ] {
        let reference = workshop.reference(compiler, &["-static", input]);
        let request = workshop.request(compiler, &["-static", input]);
        let linked = link(&request, &mut book).unwrap();
        let ours = workshop.install("program", &linked);
        assert_eq!(run(&ours, "program"), run(&reference, "program"));
        let libc = linked
            .libraries
            .iter()
            .find(|l| l.library.name.as_str() == "c")
            .unwrap();
        assert!(
            libc.shared.0 > 300 && libc.bound.0 * 20 < libc.shared.0,
            "{libc:?}"
        );
        images.push(shared_ranges(&linked));
    }
    let common = images[0]
        .iter()
        .filter(|(library, bytes)| images[1].get(*library) == Some(*bytes));
    assert_eq!(common.count(), images[0].len());
}

#[test]
fn a_version_with_other_contents_is_refused() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let program = workshop.compile(
        Compiler::Musl,
        "main",
        "int f(void); int main(void){return f();}",
    );
    for (contents, accepted) in [("1", true), ("1", true), ("2", false)] {
        let object = workshop.compile(
            Compiler::Musl,
            "part",
            &format!("int f(void) {{ return {contents}; }}"),
        );
        let archive = workshop.archive("libpart.a", &[&object]);
        let name = format!("-Wl,--pool-library,{archive}=part@1");
        let request = workshop.request(Compiler::Musl, &["-static", &program, &archive, &name]);
        match link(&request, &mut book) {
            Ok(_) => assert!(accepted),
            Err(LinkError::Registry(source)) => {
                assert!(!accepted);
                assert!(matches!(source, RegistryError::Refused(_)));
                assert!(source.to_string().contains("choose another version name"));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Counts how often it is asked.
#[derive(Default)]
struct Asked {
    book: AddressBook,
    times: usize,
}

impl Registry for Asked {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        self.times += 1;
        Registry::reserve(&mut self.book, requests)
    }
}

/// A registry may be far away, and makes each answer durable.
#[test]
fn a_registry_is_asked_once_for_a_link() {
    let workshop = Workshop::new();
    let object = |name: &str, text: &str| workshop.compile(Compiler::Musl, name, text);
    let program = object(
        "main",
        "int f(void), g(void); int main(void) { return f() + g(); }",
    );
    let f = workshop.archive("libf.a", &[&object("f", "int f(void) { return 1; }")]);
    let g = workshop.archive("libg.a", &[&object("g", "int g(void) { return 2; }")]);
    let request = workshop.request(Compiler::Musl, &["-static", &program, &f, &g]);
    let mut registry = Asked::default();
    link(&request, &mut registry).unwrap();
    assert_eq!(registry.times, 1);
    assert!(registry.book.reservations().len() >= 3);
}

/// A program that has one of its own of what a library refers to.
#[test]
fn what_a_program_replaces_is_replaced_in_its_libraries() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let object = |name: &str, text: &str| workshop.compile(Compiler::Musl, name, text);
    let library = [
        object(
            "run",
            "int value(void); int (*address(void))(void) { return value; } extern int number;\n\
             int run(void) { return value() + number; }",
        ),
        object("value", "int value(void) { return 1; }"),
        object("number", "int number = 10;"),
        object("unused", "const char table[20000] = {1};"),
    ];
    let members: Vec<&str> = library.iter().map(String::as_str).collect();
    let archive = workshop.archive("librun.a", &members);
    let main = "#include <stdio.h>\nint run(void), value(void); int (*address(void))(void);\n\
                int main(void) { printf(\"%d %d\\n\", run(), address() == value); return 0; }\n";
    let mut images = Vec::new();
    for (definitions, expected, own) in [
        ("", "11 1\n", 0),
        ("int value(void) { return 2; }", "12 1\n", 1),
        ("int number = 20;", "21 1\n", 1),
        ("int value(void) { return 3; } int number;", "3 1\n", 1),
    ] {
        let program = object("main", &format!("{main}{definitions}"));
        let request = workshop.request(Compiler::Musl, &["-static", &program, &archive]);
        let linked = link(&request, &mut book).unwrap();
        let name = |l: &&pool_image::link::LibraryPages| l.library.name.as_str() == "run";
        let pages = linked.libraries.iter().find(name).unwrap();
        assert_eq!(pages.own.0, own, "{definitions}: {pages:?}");
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        images.push(shared_ranges(&linked));
    }
    assert!(images.iter().all(|image| *image == images[0]));
}

/// `malloc` and hooks of libraries are found through the offset table: no page differs.
#[test]
fn what_programs_are_known_to_replace_costs_no_page() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let hook = workshop.compile(
        Compiler::Gnu,
        "hook",
        "#include <stdio.h>\n__attribute__((weak)) void hook(void) { puts(\"the library's\"); }\n\
         void call(void) { hook(); }",
    );
    let archive = workshop.archive("libhook.a", &[&hook]);
    let plain = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
                 void call(void); int main(void) { char *s = strdup(\"text\"); call(); puts(s); free(s); }\n";
    let own = "static char heap[1 << 20]; static size_t used, calls; void hook(void) { puts(\"its own\"); }\n\
               void *malloc(size_t n) { calls++; return heap + (used += n + 15 & -16ul) - (n + 15 & -16ul); }\n\
               void *calloc(size_t n, size_t m) { return malloc(n * m); } void free(void *p) { }\n\
               void *realloc(void *p, size_t n) { return malloc(n); }\n\
               __attribute__((destructor)) static void tell(void) { puts(calls ? \"called\" : \"not called\"); }\n";
    let mut images = Vec::new();
    for (text, expected) in [
        (plain.to_owned(), "the library's\ntext\n"),
        (format!("{plain}{own}"), "its own\ntext\ncalled\n"),
    ] {
        let program = workshop.compile(Compiler::Gnu, "main", &text);
        let request = workshop.request(Compiler::Gnu, &["-static", &program, &archive]);
        let linked = link(&request, &mut book).unwrap();
        assert_eq!(run(&workshop.install("main", &linked), "main"), expected);
        let own: u64 = linked.libraries.iter().map(|library| library.own.0).sum();
        assert_eq!(own, 0, "{:?}", linked.libraries);
        images.push(shared_ranges(&linked));
    }
    assert!(images[0] == images[1]);
}

#[test]
fn two_definitions_of_a_program_are_refused() {
    let workshop = Workshop::new();
    let object = workshop.compile(
        Compiler::Musl,
        "lib",
        "int value(void) { return 1; } int seen_by_library(void) { return value(); }",
    );
    let archive = workshop.archive("libboth.a", &[&object]);
    let program = workshop.compile(
        Compiler::Musl,
        "both",
        "int value(void) { return 2; } int seen_by_library(void);\n\
         int main(void) { return value() + seen_by_library(); }",
    );
    let arguments = ["-static", program.as_str(), archive.as_str()];
    let request = workshop.request(Compiler::Musl, &arguments);
    let refused = link(&request, &mut AddressBook::default());
    assert!(
        matches!(&refused, Err(LinkError::Duplicate { symbol, .. }) if symbol == "value"),
        "{refused:?}"
    );
}
