//! Bad input to the linker: each kind has an error that names the file and says what to do.

use crate::support::{Compiler, Workshop};
use pool_core::registry::{AddressBook, Reservation, ReservationRequest};
use pool_image::link::{LinkError, LinkRequest, Registry, RegistryError, link, parse_args};
use proptest::prelude::*;

#[track_caller]
fn refusal(request: &LinkRequest) -> String {
    match link(request, &mut AddressBook::default()) {
        Ok(_) => panic!("linked"),
        Err(error) => error.to_string(),
    }
}

fn alone(arguments: &[&str]) -> LinkRequest {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    parse_args(&arguments).unwrap()
}

fn expect(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn files_that_are_no_objects_are_named() {
    let workshop = Workshop::new();
    let good = workshop.compile(Compiler::Musl, "good", "int main(void) { return 0; }");
    let bytes = std::fs::read(&good).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = workshop.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let patched = |name: &str, at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        write(name, &bytes)
    };
    let shared = workshop.path("lib.so").display().to_string();
    let _ = workshop.reference(Compiler::Gnu, &["-shared", "-fPIC", "-nostdlib", &good]);
    std::fs::rename(workshop.path("reference"), &shared).unwrap();
    let lto = workshop.path("lto.o").display().to_string();
    let source = workshop.path("good.c").display().to_string();
    let compiled = std::process::Command::new("gcc")
        .args(["-flto", "-c", &source, "-o", &lto])
        .status()
        .unwrap();
    assert!(compiled.success());
    for (file, advice) in [
        (write("random", &[0xf3; 100]), "not an ELF object"),
        (write("empty", &[]), "not an ELF object"),
        (write("script", b"SECTIONS { . = 4; }"), "INPUT and GROUP"),
        (write("short", &bytes[..40]), "truncated"),
        (write("cut", &bytes[..bytes.len() - 8]), "past the end"),
        (patched("class", 4, &[1]), "64-bit"),
        (patched("machine", 18, &[183, 0]), "not x86-64"),
        (patched("sections", 40, &[0xff; 8]), "past the end"),
        (shared, "static archive"),
        (lto, "-flto"),
        (write("bad.a", b"!<arch>\nnonsense"), "damaged archive"),
        (
            write("member.a", &archive_of(&bytes[..bytes.len() - 8])),
            "member.a(x.o)",
        ),
    ] {
        let message = refusal(&alone(&[&file]));
        expect(&message, &[file.split('(').next().unwrap(), advice]);
    }
    expect(
        &refusal(&alone(&["/nowhere/x.o"])),
        &["/nowhere/x.o", "cannot read"],
    );
    expect(
        &refusal(&alone(&["-lnone", "-L/tmp"])),
        &["libnone.a", "/tmp", "-L"],
    );
    expect(&refusal(&alone(&[])), &["no input files"]);
}

fn archive_of(contents: &[u8]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    bytes.extend(format!("{:<48}{:<10}`\n", "x.o/", contents.len()).bytes());
    bytes.extend(contents);
    bytes
}

#[test]
fn faults_of_programs_are_explained() {
    let workshop = Workshop::new();
    let compile = |name: &str, text: &str| workshop.compile(Compiler::Musl, name, text);
    let missing = compile(
        "missing",
        "int gone(void); int main(void) { return gone(); }",
    );
    let request = workshop.request(Compiler::Musl, &["-static", &missing]);
    expect(&refusal(&request), &["gone", "missing.o", ".text", "-l"]);

    let first = compile(
        "first",
        "int twice; int main(void) { return twice; } int f(void) { return 1; }",
    );
    let second = compile("second", "int f(void) { return 2; }");
    let request = workshop.request(Compiler::Musl, &["-static", &first, &second]);
    expect(
        &refusal(&request),
        &["f is defined in", "first.o", "second.o"],
    );
    let mut allowed = request;
    allowed.allow_multiple_definition = true;
    assert!(link(&allowed, &mut AddressBook::default()).is_ok());

    let place = compile("place", "__asm__(\".globl far\\nfar = 0x123456789abc\");");
    let far = compile(
        "far",
        "int main(void) { int r; __asm__(\"mov $far, %0\" : \"=r\"(r)); return r; }",
    );
    let request = workshop.request(Compiler::Musl, &["-static", &far, &place]);
    expect(
        &refusal(&request),
        &["far.o", ".text", "far", "0x123456789abc", "R_X86_64_32"],
    );

    let part = compile("part", "int part(void) { return 0; }");
    let user = compile("user", "int part(void); int main(void) { return part(); }");
    let archive = workshop.archive("libpart.a", &[&part]);
    std::fs::create_dir(workshop.path("b")).unwrap();
    let more = compile("more", "int more(void) { return 0; }");
    let other = workshop.archive("b/libpart.a", &[&more]);
    let named = |file: &str, version: u32| format!("-Wl,--pool-library,{file}=part@{version}");
    let names = [named(&archive, 1), named(&other, 2)];
    let arguments = ["-static", &user, &archive, &other, &names[0], &names[1]];
    let request = workshop.request(Compiler::Musl, &arguments);
    expect(
        &refusal(&request),
        &["libpart.a", "one version", "--pool-library"],
    );

    let compressed = compile("compressed", "int part(void) { return 1; }");
    let compressor = std::process::Command::new("gcc")
        .args(["-g", "-gz", "-c", "-o", &compressed])
        .arg(workshop.path("compressed.c"))
        .status();
    assert!(compressor.unwrap().success());
    let mut bytes = std::fs::read(&compressed).unwrap();
    // What `.debug_info` would have: a header with its size, and a stream that begins as all of zlib's do.
    let stream = bytes
        .windows(2)
        .position(|two| two == b"\x78\x5e" || two == b"\x78\x9c");
    let stream = stream.expect("a compressed section");
    bytes[stream + 2..stream + 12].fill(0xff);
    std::fs::write(&compressed, bytes).unwrap();
    let request = workshop.request(Compiler::Musl, &["-static", &user, &compressed]);
    expect(
        &refusal(&request),
        &["compressed.o", "section .debug", "compile it again"],
    );

    let walker = compile(
        "walker",
        "extern char _end[]; static char *first; int part(void) { return _end - first; }",
    );
    let request = workshop.request(Compiler::Musl, &["-static", &user, &walker]);
    expect(&refusal(&request), &["walker.o", "_end", "one piece"]);

    let copy = "__asm__(\".section .text.f,\\\"axG\\\",@progbits,f,comdat\\n.weak f\\nf: ret\\n.Lf: .long 7\\n\"\n\
                \".text\\nmovl .Lf(%rip), %eax\");";
    let copies = ["one", "two"].map(|name| compile(name, copy));
    let arguments = ["-static", &user, &part, &copies[0], &copies[1]];
    let request = workshop.request(Compiler::Musl, &arguments);
    expect(&refusal(&request), &["two.o", ".text.f", "group"]);

    let mut request = workshop.request(Compiler::Musl, &["-static", &user, &part]);
    request.entry = "nothing_here".to_owned();
    let linked = link(&request, &mut AddressBook::default()).unwrap();
    expect(&linked.warnings.join("\n"), &["nothing_here", "-e"]);
}

#[test]
fn an_application_that_reaches_the_libraries_is_refused() {
    let workshop = Workshop::new();
    let huge = workshop.compile(
        Compiler::Musl,
        "huge",
        "char a[300 << 20]; int main(void) { return a[5]; }",
    );
    let request = workshop.request(Compiler::Musl, &["-static", &huge]);
    let refused = link(&request, &mut AddressBook::default());
    assert!(matches!(
        refused,
        Err(LinkError::ApplicationTooLarge { .. })
    ));
}

/// An object with most kinds of sections, symbols and relocations.
fn rich_object() -> &'static [u8] {
    static OBJECT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    OBJECT.get_or_init(|| {
        let workshop = Workshop::new();
        let text = "extern int gone __attribute__((weak)); __thread int t = 3; int common[9];\n\
                    static const char *const names[] = {\"one\", \"two\"};\n\
                    __attribute__((constructor)) static void c(void) { common[1]++; }\n\
                    static int i(int x) { return x; } static int (*r(void))(int) { return i; }\n\
                    int f(int) __attribute__((ifunc(\"r\")));\n\
                    int main(int n) { return n + t + common[1] + names[n & 1][0] + f(n) + !&gone; }";
        let object = workshop.compile(Compiler::Gnu, "rich", text);
        let source = workshop.path("rich.c").display().to_string();
        let compiled = std::process::Command::new("gcc")
            .args(["-g", "-gz", "-c", &source, "-o", &object])
            .status()
            .unwrap();
        assert!(compiled.success());
        std::fs::read(object).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn damaged_objects_never_end_the_linker(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        headers in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..3),
        as_library in any::<bool>(),
    ) {
        let mut bytes = rich_object().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Whole words of the section headers, which say where everything is.
        let table = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        for (at, word) in headers {
            if table < bytes.len() && bytes.len() - table > 8 {
                let at = table + at.index((bytes.len() - table) / 8) * 8;
                if at + 8 <= bytes.len() {
                    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("damaged.o");
        std::fs::write(&object, &bytes).unwrap();
        let archive = folder.path().join("libdamaged.a");
        std::fs::write(&archive, archive_of(&bytes)).unwrap();
        let file = if as_library { &archive } else { &object };
        let request = alone(&["-e", "main", "-u", "main", file.to_str().unwrap()]);
        let _ = link(&request, &mut AddressBook::default());
    }
}

#[test]
fn definitions_of_the_command_line_are_explained() {
    let workshop = Workshop::new();
    let text = "int numbers[4]; __thread int mine; char *text = \"ab\"; int main(void) { return numbers[0] + mine; }";
    let main = workshop.compile(Compiler::Musl, "main", text);
    for (options, words) in [
        (
            vec!["--defsym=x=nowhere"],
            vec!["--defsym x=nowhere", "no object defines nowhere"],
        ),
        (
            vec!["--defsym=x=_end"],
            vec!["--defsym x=_end", "no object defines _end"],
        ),
        (vec!["--defsym=x=mine+4"], vec!["mine is thread-local"]),
        (vec!["--defsym=x=main*2"], vec!["only a sum"]),
        (vec!["--defsym=x=numbers-main"], vec!["only a sum"]),
        (vec!["--defsym=x=1/0"], vec!["divides by zero"]),
        (vec!["--defsym=x=y", "--defsym=y=x+1"], vec!["by itself"]),
        (
            vec!["--defsym=x=1", "--defsym=x=2"],
            vec!["--defsym x=2", "defined before"],
        ),
        (
            vec!["--require-defined=nowhere"],
            vec!["--require-defined=nowhere", "nothing defines it"],
        ),
    ] {
        let mut arguments = vec!["-static".to_owned(), main.clone()];
        arguments.extend(options.iter().map(|option| format!("-Wl,{option}")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        expect(
            &refusal(&workshop.request(Compiler::Musl, &arguments)),
            &words,
        );
    }
}

/// All are listed, or as many as are asked for.
#[test]
fn undefined_symbols_are_listed_up_to_a_limit() {
    let workshop = Workshop::new();
    let names: Vec<String> = (10..40).map(|n| format!("gone{n}")).collect();
    let declared = format!("int {}(void);", names.join("(void), "));
    let text = format!(
        "{declared} int main(void) {{ return {}(); }}",
        names.join("() + ")
    );
    let main = workshop.compile(Compiler::Musl, "main", &text);
    for (option, listed, more) in [
        ("-Wl,--no-undefined", 20, "and 10 more"),
        ("-Wl,--error-limit=3", 3, "and 27 more"),
        ("-Wl,--error-limit=0", 30, "name the object"),
    ] {
        let message = refusal(&workshop.request(Compiler::Musl, &["-static", option, &main]));
        assert_eq!(message.matches("gone").count(), listed, "{message}");
        expect(&message, &[more]);
    }
}

/// Names are the source's, for each language, unless they are to stay.
#[test]
fn undefined_symbols_are_called_as_in_the_source() {
    let workshop = Workshop::new();
    let main = workshop.compile(
        Compiler::Musl,
        "main",
        "void _Z4goneiPKc(void); void _ZN5crate4gone17h0123456789abcdefE(void); \
         int main(void) { _Z4goneiPKc(); _ZN5crate4gone17h0123456789abcdefE(); return 0; }",
    );
    let refused = |option| refusal(&workshop.request(Compiler::Musl, &["-static", option, &main]));
    expect(
        &refused("-Wl,--demangle"),
        &[
            "undefined reference to gone(int, char const*)\n",
            "undefined reference to crate::gone\n",
        ],
    );
    expect(
        &refused("-Wl,--no-demangle"),
        &["undefined reference to _Z4goneiPKc\n"],
    );
}

/// Tentative definitions that meet others are told of where that is asked for, and warnings end the link where that is.
#[test]
fn warnings_are_errors_where_they_are_said_to_be() {
    let workshop = Workshop::new();
    let common = "__attribute__((common)) int shared;";
    let main = format!("{common} int main(void) {{ return shared; }}");
    let main = workshop.compile(Compiler::Musl, "main", &main);
    let other = workshop.compile(Compiler::Musl, "other", common);
    let larger = "__attribute__((common)) long shared;";
    let larger = workshop.compile(Compiler::Musl, "larger", larger);
    let defined = workshop.compile(Compiler::Musl, "defined", "int shared = 1;");
    for (second, words) in [
        (&other, "multiple common of shared"),
        (&larger, "overriding smaller common"),
        (&defined, "overriding common from"),
    ] {
        let request = |options: &[&str]| {
            let arguments = [&["-static", &main, second], options].concat();
            workshop.request(Compiler::Musl, &arguments)
        };
        let warned = link(
            &request(&["-Wl,--warn-common"]),
            &mut AddressBook::default(),
        )
        .unwrap();
        assert!(
            warned.warnings.iter().any(|w| w.contains(words)),
            "{:?}",
            warned.warnings
        );
        let fatal = ["-Wl,--fatal-warnings"];
        assert!(link(&request(&fatal), &mut AddressBook::default()).is_ok());
        let both = ["-Wl,--warn-common", "-Wl,--fatal-warnings"];
        expect(&refusal(&request(&both)), &[words, "--fatal-warnings"]);
        let neither = [both[0], both[1], "-Wl,--no-fatal-warnings"];
        assert!(link(&request(&neither), &mut AddressBook::default()).is_ok());
    }
}

/// Changes the second answer by the first.
type Part = fn(&mut Reservation, &Reservation);

/// Answers for the library `two` as for the library `one`, in part.
struct Confused {
    book: AddressBook,
    part: Part,
}

impl Registry for Confused {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        let mut answers = Registry::reserve(&mut self.book, requests)?;
        let of = |name: &str| {
            let mut all = requests.iter();
            all.position(|request| request.library.name.as_str() == name)
        };
        if let (Some(one), Some(two)) = (of("one"), of("two")) {
            let first = answers[one].clone();
            (self.part)(&mut answers[two], &first);
        }
        Ok(answers)
    }
}

#[test]
fn a_registry_that_gives_two_libraries_one_place_is_refused() {
    let workshop = Workshop::new();
    let library = |name: &str| {
        let text = format!(
            "static int held = 7; static __thread int own = 5; int {name}(void) {{ return held++ + own++; }}"
        );
        let object = workshop.compile(Compiler::Musl, name, &text);
        workshop.archive(&format!("lib{name}.a"), &[&object])
    };
    let text = "int one(void), two(void); int main(void) { return one() + two(); }";
    let main = workshop.compile(Compiler::Musl, "main", text);
    let (one, two) = (library("one"), library("two"));
    let request = workshop.request(Compiler::Musl, &["-static", &main, &one, &two]);
    let says = |part: Part| {
        let book = AddressBook::default();
        let linked = link(&request, &mut Confused { book, part });
        linked.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(says(|_, _| ()), Ok(()));
    let parts: [(&str, Part); 3] = [
        ("shared pages", |two, one| two.shared = one.shared),
        ("private pages", |two, one| two.private = one.private),
        ("thread-local block", |two, one| two.tls = one.tls),
    ];
    for (what, part) in parts {
        let refused = says(part).unwrap_err();
        expect(&refused, &["one@", "two@", what, "restore"]);
    }
}
