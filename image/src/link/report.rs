//! What a link says of itself: the layout in the file, what each library takes, and what the user should know.

use std::collections::BTreeMap;

use pool_core::name::LibraryRef;
use pool_core::page::PageCount;
use pool_core::registry::Reservation;

use crate::layout::{self, LinkLayout, MOST_REASONS, PlacedLibrary, Reason};

use super::args::LinkRequest;
use super::image::Image;
use super::object::Place;
use super::relocate::{Contents, OwnPage};
use super::set::LinkSet;
use super::unit::UnitKind;

/// What a library takes in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryPages {
    /// Name and version.
    pub library: LibraryRef,
    /// The archive.
    pub file: String,
    /// Pages of code and constants; in the pool's layout all images share them, but for those of their own.
    pub shared: PageCount,
    /// Pages of these that differ in this image, since the program means something else there than other
    /// programs do: it replaces what the library refers to.
    pub own: PageCount,
    /// What it replaces, each with the number of such pages, most first.
    pub because: Vec<Reason>,
    /// Read-only pages that hold addresses of the image.
    pub bound: PageCount,
    /// Pages of data and zeros.
    pub data: PageCount,
}

impl LinkSet<'_> {
    pub(super) fn layout(
        &self,
        request: &LinkRequest,
        image: &Image<'_, '_>,
        contents: &Contents,
        reservations: &[Option<Reservation>],
    ) -> LinkLayout {
        let placed = |unit: usize| {
            let reservation = reservations[unit - 1].as_ref()?;
            let page = |page: &usize| PageCount(*page as u64);
            Some(PlacedLibrary {
                library: self.libraries[unit - 1].reference.clone(),
                shared: reservation.shared,
                private: reservation.private,
                keeps: reservation.request.keeps.clone(),
                own: contents.own[unit].keys().map(page).collect(),
                because: because(&contents.own[unit])
                    .into_iter()
                    .take(MOST_REASONS)
                    .collect(),
            })
        };
        let libraries: Vec<PlacedLibrary> = image
            .included()
            .filter(|unit| image.units[*unit].kind == UnitKind::Library)
            .filter_map(placed)
            .collect();
        LinkLayout {
            format: layout::format_of(&libraries),
            kind: request.layout,
            libraries,
            fixed: contents.moves.why_fixed(),
        }
    }

    /// The objects and the archives that something of is in the image.
    pub(super) fn trace(&self, image: &Image<'_, '_>) -> String {
        let objects = self.units[0].objects.iter().map(|object| &object.name);
        let archives = image.included().filter(|unit| *unit != 0);
        let archives = archives.map(|unit| &self.units[unit].label);
        objects
            .chain(archives)
            .flat_map(|name| [name.as_str(), "\n"])
            .collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let libraries = self.libraries.iter();
        std::iter::once(String::new())
            .chain(libraries.map(|l| l.reference.name.to_string()))
            .collect()
    }

    pub(super) fn pages(&self, image: &Image<'_, '_>, contents: &Contents) -> Vec<LibraryPages> {
        let libraries = image.included().filter(|unit| *unit != 0);
        libraries
            .map(|unit| {
                let plan = &image.plans[unit];
                LibraryPages {
                    library: self.libraries[unit - 1].reference.clone(),
                    file: self.units[unit].label.clone(),
                    shared: PageCount::covering(plan.shared_size()),
                    own: PageCount(contents.own[unit].len() as u64),
                    because: because(&contents.own[unit]),
                    bound: PageCount::covering(plan.bound.size),
                    data: PageCount::covering(plan.data.size),
                }
            })
            .collect()
    }

    pub(super) fn warnings(
        &self,
        request: &LinkRequest,
        image: &Image<'_, '_>,
        others: Vec<String>,
    ) -> Vec<String> {
        let mut warnings = request.warnings.clone();
        warnings.extend(others);
        if request.executable_stack.is_none()
            && let Some(object) = image.asks_for_executable_stack()
        {
            warnings.push(format!(
                "{object} requires executable stack, or does not say that it needs none \
                 (.note.GNU-stack): the program has one"
            ));
        }
        warnings.extend(self.of_symbols(image));
        warnings
    }

    /// What libraries say about the use of a symbol of theirs (`.gnu.warning.SYMBOL`), for each object that
    /// refers to it.
    fn of_symbols(&self, image: &Image<'_, '_>) -> Vec<String> {
        let live = || {
            let units = self.units.iter().enumerate();
            units.flat_map(|(u, unit)| {
                let objects = unit.objects.iter().enumerate();
                objects.filter_map(move |(o, object)| image.program.is_live(u, o).then_some(object))
            })
        };
        let mut told: BTreeMap<&str, &[u8]> = BTreeMap::new();
        for section in live().flat_map(|object| &object.sections) {
            if let Some(symbol) = section.name.strip_prefix(".gnu.warning.") {
                told.entry(symbol).or_insert(section.bytes);
            }
        }
        if told.is_empty() {
            return Vec::new();
        }
        let uses = live().flat_map(|object| {
            let symbols = object.symbols.iter();
            let undefined = symbols.filter(|symbol| symbol.place == Place::Undefined);
            undefined.filter_map(|symbol| {
                let text = String::from_utf8_lossy(told.get(symbol.name)?);
                Some(format!(
                    "{}: {}",
                    object.name,
                    text.trim_end_matches('\0').trim_end()
                ))
            })
        });
        uses.collect()
    }
}

/// For how many pages each symbol is a reason.
fn because(own: &BTreeMap<usize, OwnPage>) -> Vec<Reason> {
    let mut pages: BTreeMap<&String, u64> = BTreeMap::new();
    for symbol in own.values().flat_map(|page| &page.because) {
        *pages.entry(symbol).or_default() += 1;
    }
    let mut pages: Vec<_> = pages
        .into_iter()
        .map(|(symbol, count)| Reason {
            symbol: symbol.clone(),
            pages: PageCount(count),
        })
        .collect();
    pages.sort_by_key(|reason| std::cmp::Reverse(reason.pages));
    pages
}
