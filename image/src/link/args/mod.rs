//! The command line of `ld`, as compiler drivers write it for a static link.
//!
//! Options fall into four kinds: those that say what to link, those that make no difference to
//! a static executable at registered addresses (taken in silence, as every linker does), those
//! that cannot be followed but do no harm (a warning), and those that ask for something else
//! than a static executable (refused, with what to do). An option in none of them is an error:
//! to ignore what one does not know is to link something else than was asked for.

mod request;
mod response;
mod vocabulary;

use std::path::PathBuf;

use super::error::LinkError;
pub use request::{BuildId, InputFile, LibraryAlias, LinkRequest, Mark, Strip};
use vocabulary::{IGNORED, IGNORED_WITH_VALUE};

/// Reads a command line (without the program's name). `@FILE` arguments are replaced by what the
/// file holds.
pub fn parse_args(arguments: &[String]) -> Result<LinkRequest, LinkError> {
    let mut request = LinkRequest::default();
    let mut arguments = Arguments {
        rest: response::expand(arguments)?.into_iter(),
    };
    while let Some(argument) = arguments.rest.next() {
        if argument.len() < 2 || !argument.starts_with('-') {
            request
                .inputs
                .push(InputFile::Path(PathBuf::from(argument)));
            continue;
        }
        let option = Written::split(&argument);
        if !(long_option(&option, &mut request, &mut arguments)?
            || short_option(&option, &mut request, &mut arguments)?)
        {
            return Err(LinkError::option(argument, "unknown option: leave it out"));
        }
    }
    if let Some(root) = &request.sysroot {
        for folder in &mut request.search {
            if let Some(inside) = folder.to_str().and_then(|f| f.strip_prefix('=')) {
                *folder = root.join(inside.trim_start_matches('/'));
            }
        }
    }
    Ok(request)
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
}

impl Arguments {
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
        "undefined" | "require-defined" => request.undefined.push(arguments.value(option)?),
        "library" => request
            .inputs
            .push(InputFile::Library(arguments.value(option)?)),
        "library-path" => request.search.push(arguments.value(option)?.into()),
        "pool-library" => {
            let text = arguments.value(option)?;
            request.libraries.push(alias(option.whole, &text)?);
        }
        "strip-all" | "s" => request.strip = Strip::Everything,
        "strip-debug" | "S" if request.strip == Strip::Nothing => {
            request.strip = Strip::Debugging;
        }
        "build-id" => request.build_id = build_id(option)?,
        "eh-frame-hdr" => request.unwind_table = true,
        "allow-multiple-definition" => request.allow_multiple_definition = true,
        "Map" => request.map = Some(arguments.value(option)?.into()),
        "sysroot" => request.sysroot = Some(arguments.value(option)?.into()),
        "v" | "V" | "version" => request.show_version = true,
        "gc-sections" => request.warnings.push(
            "--gc-sections has no effect: libraries are taken whole, so that every image has the \
             same pages"
                .to_owned(),
        ),
        "emit-relocs" | "q" | "print-map" | "M" => request
            .warnings
            .push(format!("{} has no effect", option.whole)),
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
    if !"oelLumzOI".contains(letter) {
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
        'u' => request.undefined.push(value),
        'm' if value != "elf_x86_64" => {
            return Err(LinkError::option(
                format!("-m {value}"),
                "only elf_x86_64 is linked: compile for x86-64 (without -m32 or -mx32)",
            ));
        }
        'z' => keyword(&value, request),
        _ => {}
    }
    Ok(true)
}

/// `-z KEYWORD`: those that matter to a static executable.
fn keyword(value: &str, request: &mut LinkRequest) {
    match value {
        "execstack" => request.executable_stack = Some(true),
        "noexecstack" => request.executable_stack = Some(false),
        "muldefs" => request.allow_multiple_definition = true,
        _ => {}
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        assert_eq!(request.libraries[0].library.to_string(), "zlib@1.3");
        assert_eq!(request.libraries[0].file, "-lz");
        let path = |p: &str| InputFile::Path(PathBuf::from(p));
        let library = |l: &str| InputFile::Library(l.to_owned());
        assert_eq!(
            request.inputs,
            [
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
        assert_eq!(request.warnings.len(), 1);
    }

    #[test]
    fn other_outputs_are_refused_with_advice() {
        for (line, advice) in [
            ("-pie a.o", "-static -no-pie"),
            ("-shared a.o", "archive"),
            ("-r a.o", "system's ld"),
            ("-T script a.o", "registry"),
            ("-Tscript a.o", "registry"),
            ("-Ttext=0x1000 a.o", "registry"),
            ("-m elf_i386 a.o", "x86-64"),
            ("--wrap=malloc", "objcopy"),
            ("--no-such-option", "unknown"),
            ("-o", "value"),
            ("--pool-library x", "NAME@VERSION"),
            ("--pool-library x=../y@1", "NAME@VERSION"),
            ("--build-id=0xabc", "hexadecimal"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(advice), "{line}: {message}");
        }
    }
}
