//! The command line of `ld`, as compiler drivers write it for a static link.
//!
//! Options fall into five kinds: those that say what to link, those that make no difference to
//! a static executable at registered addresses (taken in silence, as every linker does), those
//! that cannot be followed but do no harm (a warning), those that cannot be followed (refused, with
//! what to do), and those that ask for something else than a static executable, for which another
//! linker is there ([`LinkError::NotStatic`]). An option in none of them is an error:
//! to ignore what one does not know is to link something else than was asked for.

mod expression;
mod keywords;
mod line;
mod options;
mod pool_options;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod values;
mod vocabulary;

use std::path::PathBuf;

use self::line::{Arguments, Written};
use super::error::LinkError;
pub use expression::{Definition, Expression, Operator};
pub use request::{
    BuildId, Compression, Discard, InputFile, LibraryAlias, LinkRequest, Mark, Plugin, Question,
    Strip, Undefined,
};
pub use response::expand;

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
    pool_options::refuse_direct_references(&request)?;
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
    if options::long_option(&option, request, arguments)?
        || options::short_option(&option, request, arguments)?
    {
        return Ok(());
    }
    Err(LinkError::option(argument, "unknown option: leave it out"))
}
