//! What the command line says of a program, beside its files.

use super::args::{Definition, LinkRequest};
use super::hash::HashMap;
use super::unit::Beforehand;

/// What is taken into account beside the files.
#[derive(Debug)]
pub(super) struct Asked<'r> {
    /// Names that are needed whatever refers to them.
    pub(super) roots: Vec<&'r str>,
    /// The first of several definitions counts.
    pub(super) may_repeat: bool,
    /// Of tentative definitions that meet others is to be told.
    pub(super) warns_common: bool,
    /// Names by which undefined references mean others.
    pub(super) renamed: HashMap<&'r str, &'r str>,
    /// Symbols that are defined beside those of files.
    pub(super) definitions: &'r [Definition],
    pub(super) beforehand: &'r Beforehand<'r>,
}

/// What the command line says of the program, beside its files.
pub(super) fn asked<'a>(
    request: &'a LinkRequest,
    wrappers: &'a [(String, String)],
    beforehand: &'a Beforehand<'a>,
) -> Asked<'a> {
    let needed = request.undefined.iter().chain(&request.required);
    Asked {
        roots: needed.chain([&request.entry]).map(String::as_str).collect(),
        may_repeat: request.allow_multiple_definition,
        warns_common: request.warns_common,
        renamed: wrappers
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect(),
        definitions: &request.definitions,
        beforehand,
    }
}

/// What is called by other names, each with that.
pub(super) fn wrappers(request: &LinkRequest) -> Vec<(String, String)> {
    let wrapped = request.wrapped.iter();
    wrapped
        .flat_map(|name| {
            let wrapper = (name.clone(), format!("__wrap_{name}"));
            [wrapper, (format!("__real_{name}"), name.clone())]
        })
        .collect()
}
