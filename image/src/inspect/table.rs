//! The report as text.

use std::fmt;

use pool_core::ObjectId;
use pool_core::description::{Layout, RangeKind};

use super::Report;
use crate::elf::ExecutableKind;
use crate::extract::SHORT_DIGEST;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ExecutableKind::Fixed => "fixed address",
            ExecutableKind::StaticPie => "static-pie",
        };
        let stripped = if self.stripped {
            "stripped"
        } else {
            "with symbols"
        };
        let abi = self.abi.name();
        let layout = match (self.layout, self.linked_as) {
            (Layout::Registered, _) => "registered".to_owned(),
            (Layout::Own, None) => "own".to_owned(),
            (Layout::Own, Some(kind)) => format!("own ({})", kind.name()),
        };
        writeln!(f, "digest    {}", self.digest)?;
        writeln!(f, "file      {} bytes, {kind}, {stripped}", self.length)?;
        writeln!(
            f,
            "minified  {} bytes ({:.1}%)",
            self.minified_length,
            100.0 * self.minified_length as f64 / self.length.max(1) as f64
        )?;
        writeln!(f, "entry     {}, abi {abi}, layout {layout}", self.entry)?;
        if self.load_bias != 0 {
            writeln!(f, "loaded    at {:#x}", self.load_bias)?;
        }
        match self.program_headers {
            Some(headers) => writeln!(f, "headers   {} at {}", headers.count, headers.address)?,
            None => writeln!(
                f,
                "headers   not in memory: libc will not find its TLS image"
            )?,
        }
        self.write_ranges(f)?;
        self.write_libraries(f)?;
        for own in &self.own {
            let symbols = own.because.iter();
            let symbols: Vec<String> = symbols
                .map(|reason| format!("{} ({})", reason.symbol, reason.pages.0))
                .collect();
            writeln!(
                f,
                "\n{} pages of {} are this image's own, because what they refer to is: {}",
                own.pages,
                own.library,
                symbols.join(", ")
            )?;
        }
        for kept in &self.keeping {
            writeln!(
                f,
                "\n{} has what it has of {} where that has it",
                kept.library, kept.of
            )?;
        }
        let pages = &self.pages;
        writeln!(
            f,
            "\npages     {}: {} shared, {} private, {} bss; of the stored, {} zero, {} distinct",
            pages.total, pages.shared, pages.private, pages.bss, pages.zero, pages.distinct
        )?;
        let windows = &self.windows;
        writeln!(
            f,
            "windows   {} of 2 MiB, {} with shared pages, {} of them could be mapped whole",
            windows.touched, windows.shared, windows.whole
        )?;
        self.write_slide(f)
    }
}

impl Report {
    fn write_ranges(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<18} {:>12}  {:<4}  {:<7}  {:<12}  library",
            "address", "bytes", "prot", "kind", "source"
        )?;
        for range in &self.ranges {
            let kind = match range.kind {
                RangeKind::Shared => "shared",
                RangeKind::Private => "private",
                RangeKind::Zero => "zero",
            };
            let library = range.library.as_ref().map(ToString::to_string);
            let line = format!(
                "{:<18} {:>12}  {:<4}  {kind:<7}  {:<12}  {}",
                range.address.to_string(),
                range.length,
                range.protection.to_string(),
                range.object.as_ref().map_or_else(|| "-".into(), short),
                library.unwrap_or_default()
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn write_slide(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slide = &self.slide;
        let why = slide.why_not.as_deref().unwrap_or_default();
        if !slide.image {
            return writeln!(f, "slides    not at all: {why}");
        }
        if slide.libraries {
            writeln!(f, "slides    as a whole, or each library by itself")?;
        } else {
            writeln!(
                f,
                "slides    as a whole; libraries not by themselves: {why}"
            )?;
        }
        let written = slide.written.iter();
        let shared = written.clone().map(|of| of.shared.0).sum::<u64>();
        let private = written.map(|of| of.private.0).sum::<u64>();
        writeln!(
            f,
            "          {} addresses to write, on {private} private pages, and {shared} that are shared otherwise",
            slide.addresses
        )?;
        for of in slide.written.iter().filter(|of| of.shared.0 > 0) {
            let name = of.library.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_else(|| "the application".to_owned());
            writeln!(f, "          {} of them in {name}", of.shared)?;
        }
        Ok(())
    }

    fn write_libraries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.libraries.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<24} {:<12} {:<12}  {:>8} {:>8} {:>8} {:>8}",
            "library", "address", "source", "shared", "zero", "private", "bss"
        )?;
        for library in &self.libraries {
            writeln!(
                f,
                "{:<24} {:<12} {:<12}  {:>8} {:>8} {:>8} {:>8}",
                library.library.to_string(),
                library.address.to_string(),
                short(&library.object),
                library.shared.0,
                library.zero.0,
                library.private.0,
                library.bss.0
            )?;
        }
        Ok(())
    }
}

fn short(id: &ObjectId) -> String {
    let mut text = id.to_string();
    text.truncate(SHORT_DIGEST);
    text
}
