//! What images share with each other, and what keeps them from sharing more.
//!
//! A page is compared by its contents, as the pool does: wherever it lies, it is kept once. Pages of zeros are in no
//! file and no count here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use pool_core::description::{Range, RangeKind};
use pool_core::name::{LibraryRef, Name};
use pool_core::{PageCount, PageId};
use serde::Serialize;

use super::{PageContents, page_contents, pages_of};
use crate::describe::{DescribedImage, OwnPages};
use crate::layout::LayoutKind;

/// Images beside each other.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Each of them.
    pub images: Vec<Compared>,
    /// Different contents among all their pages: what the pool keeps.
    pub distinct: PageCount,
    /// What breaks sharing, that of most pages first.
    pub breaks: Vec<Break>,
}

/// An image beside others.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// As it was called.
    pub name: String,
    /// Its stored pages, those of zeros apart.
    pub pages: PageCount,
    /// Those of them that all the others have.
    pub in_all: PageCount,
    /// Those that some of them have.
    pub in_some: PageCount,
    /// Those that none of them has.
    pub alone: PageCount,
    /// Its memory, part by part in the order of addresses.
    #[serde(skip)]
    pub parts: Vec<PartPages>,
}

/// Pages of a library or of an image's own that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPages {
    /// The library; none for the image's own.
    pub library: Option<LibraryRef>,
    /// They are writable: what is stored is what they begin with.
    pub is_data: bool,
    /// In how many of the images each page is; 0 is a page of zeros.
    pub cells: Vec<u32>,
}

/// Why pages are not shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// How many of one image it concerns at most.
    pub pages: PageCount,
    /// In the words of who builds them.
    pub why: String,
}

/// Compares images, each with what it is called.
pub fn compare(images: &[(String, DescribedImage<'_>)]) -> Comparison {
    let contents: Vec<PageContents> = images.iter().map(|(_, i)| page_contents(i)).collect();
    let mut holders: HashMap<PageId, u32> = HashMap::new();
    for ((_, image), contents) in images.iter().zip(&contents) {
        let mut own: Vec<PageId> = stored(image, contents)
            .filter_map(|(_, page)| page)
            .collect();
        own.sort_unstable();
        own.dedup();
        for page in own {
            *holders.entry(page).or_default() += 1;
        }
    }
    let all = images.len() as u32;
    let mut compared = Vec::with_capacity(images.len());
    for ((name, image), contents) in images.iter().zip(&contents) {
        let mut one = Compared::named(name);
        for (range, page) in stored(image, contents) {
            one.add(range, page.map_or(0, |page| holders[&page]), all);
        }
        compared.push(one);
    }
    Comparison {
        distinct: PageCount(holders.len() as u64),
        breaks: breaks(images, &compared),
        images: compared,
    }
}

impl Compared {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pages: PageCount(0),
            in_all: PageCount(0),
            in_some: PageCount(0),
            alone: PageCount(0),
            parts: Vec::new(),
        }
    }

    fn add(&mut self, range: &Range, holders: u32, all: u32) {
        let one = PageCount(1);
        match holders {
            0 => {}
            1 => self.alone += one,
            _ if holders == all => self.in_all += one,
            _ => self.in_some += one,
        }
        if holders > 0 {
            self.pages += one;
        }
        let is_data = range.kind == RangeKind::Private;
        match self.parts.last_mut() {
            Some(part) if part.library == range.library && part.is_data == is_data => {
                part.cells.push(holders);
            }
            _ => self.parts.push(PartPages {
                library: range.library.clone(),
                is_data,
                cells: vec![holders],
            }),
        }
    }

    /// Pages that no other image has, of what `of` says.
    fn alone_in(&self, of: impl Fn(Option<&LibraryRef>) -> bool) -> PageCount {
        let parts = self.parts.iter().filter(|part| of(part.library.as_ref()));
        let cells = parts.flat_map(|part| &part.cells);
        PageCount(cells.filter(|holders| **holders == 1).count() as u64)
    }
}

/// All pages that are stored, in order of addresses, with the range of each.
fn stored<'i>(
    image: &'i DescribedImage<'_>,
    contents: &'i PageContents,
) -> impl Iterator<Item = (&'i Range, Option<PageId>)> {
    let ranges = image.description.ranges.iter();
    let ranges = ranges.filter(|range| range.kind != RangeKind::Zero);
    ranges.flat_map(move |range| {
        pages_of(range, contents)
            .iter()
            .map(move |page| (range, *page))
    })
}

fn breaks(images: &[(String, DescribedImage<'_>)], compared: &[Compared]) -> Vec<Break> {
    let mut found = libraries(images, compared);
    for ((name, image), compared) in images.iter().zip(compared) {
        found.extend(image.own.iter().map(|own| of_own_pages(name, own)));
        let own = compared.alone_in(|library| library.is_none());
        let why = match image.linked_as {
            Some(LayoutKind::Pool) => {
                format!("{name} has these pages for itself: its own code and data")
            }
            Some(kind) => format!(
                "{name} was linked with --pool-layout={}, so its libraries' pages are its own: link it without",
                kind.name()
            ),
            None => format!(
                "{name} was not linked by pool link, so its libraries lie where no other image has them: set the linker"
            ),
        };
        found.push(Break { pages: own, why });
    }
    found.retain(|found| found.pages.0 > 0);
    found.sort_by_key(|found| std::cmp::Reverse(found.pages));
    found
}

/// Of libraries: what one image has alone, what images have in several versions, and what each has of its own.
fn libraries(images: &[(String, DescribedImage<'_>)], compared: &[Compared]) -> Vec<Break> {
    type Users<'a> = BTreeMap<&'a LibraryRef, Vec<usize>>;
    let mut by_name: BTreeMap<&Name, Users<'_>> = BTreeMap::new();
    for (at, (_, image)) in images.iter().enumerate() {
        for used in &image.description.libraries {
            let versions = by_name.entry(&used.library.name).or_default();
            versions.entry(&used.library).or_default().push(at);
        }
    }
    let of_versions = |versions: &Users<'_>| {
        let alone = versions.iter().flat_map(|(library, users)| {
            let of = move |at: &usize| compared[*at].alone_in(|of| of == Some(*library));
            users.iter().map(of)
        });
        let in_images = |(library, users): (&&LibraryRef, &Vec<usize>)| {
            let users: Vec<&str> = users.iter().map(|at| images[*at].0.as_str()).collect();
            format!("{library} in {}", users.join(", "))
        };
        let told: Vec<String> = versions.iter().map(in_images).collect();
        let told = told.join("; ");
        let users: usize = versions.values().map(Vec::len).sum();
        let why = match versions.first_key_value() {
            Some((library, _)) if versions.len() == 1 && users > 1 => {
                format!("{library} has tables and data that each image fills in for itself")
            }
            Some(_) if users == 1 => format!("{told} alone"),
            _ => format!("{told}: link all of them with one archive"),
        };
        Break {
            pages: alone.max().unwrap_or(PageCount(0)),
            why,
        }
    };
    by_name.values().map(of_versions).collect()
}

fn of_own_pages(name: &str, own: &OwnPages) -> Break {
    let reason = |reason: &crate::layout::Reason| format!("{} ({})", reason.symbol, reason.pages);
    let symbols: Vec<String> = own.because.iter().map(reason).collect();
    let why = match symbols.as_slice() {
        [] => String::new(),
        symbols => format!(
            ", because what they refer to is its own: {}",
            symbols.join(", ")
        ),
    };
    Break {
        pages: own.pages,
        why: format!("{}'s pages differ in {name}{why}", own.library),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.images.iter().map(|image| image.name.len());
        let width = width.max().unwrap_or(0).max("image".len());
        writeln!(
            f,
            "{:<width$} {:>9} {:>9} {:>9} {:>9}",
            "image", "pages", "in all", "in some", "alone"
        )?;
        for image in &self.images {
            writeln!(
                f,
                "{:<width$} {:>9} {:>9} {:>9} {:>9}",
                image.name, image.pages.0, image.in_all.0, image.in_some.0, image.alone.0
            )?;
        }
        let pages: u64 = self.images.iter().map(|image| image.pages.0).sum();
        writeln!(
            f,
            "\n{pages} pages of {} images are {} in the pool ({:.1}%)",
            self.images.len(),
            self.distinct,
            100.0 * self.distinct.0 as f64 / pages.max(1) as f64
        )?;
        if !self.breaks.is_empty() {
            writeln!(f, "\nnot shared, most first\n{:>9}  why", "pages")?;
        }
        for found in &self.breaks {
            writeln!(f, "{:>9}  {}", found.pages.0, found.why)?;
        }
        Ok(())
    }
}
