//! What each option says.

use std::path::Path;

use super::keywords::keyword;
use super::line::{Arguments, VERBOSE, Written};
use super::pool_options::{alias, layout, own_are_libraries, slides_libraries};
use super::request::{Discard, InputFile, LinkRequest, Mark, Plugin, Question, Strip};
use super::values::{
    build_id, compression, define, error_limit, other_format, other_machine, unresolved,
};
use super::vocabulary::{self, IGNORED, IGNORED_LETTERS, IGNORED_WITH_VALUE};
use crate::link::error::LinkError;

/// Takes an option with a long name (one or two dashes); false when it is none.
pub(super) fn long_option(
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

/// Takes a one-letter option, its value attached or following; false when it is none.
pub(super) fn short_option(
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
