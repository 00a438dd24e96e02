//! Where the units of an image start when each moves by itself.

use std::collections::BTreeMap;

use pool_core::WINDOW_SIZE;
use pool_core::description::Description;
use pool_core::registry::AddressRange;
use pool_core::slide::{FieldKind, SlideRecord};

use super::{ARENA, CannotSlide, HIGHEST, LOWEST, ROOMS, Random};

const GIB: u64 = 1 << 30;
/// Most units that move by themselves.
const MOST: usize = 4096;

/// How far each unit of `record` moves.
///
/// Units keep their position in a window, and so can be mapped by windows. Those that code of 32-bit distances refers to lie in
/// [`ARENA`] with the application; what a library has beside its shared pages may lie above it.
pub(super) fn choose(
    record: &SlideRecord,
    description: &Description,
    random: &mut Random,
) -> Result<Vec<u64>, CannotSlide> {
    if let Some(why) = record.one_piece(description) {
        return Err(CannotSlide::OnePiece(why));
    }
    if let Some(at) = record.direct_reference(description) {
        return Err(CannotSlide::Direct(at));
    }
    let units: Vec<Extent> = record.units().iter().map(Extent::of).collect();
    if units.len() > MOST {
        return Err(CannotSlide::NoRoom);
    }
    let is_narrow = has_distances(record);
    let longest = units.iter().map(Extent::length).max().unwrap_or(0);
    let places = HIGHEST
        .checked_sub(LOWEST + ARENA + longest + ROOMS)
        .map_or(0, |room| room / GIB);
    if places == 0 {
        return Err(CannotSlide::NoRoom);
    }
    let base = LOWEST + random.below(places) * GIB;
    let mut taken = BTreeMap::new();
    let place = |unit: &Extent| {
        let length = if is_narrow {
            unit.length()
        } else {
            unit.near()
        };
        let inset = unit.start() % WINDOW_SIZE;
        let windows = ARENA
            .checked_sub(inset + length)
            .map_or(0, |room| room / WINDOW_SIZE + 1);
        let first = random.below(windows);
        let free = (0..windows).find_map(|nth| {
            let start = base + (first + nth) % windows * WINDOW_SIZE + inset;
            let by = start.wrapping_sub(unit.start());
            unit.is_free(by, &taken).then_some(by)
        });
        let by = free.ok_or(CannotSlide::NoRoom)?;
        unit.take(by, &mut taken);
        Ok(by)
    };
    units.iter().map(place).collect()
}

/// There are distances of 32 bits beside those of the unwinder's table, which are about shared pages.
fn has_distances(record: &SlideRecord) -> bool {
    let table = record
        .table()
        .map_or(0..0, |table| table.address..table.end());
    let mut fields = record.fields();
    fields.any(|fields| fields.kind == FieldKind::Distance && !table.contains(&fields.address))
}

/// A unit's runs of pages, as linked.
struct Extent {
    /// The lowest first; at least one.
    runs: Vec<(u64, u64)>,
}

impl Extent {
    fn of(unit: &[AddressRange; 2]) -> Self {
        let runs = unit.iter().filter(|run| run.pages.0 > 0);
        let mut runs: Vec<_> = runs.map(|run| (run.start.0, run.end().0)).collect();
        runs.sort_unstable();
        Self { runs }
    }

    fn start(&self) -> u64 {
        self.runs.first().map_or(0, |run| run.0)
    }

    /// Bytes of the first run.
    fn near(&self) -> u64 {
        self.runs.first().map_or(0, |run| run.1 - run.0)
    }

    /// Bytes from the start of the first run to the end of the last.
    fn length(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.1 - self.start())
    }

    /// Nothing of `taken` (start and end) is where the unit comes to lie.
    fn is_free(&self, by: u64, taken: &BTreeMap<u64, u64>) -> bool {
        self.runs.iter().all(|&(start, end)| {
            let (start, end) = (start.wrapping_add(by), end.wrapping_add(by));
            let before = taken.range(..end).next_back();
            before.is_none_or(|(_, until)| *until <= start)
        })
    }

    fn take(&self, by: u64, taken: &mut BTreeMap<u64, u64>) {
        for &(start, end) in &self.runs {
            taken.insert(start.wrapping_add(by), end.wrapping_add(by));
        }
    }
}
