use std::path::{Path, PathBuf};

use super::*;
use crate::layout::LayoutKind;

fn parse(line: &str) -> Result<LinkRequest, LinkError> {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse_args(&arguments)
}

#[test]
fn what_gcc_passes_for_a_static_link_is_taken() {
    let request = parse(
        "-plugin /p/liblto_plugin.so -plugin-opt=/p/lto-wrapper -plugin-opt=-fresolution=/t/r \
         -plugin-opt=-pass-through=-lc --build-id -m elf_x86_64 --hash-style=gnu --as-needed \
         -static -o out -z relro -z now -dynamic-linker /lib/ld-musl-x86_64.so.1 -nostdlib \
         /l/crt1.o -L/l -L /m main.o --start-group -lgcc -lgcc_eh -lc --end-group /l/crtn.o \
         --pool-library -lz=zlib@1.3 -u need -e begin -s --eh-frame-hdr --gc-sections",
    )
    .unwrap();
    assert_eq!(request.output, Path::new("out"));
    assert_eq!(request.entry, "begin");
    assert_eq!(request.undefined, ["need"]);
    assert_eq!(request.search, [Path::new("/l"), Path::new("/m")]);
    assert_eq!(request.build_id, BuildId::Digest(20));
    assert_eq!(request.strip, Strip::Everything);
    assert!(request.unwind_table);
    assert!(!request.usual_folders);
    assert_eq!(request.libraries[0].library.to_string(), "zlib@1.3");
    assert_eq!(request.libraries[0].file, "-lz");
    let path = |p: &str| InputFile::Path(PathBuf::from(p));
    let library = |l: &str| InputFile::Library(l.to_owned());
    assert_eq!(
        request.inputs,
        [
            InputFile::Mark(Mark::Dynamic(false)),
            path("/l/crt1.o"),
            path("main.o"),
            InputFile::Mark(Mark::GroupStart),
            library("gcc"),
            library("gcc_eh"),
            library("c"),
            InputFile::Mark(Mark::GroupEnd),
            path("/l/crtn.o")
        ]
    );
    assert!(request.collects);
    assert!(!request.slides_libraries);
    assert!(parse("--pool-aslr=library a.o").unwrap().slides_libraries);
    assert_eq!(request.layout, LayoutKind::Pool);
    let dce = parse("--pool-layout=dce a.o --no-gc-sections").unwrap();
    assert_eq!((dce.layout, dce.collects()), (LayoutKind::Dce, true));
    let spacer = parse("--pool-layout default --pool-layout spacer a.o").unwrap();
    assert_eq!(
        (spacer.layout, spacer.collects()),
        (LayoutKind::Spacer, false)
    );
    assert!(!request.wants_map());
    assert!(parse("-M a.o").unwrap().prints_map);
    assert!(parse("-Map=- a.o").unwrap().prints_map);
    assert!(request.warnings.is_empty());
}

#[test]
fn what_is_no_static_executable_is_for_another_linker() {
    for (line, what) in [
        ("-pie a.o", "-pie"),
        ("-static -pie --no-dynamic-linker -z text a.o", "-pie"),
        ("-shared a.o", "-shared"),
        ("-r a.o", "-r"),
        ("--relocatable a.o", "--relocatable"),
        ("-no-pie -pie a.o", "-pie"),
        ("-shared -T script --only-theirs a.o", "-shared"),
        ("-m elf_i386 a.o", "-m elf_i386"),
        ("-melf32_x86_64 a.o", "-m elf32_x86_64"),
        ("--oformat=binary a.o", "--oformat binary"),
        ("--print-sysroot", "--print-sysroot"),
        ("--verbose -static", "--verbose"),
    ] {
        match parse(line).unwrap_err() {
            LinkError::NotStatic { what: found, .. } => assert_eq!(found, what, "{line}"),
            other => panic!("{line}: {other}"),
        }
    }
    for line in [
        "-pie -no-pie a.o",
        "-m elf_i386 -m elf_x86_64 a.o",
        "--oformat elf64-x86-64 a.o",
        "--verbose a.o",
        "-R / a.o",
        "-rpath -shared a.o",
        "-soname=-r -h -pie a.o",
    ] {
        assert_eq!(parse(line).unwrap().inputs.len(), 1, "{line}");
    }
}

#[test]
fn words_that_ld_does_not_know_are_warned_of() {
    let request =
        parse("-z now -zrelro -z stack-size=0x10 -z max-page-size=0x1000 -z x=y a.o").unwrap();
    assert_eq!(request.stack_size, 16);
    assert_eq!(request.warnings, ["-z x=y ignored"]);
    assert!(parse("-z undefs a.o").unwrap().unresolved.ignored);
    assert!(!parse("-z undefs -z defs a.o").unwrap().unresolved.ignored);
}

#[test]
fn what_is_about_other_outputs_makes_no_difference() {
    for line in [
        "-EL -flto -Bgroup --check-sections --default-symver --split-by-file=4 a.o",
        "--export-dynamic-symbol=x --spare-dynamic-tags 4 --hash-size=7 a.o",
        "-hname -h name -yfoo -Fx -f x -Pfile -G8 -A i386 a.o",
        "-z lam-report=none -z nopack-relative-relocs a.o",
    ] {
        let request = parse(line).unwrap();
        assert_eq!(request.inputs.len(), 1, "{line}");
        assert!(request.warnings.is_empty(), "{line}");
    }
}

#[test]
fn a_question_for_the_version_ends_the_line() {
    let ask = |line| parse(line).unwrap().question;
    assert_eq!(
        ask("--version --no-such-option"),
        Some(Question::VersionAlone)
    );
    assert_eq!(ask("-shared --version"), Some(Question::VersionAlone));
    assert_eq!(ask("-v a.o"), Some(Question::Version));
    assert_eq!(ask("-V"), Some(Question::Machines));
    assert!(parse("-v --no-such-option").is_err());
}

#[test]
fn what_cannot_be_followed_is_refused_with_advice() {
    for (line, advice) in [
        ("-Ttext=0x1000 a.o", "registry"),
        ("-R file a.o", "objects themselves"),
        ("--defsym=a", "SYMBOL=EXPRESSION"),
        ("--unresolved-symbols=never", "report-all"),
        ("-z stack-size=x", "number"),
        ("-z max-page-size=4095", "power of two"),
        ("-z max-page-size=0x800000", "power of two"),
        ("--no-such-option", "unknown"),
        ("-o", "value"),
        ("--pool-library x", "NAME@VERSION"),
        ("--pool-libraries some", "all"),
        ("--pool-aslr=all", "library or image"),
        ("--pool-layout=out.json", "--pool-layout-file"),
        (
            "--pool-aslr=library --pool-layout spacer",
            "--pool-layout=spacer",
        ),
        ("--pool-library x=../y@1", "NAME@VERSION"),
        ("--build-id=0xabc", "hexadecimal"),
    ] {
        let message = parse(line).unwrap_err().to_string();
        assert!(message.contains(advice), "{line}: {message}");
    }
}
