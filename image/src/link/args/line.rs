//! A command line as it is being read.

use super::request::{InputFile, LinkRequest};
use crate::link::error::LinkError;

/// With nothing to link it asks for the linker script.
pub(super) const VERBOSE: &str = "--verbose";

/// An option as written.
pub(super) struct Written<'a> {
    pub(super) whole: &'a str,
    /// Without dashes and value.
    pub(super) name: &'a str,
    /// What follows `=`.
    pub(super) value: Option<&'a str>,
    pub(super) is_single_dash: bool,
}

impl<'a> Written<'a> {
    pub(super) fn split(whole: &'a str) -> Self {
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

pub(super) struct Arguments {
    pub(super) rest: std::vec::IntoIter<String>,
    /// What asks for another kind of output, another machine or another format, as it counts so far.
    pub(super) output: Option<LinkError>,
    pub(super) machine: Option<LinkError>,
    pub(super) format: Option<LinkError>,
    /// What asks the system's linker about itself.
    pub(super) asks: Option<LinkError>,
}

impl Arguments {
    /// The whole is another linker's to do.
    pub(super) fn is_for_another(&mut self, request: &LinkRequest) -> Option<LinkError> {
        let is_file = |input: &InputFile| !matches!(input, InputFile::Mark(_));
        let asks = self.asks.take().filter(|error| {
            let verbose = matches!(error, LinkError::NotStatic { what, .. } if what == VERBOSE);
            !verbose || !request.inputs.iter().any(is_file)
        });
        let kind = [&mut self.output, &mut self.machine, &mut self.format];
        asks.or_else(|| kind.into_iter().find_map(Option::take))
    }

    pub(super) fn value(&mut self, option: &Written<'_>) -> Result<String, LinkError> {
        match option.value {
            Some(value) => Ok(value.to_owned()),
            None => self.next_value(option.whole),
        }
    }

    pub(super) fn next_value(&mut self, option: &str) -> Result<String, LinkError> {
        self.rest
            .next()
            .ok_or_else(|| LinkError::option(option, "needs a value after it"))
    }
}
