//! `.debug_frame`: the frames of libraries once more, for debuggers.
//!
//! A debugger looks for frames in the sections `.eh_frame` and `.debug_frame`, one of each, and the libraries' lie in
//! pages of their own. So those of members that are in the program are written here, as DWARF has them: with whole
//! addresses, without what only unwinders for exceptions need. Source: DWARF 5, 6.4.1.

use super::eh_frame::{self, Common, Record};
use super::hash::HashMap;
use super::image::Image;
use super::relocate::{self, Contents};

/// The name of the section.
pub(super) const NAME: &str = ".debug_frame";
/// Bytes of an address, to which records are filled up.
const ADDRESS: usize = 8;
const COMMON: u32 = u32::MAX;

/// Adds the libraries' frames to those that the objects have there.
pub(super) fn fill(image: &Image<'_, '_>, contents: &mut Contents) {
    let mut writer = Writer {
        bytes: contents.loose.remove(NAME).unwrap_or_default(),
        commons: HashMap::default(),
    };
    for unit in image.included().filter(|unit| *unit != 0) {
        for (o, s, section) in image.units[unit].sections() {
            if section.is_loaded()
                && section.name == ".eh_frame"
                && image.runs(unit, o)
                && let Some(address) = image.section_address(unit, o, s, 0)
                && let Some(bytes) = relocate::section(image, contents, (unit, o, s))
            {
                writer.section(bytes, address);
            }
        }
        if let Some((bytes, address)) = relocate::detour_frames(image, contents, unit) {
            writer.section(bytes, address);
        }
    }
    if !writer.bytes.is_empty() {
        contents.loose.insert(NAME.to_owned(), writer.bytes);
    }
}

struct Writer {
    bytes: Vec<u8>,
    /// Common information that was written, without its place, and where it is.
    commons: HashMap<Vec<u8>, u32>,
}

impl Writer {
    /// Writes the frames of a relocated section.
    fn section(&mut self, bytes: &[u8], address: u64) {
        let mut commons: HashMap<usize, Option<Common<'_>>> = HashMap::default();
        for record in eh_frame::records(bytes) {
            match record {
                Record::Common(start, body) => {
                    commons.insert(start, Common::parse(body));
                }
                Record::Frame(_, common, body, at) => {
                    if let Some(Some(common)) = commons.get(&common) {
                        self.frame(common, body, address + at as u64);
                    }
                }
            }
        }
    }

    /// Writes a frame whose body is at `place`, if its function is in the image.
    fn frame(&mut self, common: &Common<'_>, body: &[u8], place: u64) -> Option<()> {
        let (function, size) = eh_frame::function(common.encoding, body, place)?;
        let width = eh_frame::size_of_encoding(common.encoding)?;
        let mut instructions = body.get(2 * width..)?;
        if common.has_data {
            let length = usize::try_from(eh_frame::leb(&mut instructions)?).ok()?;
            instructions = instructions.get(length..)?;
        }
        if size == 0 {
            return None;
        }
        let at = self.common(common)?;
        let mut record = Vec::new();
        record.extend(at.to_le_bytes());
        record.extend(function.to_le_bytes());
        record.extend(size.to_le_bytes());
        record.extend(instructions);
        self.record(&record)?;
        Some(())
    }

    /// Where common information is, which is written if it is not there yet.
    fn common(&mut self, common: &Common<'_>) -> Option<u32> {
        let mut record = COMMON.to_le_bytes().to_vec();
        record.push(common.version);
        record.extend(if common.is_signal { &b"S\0"[..] } else { b"\0" });
        record.extend(common.factors);
        record.extend(common.instructions);
        if let Some(at) = self.commons.get(&record) {
            return Some(*at);
        }
        let at = self.record(&record)?;
        self.commons.insert(record, at);
        Some(at)
    }

    /// Appends a record, filled up with instructions that do nothing.
    fn record(&mut self, record: &[u8]) -> Option<u32> {
        let at = u32::try_from(self.bytes.len()).ok()?;
        let length = (4 + record.len()).next_multiple_of(ADDRESS) - 4;
        self.bytes.extend(u32::try_from(length).ok()?.to_le_bytes());
        self.bytes.extend(record);
        let end = self.bytes.len() + length - record.len();
        self.bytes.resize(end, 0);
        Some(at)
    }
}
