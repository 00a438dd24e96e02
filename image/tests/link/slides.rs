//! What the linker records of addresses, so that an image can start elsewhere.

use std::collections::BTreeSet;

use crate::support::{Compiler, Workshop, run};
use goblin::elf::Elf;
use goblin::elf::program_header::{PT_LOAD, PT_TLS};
use pool_core::description::Slide;
use pool_core::registry::AddressBook;
use pool_core::slide::{FieldKind, SlideRecord};
use pool_image::describe::{DescribeError, describe};
use pool_image::layout::SLIDE_SECTION;
use pool_image::link::{Linked, link};

/// Addresses and targets of the addresses that a record names, one by one.
fn addresses(record: &SlideRecord) -> Vec<(u64, usize)> {
    let fields = record
        .fields()
        .filter(|fields| fields.kind == FieldKind::Address);
    fields
        .flat_map(|fields| {
            (0..fields.count).map(move |nth| (fields.address + 8 * nth, fields.target))
        })
        .collect()
}

fn section<'l>(linked: &'l Linked, name: &str) -> Option<(u64, &'l [u8])> {
    let elf = Elf::parse(&linked.elf).unwrap();
    let mut sections = elf.section_headers.iter();
    let found = sections.find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(name))?;
    Some((found.sh_addr, &linked.elf[found.file_range()?]))
}

fn record(linked: &Linked) -> SlideRecord {
    assert_eq!(linked.layout.fixed, None);
    SlideRecord::parse(section(linked, SLIDE_SECTION).unwrap().1).unwrap()
}

fn word(linked: &Linked, address: u64) -> u64 {
    let elf = Elf::parse(&linked.elf).unwrap();
    let mut segments = elf.program_headers.iter().filter(|p| p.p_type == PT_LOAD);
    let holds = |p: &&goblin::elf::ProgramHeader| {
        p.p_vaddr <= address && address + 8 <= p.p_vaddr + p.p_filesz
    };
    let segment = segments
        .find(holds)
        .unwrap_or_else(|| panic!("nothing at {address:#x}"));
    let at = (segment.p_offset + (address - segment.p_vaddr)) as usize;
    u64::from_le_bytes(linked.elf[at..at + 8].try_into().unwrap())
}

/// Checks that what is recorded to hold an address of a unit does hold one, or the first behind it.
pub(crate) fn check_addresses(linked: &Linked) {
    let record = record(linked);
    let found = addresses(&record);
    assert!(found.len() > 20, "{}", found.len());
    for (at, target) in found {
        let held = word(linked, at);
        let mut runs = record.units()[target].iter();
        let is_there = runs.any(|run| (run.start.0..=run.end().0).contains(&held));
        assert!(is_there, "{at:#x} holds {held:#x}, not of unit {target}");
    }
}

/// The words of a section, each with its address.
fn words(linked: &Linked, name: &str) -> Vec<(u64, u64)> {
    let Some((address, bytes)) = section(linked, name) else {
        return Vec::new();
    };
    let words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    (address..).step_by(8).zip(words).collect()
}

fn features(
    workshop: &Workshop,
    compiler: Compiler,
    number: usize,
    options: &str,
    more: &[&str],
) -> Linked {
    let folder = workshop.features(compiler, number, options);
    let [object, archive] =
        ["features.o", "libfeatures.a"].map(|name| folder.join(name).display().to_string());
    let arguments = [&["-static", &object, &archive], more].concat();
    let request = workshop.request(compiler, &arguments);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let program = workshop.install("features", &linked);
    assert_eq!(
        run(&program, "features"),
        run(&folder.join("reference"), "features")
    );
    linked
}

#[test]
fn every_address_is_recorded_and_nothing_else() {
    let workshop = Workshop::new();
    for (number, compiler) in [(0, Compiler::Musl), (1, Compiler::Gnu)] {
        let linked = features(&workshop, compiler, number, "-O2 -fPIE", &[]);
        let record = record(&linked);
        let all = addresses(&record);
        assert!(all.len() > 20, "{}", all.len());
        for &(at, target) in &all {
            let to = word(&linked, at);
            let [shared, private] = record.units()[target];
            let holds =
                |run: pool_core::registry::AddressRange| (run.start.0..=run.end().0).contains(&to);
            assert!(
                holds(shared) || holds(private),
                "{at:#x} holds {to:#x}, not of unit {target}"
            );
        }
        let recorded: BTreeSet<u64> = all.iter().map(|(at, _)| *at).collect();
        // Nothing else in the application's data looks like an address.
        let mut seen = 0;
        for name in [
            ".init_array",
            ".fini_array",
            ".preinit_array",
            ".got",
            ".data.rel.ro",
            ".data",
        ] {
            for (at, word) in words(&linked, name) {
                let is_address = (0x40_0000..0x7000_0000).contains(&word);
                assert_eq!(
                    recorded.contains(&at),
                    is_address,
                    "{name}: {at:#x} holds {word:#x}"
                );
                seen += usize::from(is_address);
            }
        }
        assert!(seen > 3, "{seen}");
        // Functions that choose their implementation: where the choice goes, and who makes it.
        for (nth, (at, _)) in words(&linked, ".rela.plt").into_iter().enumerate() {
            assert_eq!(recorded.contains(&at), nth % 3 != 1);
        }
        let elf = Elf::parse(&linked.elf).unwrap();
        assert!(recorded.contains(&(0x40_0000 + 24)), "the entry");
        for (nth, header) in (0..).zip(&elf.program_headers) {
            let at = 0x40_0000 + 64 + 56 * nth + 16;
            assert_eq!(recorded.contains(&at), header.p_vaddr != 0, "header {nth}");
        }
        assert!(
            elf.program_headers
                .iter()
                .any(|header| header.p_type == PT_TLS)
        );
        let described = describe(&linked.elf).unwrap();
        assert!(matches!(
            described.description.slide,
            Some(Slide::Record { .. })
        ));
    }
}

/// Arrays of constructors of the old kind are turned round, with what is recorded of them.
#[test]
fn reversed_arrays_are_recorded_where_they_come_to_lie() {
    let workshop = Workshop::new();
    let text = "int printf(const char *, ...);
        static void a(void) { printf(\"a\\n\"); } static void b(void) { printf(\"b\\n\"); }
        __attribute__((section(\".ctors\"), used)) static void (*const pointers[])(void) = {a, b, 0};
        int main(void) { return 0; }";
    let object = workshop.compile(Compiler::Musl, "ctors", text);
    let request = workshop.request(Compiler::Musl, &["-static", &object]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let recorded: BTreeSet<u64> = addresses(&record(&linked))
        .iter()
        .map(|(at, _)| *at)
        .collect();
    let array = words(&linked, ".init_array");
    assert!(array.len() >= 3);
    for (at, word) in &array {
        assert_eq!(recorded.contains(at), *word != 0, "{array:x?}");
    }
}

/// Lines of C that take the addresses of so many of `bytes`, in 32 bits each.
fn of_addresses(count: u32) -> String {
    let line = |nth| {
        format!("__asm__ volatile(\"mov $bytes+{nth}, %%eax\" : \"=a\"(at)); sum += *(char *)at;\n")
    };
    (0..count).map(line).collect()
}

#[test]
fn code_with_few_addresses_loads_them_and_with_many_is_fixed() {
    let workshop = Workshop::new();
    let mut reasons = Vec::new();
    for count in [20, 40] {
        let lines = of_addresses(count);
        let text = format!(
            "int printf(const char *, ...); char bytes[64] = {{1, 2, 3, 4}};
             int main(void) {{ unsigned long at; long sum = 0; {lines} return printf(\"%ld\\n\", sum) < 0; }}"
        );
        let object = workshop.compile(Compiler::Musl, &format!("addresses{count}"), &text);
        let request = workshop.request(Compiler::Musl, &["-static", &object]);
        let linked = link(&request, &mut AddressBook::default()).unwrap();
        let program = workshop.install("addresses", &linked);
        assert_eq!(run(&program, "addresses"), "10\n");
        assert_eq!(
            section(&linked, SLIDE_SECTION).is_none(),
            linked.layout.fixed.is_some()
        );
        let described = describe(&linked.elf).unwrap().description.slide;
        let why = match described.unwrap() {
            Slide::Fixed { why } => Some(why),
            Slide::Record { .. } => None,
        };
        assert_eq!(why, linked.layout.fixed);
        reasons.push(why);
    }
    assert_eq!(reasons[0], None);
    let why = reasons[1].as_deref().unwrap();
    assert!(
        why.contains("addresses40.o: .text")
            && why.contains("address of bytes")
            && why.contains("(R_X86_64_32)"),
        "{why}"
    );
    assert!(
        why.contains("39 more places") && why.contains("-fPIE"),
        "{why}"
    );
}

/// What can't slide for one object's sake has no other object's code rewritten so that it could.
#[test]
fn code_with_few_addresses_stays_as_it_is_where_others_have_many() {
    let workshop = Workshop::new();
    let part = |name: &str, count: u32| {
        let lines = of_addresses(count);
        let text = format!(
            "extern char bytes[64]; long {name}(void) {{ unsigned long at = 0; long sum = 0; {lines} return sum + at * 0; }}"
        );
        workshop.compile(Compiler::Musl, &format!("{name}{count}"), &text)
    };
    let text =
        "int printf(const char *, ...); long few(void); long many(void); char bytes[64] = {1, 2, 3, 4};
        int main(void) { return printf(\"%ld\\n\", few() + many()) < 0; }";
    let main = workshop.compile(Compiler::Musl, "main", text);
    let few = part("few", 20);
    let mut written = Vec::new();
    for (name, second) in [("slides", part("many", 20)), ("stays", part("many", 40))] {
        let request = workshop.request(Compiler::Musl, &["-static", &main, &few, &second]);
        let linked = link(&request, &mut AddressBook::default()).unwrap();
        let program = workshop.install(name, &linked);
        assert_eq!(run(&program, name), "20\n");
        let elf = Elf::parse(&linked.elf).unwrap();
        let mut symbols = elf.syms.iter();
        let bytes = symbols.find(|symbol| elf.strtab.get_at(symbol.st_name) == Some("bytes"));
        let bytes = bytes.unwrap().st_value as u32;
        let code = section(&linked, ".text").unwrap().1;
        let is_taken = |instruction: &[u8]| {
            let address = u32::from_le_bytes(instruction[1..].try_into().unwrap());
            instruction[0] == 0xb8 && (bytes..bytes + 64).contains(&address)
        };
        let taken = code.windows(5).filter(|instruction| is_taken(instruction));
        written.push((taken.count(), fixed(&linked).map(str::to_owned)));
    }
    assert_eq!(written[0], (0, None));
    let (taken, why) = &written[1];
    let why = why.as_deref().unwrap();
    assert_eq!(*taken, 60);
    // The one that would have followed is no reason.
    assert!(
        why.contains("many40.o: .text") && why.contains("39 more places"),
        "{why}"
    );
}

fn fixed(linked: &Linked) -> Option<&str> {
    linked.layout.fixed.as_deref()
}

#[test]
fn numbers_stay_where_what_refers_to_them_moves() {
    let workshop = Workshop::new();
    let text = "int printf(const char *, ...); extern char number[]; char *held = number;
        int main(void) { return printf(\"%p %d\\n\", (void *)number, held == number) < 0; }";
    let object = workshop.compile(Compiler::Gnu, "number", text);
    let define = "-Wl,--defsym=number=0x12345";
    let request = workshop.request(Compiler::Gnu, &["-static", &object, define]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    assert_eq!(fixed(&linked), None);
    for (at, _) in addresses(&record(&linked)) {
        assert_ne!(word(&linked, at), 0x12345, "{at:#x}");
    }
    let program = workshop.install("number", &linked);
    assert_eq!(run(&program, "number"), "0x12345 1\n");

    // A call of one is as far from it as it was linked.
    let text = "void number(void); int main(void) { number(); return 0; }";
    let object = workshop.compile(Compiler::Gnu, "call", text);
    let request = workshop.request(Compiler::Gnu, &["-static", &object, define]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let why = fixed(&linked).unwrap();
    assert!(
        why.contains("call.o: .text") && why.contains("number, which is a number"),
        "{why}"
    );
    assert!(!why.contains("-fPIE"), "{why}");
}

/// What an inline function uses of its own object moves, too, if the library's copy is that of a member which is not in the program.
#[test]
fn constants_of_members_for_a_copy_are_recorded() {
    let workshop = Workshop::new();
    // What is called as compilers call their own tables is not compared, so that any copy will do.
    let header =
        "static const char *const names[] __asm__(\"names.7\") = {\"zero\", \"one\", \"two\"};
        __attribute__((noinline)) inline const char *name(int n) { return names[n]; }\n";
    let member = |name: &str| {
        let text = format!("{header}const char *{name}(int n) {{ return name(n + 1); }}");
        workshop.compile(Compiler::Cxx, name, &text)
    };
    let (first, second) = (member("first"), member("second"));
    let archive = workshop.archive("libnames.a", &[&first, &second]);
    let text = "#include <stdio.h>\nconst char *second(int); int main() { puts(second(0)); }";
    let main = workshop.compile(Compiler::Cxx, "main", text);
    let request = workshop.request(Compiler::Cxx, &["-static", &main, &archive]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let program = workshop.install("names", &linked);
    assert_eq!(run(&program, "names"), "one\n");
    let record = record(&linked);
    let recorded: BTreeSet<u64> = addresses(&record).iter().map(|(at, _)| *at).collect();
    let (start, bytes) = section(&linked, ".rodata.names").unwrap();
    let inside = start..start + bytes.len() as u64;
    let held = words(&linked, ".rodata.names");
    let held: Vec<u64> = held
        .iter()
        .filter(|(_, word)| inside.contains(word))
        .map(|(at, _)| *at)
        .collect();
    // Both members' tables: the one that is used, and the one of what is in the program.
    assert_eq!(held.len(), 6, "{held:x?}");
    assert!(held.iter().all(|at| recorded.contains(at)), "{held:x?}");
}

/// The end of all that is loaded is behind every library, which it is no more once these lie elsewhere.
#[test]
fn an_image_that_asks_for_its_end_moves_in_one_piece() {
    let workshop = Workshop::new();
    let script = workshop.path("bootinfo.lds");
    let text = "SECTIONS { .uk_bootinfo : { KEEP(*(.uk_bootinfo)) } } INSERT AFTER .data";
    std::fs::write(&script, text).unwrap();
    let script = format!("-Wl,-T,{}", script.display());
    for (name, asks) in [("asks", true), ("other", false)] {
        let end = if asks { "_end" } else { "0" };
        let text = format!(
            "#include <stdio.h>\nextern char _end[]; __attribute__((section(\".uk_bootinfo\"))) int information[4] = {{1}}; \
             int main(void) {{ return puts(\"a\") < 0 || (char *)puts > (char *){end} - 1; }}"
        );
        let main = workshop.compile(Compiler::Musl, name, &text);
        let line = ["-static", &main, &script, "-Wl,--pool-aslr=library"];
        let request = workshop.request(Compiler::Musl, &line);
        let linked = link(&request, &mut AddressBook::default()).unwrap();
        let described = describe(&linked.elf).unwrap();
        assert!(!described.description.libraries.is_empty());
        let report = pool_image::inspect::inspect(&described).slide;
        let units = record(&linked).units().len();
        assert_eq!(units == 1, asks, "{units}");
        assert!(report.image && report.libraries != asks, "{report:?}");
        let why = report.why_not.unwrap_or_default();
        assert_eq!(why.contains("_end"), asks, "{why}");
    }
}

/// Also where the program has archives of its own.
#[test]
fn programs_with_archives_reach_libraries_through_slots() {
    let workshop = Workshop::new();
    let part = workshop.compile(Compiler::Gnu, "part", "int part(void) { return 7; }");
    let archive = workshop.archive("libpart.a", &[&part]);
    let text = "#include <stdio.h>\nint part(void); int main(void) { printf(\"%d\\n\", part()); }";
    let main = workshop.compile(Compiler::Gnu, "main", text);
    let line = ["-static", &main, &archive, "-Wl,--pool-aslr=library"];
    let arguments = workshop.linker_arguments(Compiler::Gnu, &line);
    let request = pool_image::link::parse_args(&arguments).unwrap();
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    assert!(
        linked
            .layout
            .libraries
            .iter()
            .all(|l| l.library.name.to_string() != "part")
    );
    let described = describe(&linked.elf).unwrap();
    let report = pool_image::inspect::inspect(&described).slide;
    assert!(report.libraries, "{:?}", report.why_not);
}

#[test]
fn cxx_programs_can_start_elsewhere() {
    let workshop = Workshop::new();
    let source = crate::support::source("cxx.cc");
    let request = workshop.request(Compiler::Cxx, &["-static", source.to_str().unwrap()]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let record = record(&linked);
    // The application, and the libraries of both languages.
    assert!(record.units().len() >= 3);
    let report = pool_image::inspect::inspect(&describe(&linked.elf).unwrap());
    assert!(report.slide.image && report.slide.addresses > 1000);
    let shared: u64 = report.slide.written.iter().map(|of| of.shared.0).sum();
    assert!(shared > 0 && shared < report.pages.shared.0 / 4, "{shared}");
}

#[test]
fn a_record_that_lies_is_refused() {
    let workshop = Workshop::new();
    let object = workshop.compile(Compiler::Musl, "main", "int main(void) { return 0; }");
    let request = workshop.request(Compiler::Musl, &["-static", &object]);
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    let elf = Elf::parse(&linked.elf).unwrap();
    let mut sections = elf.section_headers.iter();
    let found = sections.find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(SLIDE_SECTION));
    let range = found.unwrap().file_range().unwrap();
    // Magic, version, units, the application's addresses, the fields.
    for at in [0, 8, 12, 33, range.len() - 1] {
        let mut file = linked.elf.clone();
        file[range.start + at] ^= 0xff;
        let refused = describe(&file).map(drop);
        assert!(
            matches!(refused, Err(DescribeError::Slide(_))),
            "byte {at}: {refused:?}"
        );
    }
}

/// Code of the application refers to libraries through its offset table, and so no page of code is written.
#[test]
fn libraries_can_move_by_themselves() {
    let workshop = Workshop::new();
    for (number, compiler) in [(0, Compiler::Musl), (1, Compiler::Gnu)] {
        let in_code = |linked: &Linked| {
            let (start, bytes) = section(linked, ".text").unwrap();
            let code = start..start + bytes.len() as u64;
            let record = record(linked);
            let mut fields = record.fields();
            fields.any(|fields| code.contains(&fields.address))
        };
        // A page a function: what is on one page or two is written.
        let options = "-O2 -fPIE -fno-inline -falign-functions=4096";
        let direct = features(&workshop, compiler, 2 * number, options, &[]);
        assert!(in_code(&direct), "calls are direct");
        let more = ["-Wl,--pool-aslr=library"];
        let linked = features(&workshop, compiler, 2 * number + 1, options, &more);
        assert!(!in_code(&linked));
        let reported = |linked: &Linked| {
            let described = describe(&linked.elf).unwrap();
            pool_image::inspect::inspect(&described).slide
        };
        assert!(reported(&linked).libraries && !reported(&direct).libraries);
        let why = reported(&direct).why_not.unwrap();
        assert!(why.contains("--pool-aslr=library"), "{why}");
        // The libraries are the same.
        let libraries = |linked: &Linked| {
            linked
                .layout
                .libraries
                .iter()
                .map(|l| l.library.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(libraries(&linked), libraries(&direct));
    }
}
