//! Options of this linker alone (`--pool-...`).

use super::line::Written;
use super::request::{LibraryAlias, LinkRequest};
use crate::layout::LayoutKind;
use crate::link::error::LinkError;

/// Which archives are libraries beside those that are named.
pub(super) fn own_are_libraries(option: &str, which: &str) -> Result<bool, LinkError> {
    match which {
        "all" => Ok(true),
        "system" => Ok(false),
        _ => Err(LinkError::option(
            format!("{option} {which}"),
            "write all (every archive is a library) or system (those of the system and those that are named are)",
        )),
    }
}

pub(super) fn alias(option: &str, text: &str) -> Result<LibraryAlias, LinkError> {
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
pub(super) fn layout(option: &Written<'_>, value: &str) -> Result<LayoutKind, LinkError> {
    let mut kinds = LayoutKind::ALL.into_iter();
    kinds.find(|kind| kind.name() == value).ok_or_else(|| {
        LinkError::option(
            format!("{} {value}", option.whole),
            "write default, dce, spacer or pool (--pool-layout-file FILE writes where the libraries lie)",
        )
    })
}

/// What may start elsewhere: each library by itself, or the image as a whole, which it can in any case.
pub(super) fn slides_libraries(option: &Written<'_>, value: &str) -> Result<bool, LinkError> {
    match value {
        "library" => Ok(true),
        "image" => Ok(false),
        _ => Err(LinkError::option(option.whole, "expected library or image")),
    }
}

/// Libraries move by themselves where all that refers to them goes through slots.
pub(super) fn refuse_direct_references(request: &LinkRequest) -> Result<(), LinkError> {
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
