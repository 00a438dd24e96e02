//! Archives of the program itself.

use crate::support::{Compiler, Workshop, run};
use pool_core::registry::AddressBook;
use pool_image::link::{Linked, link, parse_args};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Three archives that need each other, each with a member that nobody needs, and constructors that say when they run.
const SOURCES: [(&str, &str); 7] = [
    (
        "main",
        "#include <stdio.h>\nint first(int); __attribute__((constructor)) static void made(void) { printf(\"main \"); }\n\
         int main(void) { printf(\"%d\\n\", first(4)); return 0; }\n",
    ),
    (
        "first",
        "#include <stdio.h>\nint second(int); int common; __attribute__((constructor)) static void made(void) { printf(\"first \"); }\n\
         int first(int n) { return n ? second(n - 1) + 1 : common; }\n",
    ),
    (
        "alone",
        "int nobody(void); int alone(void) { return nobody(); }\n",
    ),
    (
        "second",
        "#include <stdio.h>\nint first(int), third(int); __attribute__((weak)) int common = 40; __attribute__((constructor)) static void made(void) { printf(\"second \"); }\n\
         int second(int n) { return third(first(n)); }\n",
    ),
    (
        "last",
        "int nobody(void); int last(void) { return nobody(); }\n",
    ),
    (
        "third",
        "#include <stdio.h>\n__attribute__((constructor)) static void made(void) { printf(\"third \"); }\n\
         int third(int n) { return n + 10; }\n",
    ),
    (
        "more",
        "int third(int); int more(int n) { return third(n); }\n",
    ),
];

fn libraries(linked: &Linked) -> Vec<String> {
    let all = linked.layout.libraries.iter();
    all.map(|placed| placed.library.name.to_string()).collect()
}

fn output(workshop: &Workshop, linked: &Linked) -> String {
    let program = workshop.path("linked");
    std::fs::write(&program, &linked.elf).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    run(&program, "linked")
}

#[test]
fn archives_of_the_program_are_part_of_it_as_with_ld() {
    let workshop = Workshop::new();
    for compiler in [Compiler::Musl, Compiler::Gnu] {
        let objects = SOURCES.map(|(name, text)| workshop.compile(compiler, name, text));
        let [main, first, alone, second, last, third, more] =
            objects.each_ref().map(String::as_str);
        let one = workshop.archive("libone.a", &[alone, first]);
        let two = workshop.archive("libtwo.a", &[second, last]);
        let three = workshop.archive("libthree.a", &[more, third]);
        let line = [
            "-static",
            main,
            "-Wl,--start-group",
            &one,
            &two,
            &three,
            "-Wl,--end-group",
        ];
        let expected = run(&workshop.reference(compiler, &line), "reference");
        let mut arguments = workshop.linker_arguments(compiler, &line);
        let c = ["c", "gcc", "gcc_eh"];
        let mut book = AddressBook::default();
        let mut said = |more: &[&str]| {
            arguments.extend(more.iter().map(|option| (*option).to_owned()));
            let request = parse_args(&arguments).unwrap();
            let linked = link(&request, &mut book).unwrap();
            assert_eq!(output(&workshop, &linked), expected, "{arguments:?}");
            let mut names = libraries(&linked);
            names.retain(|name| !c.contains(&name.as_str()));
            names
        };
        assert_eq!(said(&[]), [""; 0]);
        // What is named is a library, and all are if that is asked for.
        let two = format!("--pool-library={two}=second@1");
        assert_eq!(said(&[&two]), ["second"]);
        assert_eq!(said(&["--pool-libraries=all"]), ["one", "second", "three"]);
        // Nothing but what is a library has addresses reserved.
        assert_eq!(said(&["--pool-libraries=system"]), ["second"]);
    }
}

/// What is linked with `-flto` and lies in an archive of the program is compiled into it; whole archives are taken whole.
#[test]
fn whole_archives_of_the_program_are_in_it() {
    let workshop = Workshop::new();
    let compile = |name: &str, text: &str| workshop.compile(Compiler::Gnu, name, text);
    let main = compile("main", "int main(void) { return 0; }");
    let says = compile(
        "says",
        "#include <unistd.h>\n__attribute__((constructor)) static void made(void) { write(1, \"plug-in\\n\", 8); }\n",
    );
    let archive = workshop.archive("libplug.a", &[&says]);
    let line = [
        "-static",
        &main,
        "-Wl,--whole-archive",
        &archive,
        "-Wl,--no-whole-archive",
    ];
    let expected = run(&workshop.reference(Compiler::Gnu, &line), "reference");
    assert_eq!(expected, "plug-in\n");
    let request = parse_args(&workshop.linker_arguments(Compiler::Gnu, &line)).unwrap();
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    assert_eq!(output(&workshop, &linked), expected);
    assert!(!libraries(&linked).contains(&"plug".to_owned()));
    assert!(Path::new(&archive).is_file());
}

#[test]
fn definitions_of_the_command_line_find_what_archives_of_the_program_define() {
    let workshop = Workshop::new();
    let compile = |name: &str, text: &str| workshop.compile(Compiler::Gnu, name, text);
    let main = compile(
        "main",
        "#include <stdio.h>\nint other(void); extern char level[]; int main(void) { printf(\"%d %p\\n\", other(), (void *)level); return 0; }",
    );
    let real = compile("real", "int real(void) { return 7; }");
    let unused = compile("unused", "int unused(void) { return 8; }");
    let archive = workshop.archive("libreal.a", &[&unused, &real]);
    let line = [
        "-static",
        "-Wl,--defsym=other=real",
        "-Wl,--defsym=level=0x1234",
        &main,
        &archive,
    ];
    let expected = run(&workshop.reference(Compiler::Gnu, &line), "reference");
    assert_eq!(expected, "7 0x1234\n");
    let request = parse_args(&workshop.linker_arguments(Compiler::Gnu, &line)).unwrap();
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    assert_eq!(output(&workshop, &linked), expected);
}

/// A build that makes one object of each of its parts, as kernels' do, has libraries without archives.
#[test]
fn an_object_that_is_named_is_a_library() {
    let workshop = Workshop::new();
    let compile = |(name, text): (&str, &str)| workshop.compile(Compiler::Gnu, name, text);
    let [main, first, _, second, _, third, _] = SOURCES.map(compile);
    let other = SOURCES[0].1.replace("first(4)", "first(40)");
    let other = compile(("other", &other));
    let part = workshop.path("libparts.o").display().to_string();
    let made = std::process::Command::new("ld")
        .args(["-r", "-o", &part, &first, &second, &third])
        .status();
    assert!(made.unwrap().success());
    let mut book = AddressBook::default();
    let mut pages = Vec::new();
    for program in [&main, &other] {
        // It is in the program where it is named, constructors and all.
        let line = ["-static", &part, program];
        let expected = run(&workshop.reference(Compiler::Gnu, &line), "reference");
        let mut arguments = workshop.linker_arguments(Compiler::Gnu, &line);
        let mut linked = |more: &str| {
            arguments.push(more.to_owned());
            let request = parse_args(&arguments).unwrap();
            let linked = link(&request, &mut book).unwrap();
            assert_eq!(output(&workshop, &linked), expected, "{more}");
            linked
        };
        assert!(!libraries(&linked("--pool-libraries=all")).contains(&"parts".to_owned()));
        let named = linked("--pool-library=libparts.o=parts@1");
        assert!(libraries(&named).contains(&"parts".to_owned()));
        let described = pool_image::describe::describe(&named.elf).unwrap();
        let used = described.description.libraries.iter();
        let used = used
            .clone()
            .find(|used| used.library.name.as_str() == "parts");
        pages.push(used.unwrap().object);
        // Where no library is apart it is an object as any.
        assert_eq!(libraries(&linked("--pool-layout=default")), [""; 0]);
    }
    assert_eq!(pages[0], pages[1]);
}
