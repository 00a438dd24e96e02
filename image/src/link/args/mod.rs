//! The command line of `ld`, as compiler drivers write it for a static link.
//!
//! Options fall into five kinds: those that say what to link, those that make no difference to
//! a static executable at registered addresses (taken in silence, as every linker does), those
//! that cannot be followed but do no harm (a warning), those that cannot be followed (refused, with
//! what to do), and those that ask for something else than a static executable, for which another
//! linker is there ([`LinkError::NotStatic`]). An option in none of them is an error:
//! to ignore what one does not know is to link something else than was asked for.

mod expression;
mod request;
mod response;
mod vocabulary;

use std::path::{Path, PathBuf};

use pool_core::page::PAGE_SIZE;
use pool_core::registry::APPLICATION_START;

use super::error::LinkError;
use crate::layout::LayoutKind;
pub use expression::{Definition, Expression, Operator};
pub use request::{
    BuildId, Compression, Discard, InputFile, LibraryAlias, LinkRequest, Mark, Plugin, Question,
    Strip, Undefined,
};
pub use response::expand;
use vocabulary::{IGNORED, IGNORED_LETTERS, IGNORED_WITH_VALUE, PROPERTIES, WITHOUT_EFFECT};

/// With nothing to link it asks for the linker script.
const VERBOSE: &str = "--verbose";

/// Reads a command line (without the program's name). `@FILE` arguments are replaced by what the
/// file holds.
pub fn parse_args(arguments: &[String]) -> Result<LinkRequest, LinkError> {
    let mut request = LinkRequest::default();
    let mut arguments = Arguments {
        rest: response::expand(arguments)?.into_iter(),
        output: None,
        machine: None,
        format: None,
        asks: None,
    };
    let mut wrong = None;
    while let Some(argument) = arguments.rest.next() {
        if let Err(error) = take(&argument, &mut request, &mut arguments) {
            wrong.get_or_insert(error);
        }
        if request.question == Some(Question::VersionAlone) {
            return Ok(request);
        }
    }
    // What is for another linker is its to find wrong.
    if let Some(other) = arguments.is_for_another(&request) {
        return Err(other);
    }
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    if let Some(root) = &request.sysroot {
        for folder in &mut request.search {
            let text = folder.to_str();
            let inside = text.and_then(|f| f.strip_prefix('=').or(f.strip_prefix("$SYSROOT")));
            if let Some(inside) = inside {
                *folder = root.join(inside.trim_start_matches('/'));
            }
        }
    }
    refuse_direct_references(&request)?;
    Ok(request)
}

fn take(
    argument: &str,
    request: &mut LinkRequest,
    arguments: &mut Arguments,
) -> Result<(), LinkError> {
    if argument.len() < 2 || !argument.starts_with('-') {
        let path = PathBuf::from(argument);
        request.inputs.push(InputFile::Path(path));
        return Ok(());
    }
    let option = Written::split(argument);
    if long_option(&option, request, arguments)? || short_option(&option, request, arguments)? {
        return Ok(());
    }
    Err(LinkError::option(argument, "unknown option: leave it out"))
}

/// An option as written.
struct Written<'a> {
    whole: &'a str,
    /// Without dashes and value.
    name: &'a str,
    /// What follows `=`.
    value: Option<&'a str>,
    is_single_dash: bool,
}

impl<'a> Written<'a> {
    fn split(whole: &'a str) -> Self {
        let (body, is_single_dash) = match whole.strip_prefix("--") {
            Some(body) => (body, false),
            None => (&whole[1..], true),
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        Self {
            whole,
            name,
            value,
            is_single_dash,
        }
    }
}

struct Arguments {
    rest: std::vec::IntoIter<String>,
    /// What asks for another kind of output, another machine or another format, as it counts so far.
    output: Option<LinkError>,
    machine: Option<LinkError>,
    format: Option<LinkError>,
    /// What asks the system's linker about itself.
    asks: Option<LinkError>,
}

impl Arguments {
    /// The whole is another linker's to do.
    fn is_for_another(&mut self, request: &LinkRequest) -> Option<LinkError> {
        let is_file = |input: &InputFile| !matches!(input, InputFile::Mark(_));
        let asks = self.asks.take().filter(|error| {
            let verbose = matches!(error, LinkError::NotStatic { what, .. } if what == VERBOSE);
            !verbose || !request.inputs.iter().any(is_file)
        });
        let kind = [&mut self.output, &mut self.machine, &mut self.format];
        asks.or_else(|| kind.into_iter().find_map(Option::take))
    }

    fn value(&mut self, option: &Written<'_>) -> Result<String, LinkError> {
        match option.value {
            Some(value) => Ok(value.to_owned()),
            None => self.next_value(option.whole),
        }
    }

    fn next_value(&mut self, option: &str) -> Result<String, LinkError> {
        self.rest
            .next()
            .ok_or_else(|| LinkError::option(option, "needs a value after it"))
    }
}

/// Takes an option with a long name (one or two dashes); false when it is none.
fn long_option(
    option: &Written<'_>,
    request: &mut LinkRequest,
    arguments: &mut Arguments,
) -> Result<bool, LinkError> {
    if let Some(advice) = vocabulary::other_output(option.name) {
        arguments.output = Some(LinkError::not_static(option.whole, advice));
        return Ok(true);
    }
    if vocabulary::asks_the_system(option.name) || option.whole == VERBOSE {
        let problem = "a question about the system's linker";
        arguments.asks = Some(LinkError::not_static(option.whole, problem));
        return Ok(true);
    }
    if is_folder(option, arguments) {
        return Ok(true);
    }
    if let Some(advice) = vocabulary::advice(option.name) {
        return Err(LinkError::option(option.whole, advice));
    }
    if let Some(mark) = mark(option.name) {
        request.inputs.push(InputFile::Mark(mark));
        return Ok(true);
    }
    match option.name {
        "output" => request.output = arguments.value(option)?.into(),
        "entry" => request.entry = arguments.value(option)?,
        "undefined" => request.undefined.push(arguments.value(option)?),
        "require-defined" => request.required.push(arguments.value(option)?),
        "wrap" => request.wrapped.push(arguments.value(option)?),
        "script" | "T" | "default-script" | "dT" => {
            let path = arguments.value(option)?.into();
            request.inputs.push(InputFile::Script(path));
        }
        "defsym" => define(request, &arguments.value(option)?)?,
        "unresolved-symbols" => unresolved(request, &arguments.value(option)?)?,
        "no-undefined" => request.unresolved.ignored = false,
        "warn-unresolved-symbols" => request.unresolved.warned = true,
        "error-unresolved-symbols" => request.unresolved.warned = false,
        "ignore-unresolved-symbol" => {
            let name = arguments.value(option)?;
            request.unresolved.names.push(name);
        }
        "error-limit" => request.error_limit = error_limit(&arguments.value(option)?)?,
        "library" => request
            .inputs
            .push(InputFile::Library(arguments.value(option)?)),
        "library-path" => request.search.push(arguments.value(option)?.into()),
        "pool-library" => {
            let text = arguments.value(option)?;
            request.libraries.push(alias(option.whole, &text)?);
        }
        "pool-libraries" => {
            request.own_are_libraries = own_are_libraries(option.whole, &arguments.value(option)?)?;
        }
        "pool-layout" => request.layout = layout(option, &arguments.value(option)?)?,
        "pool-aslr" => {
            request.slides_libraries = slides_libraries(option, &arguments.value(option)?)?;
        }
        "strip-all" | "s" => request.strip = Strip::Everything,
        "strip-debug" | "S" if request.strip == Strip::Nothing => {
            request.strip = Strip::Debugging;
        }
        "build-id" => request.build_id = build_id(option)?,
        "eh-frame-hdr" => request.unwind_table = true,
        "allow-multiple-definition" => request.allow_multiple_definition = true,
        "Map" if option.value == Some("-") => request.prints_map = true,
        "Map" => request.map = Some(arguments.value(option)?.into()),
        "sysroot" => request.sysroot = Some(arguments.value(option)?.into()),
        "dependency-file" => request.dependency_file = Some(arguments.value(option)?.into()),
        "nostdlib" => request.usual_folders = false,
        "no-pie" => arguments.output = None,
        "oformat" => arguments.format = other_format(&arguments.value(option)?),
        "v" => request.question = Some(Question::Version),
        "V" => request.question = Some(Question::Machines),
        "version" => request.question = Some(Question::VersionAlone),
        "gc-sections" => request.collects = true,
        "no-gc-sections" => request.collects = false,
        "print-gc-sections" => request.tells_collected = true,
        "no-print-gc-sections" => request.tells_collected = false,
        "print-map" | "M" => request.prints_map = true,
        "trace" | "t" => request.trace = true,
        "demangle" => request.demangles = true,
        "no-demangle" => request.demangles = false,
        "plugin" => {
            let path = arguments.value(option)?.into();
            let options = Vec::new();
            request.plugins.push(Plugin { path, options });
        }
        "plugin-opt" => {
            let value = arguments.value(option)?;
            // Without a plugin they are for another linker's own.
            if let Some(plugin) = request.plugins.last_mut() {
                plugin.options.push(value);
            }
        }
        // Without a pattern it is about sections that have no place, which have their own here anyway.
        "unique" => request.unique.extend(option.value.map(str::to_owned)),
        "warn-common" => request.warns_common = true,
        "fatal-warnings" => request.fatal_warnings = true,
        "no-fatal-warnings" => request.fatal_warnings = false,
        "compress-debug-sections" => {
            let kind = arguments.value(option)?;
            request.compress = compression(option, &kind)?;
        }
        "discard-all" | "x" => request.discard = Discard::Locals,
        "discard-locals" | "X" => request.discard = Discard::Temporary,
        "discard-none" => request.discard = Discard::Nothing,
        "strip-debug" | "S" | "icf" => {}
        name if IGNORED.contains(&name) => {}
        name if IGNORED_WITH_VALUE.contains(&name) => {
            arguments.value(option)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn mark(name: &str) -> Option<Mark> {
    Some(match name {
        "whole-archive" => Mark::Whole(true),
        "no-whole-archive" => Mark::Whole(false),
        "Bdynamic" | "dy" | "call_shared" => Mark::Dynamic(true),
        "static" | "Bstatic" | "dn" | "non_shared" => Mark::Dynamic(false),
        "start-group" | "(" => Mark::GroupStart,
        "end-group" | ")" => Mark::GroupEnd,
        "push-state" => Mark::Push,
        "pop-state" => Mark::Pop,
        _ => return None,
    })
}

/// Takes a one-letter option, its value attached or following; false when it is none.
fn short_option(
    option: &Written<'_>,
    request: &mut LinkRequest,
    arguments: &mut Arguments,
) -> Result<bool, LinkError> {
    if !option.is_single_dash {
        return Ok(false);
    }
    let whole = option.whole;
    let mut characters = whole[1..].chars();
    let Some(letter) = characters.next() else {
        return Ok(false);
    };
    let attached = characters.as_str();
    if let Some(advice) = vocabulary::advice(letter.encode_utf8(&mut [0; 4])) {
        return Err(LinkError::option(whole, advice));
    }
    if !"oelLumzOIT".contains(letter) && !IGNORED_LETTERS.contains(letter) {
        return Ok(false);
    }
    let value = if attached.is_empty() {
        arguments.next_value(whole)?
    } else {
        attached.to_owned()
    };
    match letter {
        'o' => request.output = value.into(),
        'e' => request.entry = value,
        'l' => request.inputs.push(InputFile::Library(value)),
        'L' => request.search.push(value.into()),
        'T' => request.inputs.push(InputFile::Script(value.into())),
        'u' => request.undefined.push(value),
        'm' => arguments.machine = other_machine(&value),
        'z' => keyword(&value, request)?,
        _ => {}
    }
    Ok(true)
}

fn other_machine(value: &str) -> Option<LinkError> {
    (value != "elf_x86_64").then(|| {
        LinkError::not_static(
            format!("-m {value}"),
            "only elf_x86_64 is linked: compile for x86-64 (without -m32 or -mx32)",
        )
    })
}

fn other_format(value: &str) -> Option<LinkError> {
    (value != "elf64-x86-64").then(|| {
        LinkError::not_static(
            format!("--oformat {value}"),
            "only elf64-x86-64 is written: leave it out, and convert the executable with objcopy",
        )
    })
}

/// `-R FOLDER` says where shared libraries will be, `-R FILE` something else.
fn is_folder(option: &Written<'_>, arguments: &mut Arguments) -> bool {
    let next = || arguments.rest.as_slice().first().map(String::as_str);
    let attached = option.whole.strip_prefix("-R").filter(|v| !v.is_empty());
    let (value, is_next) = match (option.name, option.value, attached) {
        ("just-symbols", Some(value), _) | (_, _, Some(value)) => (Some(value), false),
        ("just-symbols" | "R", None, None) => (next(), true),
        _ => return false,
    };
    let is_folder = value.is_some_and(|value| Path::new(value).is_dir());
    if is_folder && is_next {
        arguments.rest.next();
    }
    is_folder
}

/// `-z KEYWORD`. What ld does not know it warns of.
fn keyword(value: &str, request: &mut LinkRequest) -> Result<(), LinkError> {
    let (name, of) = value.split_once('=').unwrap_or((value, ""));
    match name {
        "execstack" => request.executable_stack = Some(true),
        "noexecstack" => request.executable_stack = Some(false),
        "relro" => request.protects = true,
        "norelro" => request.protects = false,
        "start-stop-gc" => request.collects_sets = true,
        "nostart-stop-gc" => request.collects_sets = false,
        "muldefs" => request.allow_multiple_definition = true,
        "defs" => request.unresolved.ignored = false,
        "undefs" => request.unresolved.ignored = true,
        "max-page-size" => request.max_page_size = max_page_size(value, of)?,
        "stack-size" => request.stack_size = number(&format!("-z {value}"), of)?,
        name if WITHOUT_EFFECT.contains(&name) => {}
        name => match PROPERTIES.iter().find(|(known, _)| *known == name) {
            Some((_, property)) => request.properties.push(*property),
            None => request.warnings.push(format!("-z {value} ignored")),
        },
    }
    Ok(())
}

fn number(option: &str, text: &str) -> Result<u64, LinkError> {
    let digits = text.strip_prefix("0x");
    let number = match digits {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| LinkError::option(option, "wants a number"))
}

/// The application begins at a multiple of the largest.
fn max_page_size(option: &str, text: &str) -> Result<u64, LinkError> {
    let option = format!("-z {option}");
    let size = number(&option, text)?;
    let fits = size.is_power_of_two() && (PAGE_SIZE..=APPLICATION_START.0).contains(&size);
    let wanted = format!(
        "wants a power of two from {PAGE_SIZE} to {}",
        APPLICATION_START.0
    );
    fits.then_some(size)
        .ok_or_else(|| LinkError::option(option, wanted))
}

fn error_limit(text: &str) -> Result<Option<usize>, LinkError> {
    let most = number(&format!("--error-limit={text}"), text)?;
    Ok(usize::try_from(most).ok().filter(|most| *most > 0))
}

fn define(request: &mut LinkRequest, text: &str) -> Result<(), LinkError> {
    request.definitions.push(Definition::parse(text)?);
    let mark = Mark::Define(request.definitions.len() - 1);
    request.inputs.push(InputFile::Mark(mark));
    Ok(())
}

fn unresolved(request: &mut LinkRequest, method: &str) -> Result<(), LinkError> {
    request.unresolved.ignored = match method {
        "ignore-all" | "ignore-in-object-files" => true,
        // A static executable has no shared libraries.
        "report-all" | "ignore-in-shared-libs" => false,
        _ => {
            return Err(LinkError::option(
                format!("--unresolved-symbols={method}"),
                "use report-all, ignore-all, ignore-in-object-files or ignore-in-shared-libs",
            ));
        }
    };
    Ok(())
}

fn compression(option: &Written<'_>, kind: &str) -> Result<Option<Compression>, LinkError> {
    Ok(match kind {
        "none" => None,
        "zlib" | "zlib-gabi" | "zlib-gnu" => Some(Compression::Zlib),
        "zstd" => Some(Compression::Zstd),
        _ => return Err(LinkError::option(option.whole, "use none, zlib or zstd")),
    })
}

fn build_id(option: &Written<'_>) -> Result<BuildId, LinkError> {
    let wrong = || {
        LinkError::option(
            option.whole,
            "use --build-id, --build-id=sha1, md5, uuid, none, or 0x with hexadecimal digits",
        )
    };
    Ok(match option.value {
        None | Some("sha1" | "tree" | "fast") => BuildId::Digest(20),
        Some("md5" | "uuid") => BuildId::Digest(16),
        Some("none") => BuildId::None,
        Some(value) => {
            let digits = value.strip_prefix("0x").ok_or_else(wrong)?;
            let digits: Vec<u32> = digits
                .chars()
                .filter(|c| !"-:".contains(*c))
                .map(|c| c.to_digit(16).ok_or_else(wrong))
                .collect::<Result<_, _>>()?;
            if digits.is_empty() || !digits.len().is_multiple_of(2) {
                return Err(wrong());
            }
            BuildId::Given(digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect())
        }
    })
}

/// Which archives are libraries beside those that are named.
fn own_are_libraries(option: &str, which: &str) -> Result<bool, LinkError> {
    match which {
        "all" => Ok(true),
        "system" => Ok(false),
        _ => Err(LinkError::option(
            format!("{option} {which}"),
            "write all (every archive is a library) or system (those of the system and those that are named are)",
        )),
    }
}

fn alias(option: &str, text: &str) -> Result<LibraryAlias, LinkError> {
    let wrong = |problem: String| LinkError::option(format!("{option} {text}"), problem);
    let (file, library) = text
        .rsplit_once('=')
        .ok_or_else(|| wrong("write FILE=NAME@VERSION or -lX=NAME@VERSION".to_owned()))?;
    Ok(LibraryAlias {
        file: file.to_owned(),
        library: library
            .parse()
            .map_err(|e| wrong(format!("{library} is not NAME@VERSION: {e}")))?,
    })
}

/// How the program and its libraries are laid out.
fn layout(option: &Written<'_>, value: &str) -> Result<LayoutKind, LinkError> {
    let mut kinds = LayoutKind::ALL.into_iter();
    kinds.find(|kind| kind.name() == value).ok_or_else(|| {
        LinkError::option(
            format!("{} {value}", option.whole),
            "write default, dce, spacer or pool (--pool-layout-file FILE writes where the libraries lie)",
        )
    })
}

/// Libraries move by themselves where all that refers to them goes through slots.
fn refuse_direct_references(request: &LinkRequest) -> Result<(), LinkError> {
    if request.slides_libraries && !request.layout.is_pool() {
        return Err(LinkError::option(
            "--pool-aslr=library",
            format!(
                "no library of --pool-layout={} moves by itself: leave one of the two out",
                request.layout.name()
            ),
        ));
    }
    Ok(())
}

/// What may start elsewhere: each library by itself, or the image as a whole, which it can in any case.
fn slides_libraries(option: &Written<'_>, value: &str) -> Result<bool, LinkError> {
    match value {
        "library" => Ok(true),
        "image" => Ok(false),
        _ => Err(LinkError::option(option.whole, "expected library or image")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
