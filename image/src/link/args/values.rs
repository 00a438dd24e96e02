//! Values of options.

use super::expression::Definition;
use super::line::Written;
use super::request::{BuildId, Compression, InputFile, LinkRequest, Mark};
use crate::link::error::LinkError;

pub(super) fn number(option: &str, text: &str) -> Result<u64, LinkError> {
    let digits = text.strip_prefix("0x");
    let number = match digits {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| LinkError::option(option, "wants a number"))
}

pub(super) fn error_limit(text: &str) -> Result<Option<usize>, LinkError> {
    let most = number(&format!("--error-limit={text}"), text)?;
    Ok(usize::try_from(most).ok().filter(|most| *most > 0))
}

pub(super) fn define(request: &mut LinkRequest, text: &str) -> Result<(), LinkError> {
    request.definitions.push(Definition::parse(text)?);
    let mark = Mark::Define(request.definitions.len() - 1);
    request.inputs.push(InputFile::Mark(mark));
    Ok(())
}

pub(super) fn unresolved(request: &mut LinkRequest, method: &str) -> Result<(), LinkError> {
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

pub(super) fn compression(
    option: &Written<'_>,
    kind: &str,
) -> Result<Option<Compression>, LinkError> {
    Ok(match kind {
        "none" => None,
        "zlib" | "zlib-gabi" | "zlib-gnu" => Some(Compression::Zlib),
        "zstd" => Some(Compression::Zstd),
        _ => return Err(LinkError::option(option.whole, "use none, zlib or zstd")),
    })
}

pub(super) fn build_id(option: &Written<'_>) -> Result<BuildId, LinkError> {
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

pub(super) fn other_machine(value: &str) -> Option<LinkError> {
    (value != "elf_x86_64").then(|| {
        LinkError::not_static(
            format!("-m {value}"),
            "only elf_x86_64 is linked: compile for x86-64 (without -m32 or -mx32)",
        )
    })
}

pub(super) fn other_format(value: &str) -> Option<LinkError> {
    (value != "elf64-x86-64").then(|| {
        LinkError::not_static(
            format!("--oformat {value}"),
            "only elf64-x86-64 is written: leave it out, and convert the executable with objcopy",
        )
    })
}
