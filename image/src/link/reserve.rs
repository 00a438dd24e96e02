//! Asks the registry for the addresses of a link's libraries, and has their plans as the registry has them.

use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, PageCount};
use pool_core::registry::{
    Known, PRIVATE_END, PRIVATE_START, Places, Reservation, ReservationRequest, SHARED_START,
};

use super::error::LinkError;
use super::library::Library;
use super::places::record::Record;
use super::plan::{Follow, Plan};
use super::registry::Registry;
use super::resolve::Resolution;
use super::set::LinkSet;
use super::unit::Unit;

impl<'a> LinkSet<'a> {
    /// Asks for the addresses of all libraries of the image, with their plans as the registry has it: each keeps the
    /// places that are on record of its version, or of the one before.
    pub(super) fn reserve(
        &self,
        plans: &mut [Plan<'a>],
        program: &Resolution<'a>,
        registry: &mut dyn Registry,
    ) -> Result<Vec<Option<Reservation>>, LinkError> {
        let libraries = 0..self.libraries.len();
        let mut open: Vec<usize> = libraries.filter(|at| program.includes(at + 1)).collect();
        let mut reservations = vec![None; self.libraries.len()];
        // Whoever registers a version first decides what it keeps, and that may have been another one since.
        for is_last in [false, true] {
            if open.is_empty() {
                break;
            }
            let requests = self.requests(&open, plans, registry)?;
            let reserved = registry.reserve(&requests)?;
            if reserved.len() != requests.len() {
                let library = requests[0].library.clone();
                let problem = format!("{} answers to {} requests", reserved.len(), requests.len());
                return Err(LinkError::BadReservation { library, problem });
            }
            let mut others = Vec::new();
            for ((at, request), reservation) in open.into_iter().zip(requests).zip(reserved) {
                if !is_last && reservation.request.keeps != request.keeps {
                    others.push(at);
                    continue;
                }
                check(&request, &reservation).map_err(|problem| LinkError::BadReservation {
                    library: request.library,
                    problem,
                })?;
                reservations[at] = Some(reservation);
            }
            open = others;
        }
        Ok(reservations)
    }

    /// What the libraries `open` ask for, once their plans are as the registry has it.
    fn requests(
        &self,
        open: &[usize],
        plans: &mut [Plan<'a>],
        registry: &mut dyn Registry,
    ) -> Result<Vec<ReservationRequest>, LinkError> {
        let names: Vec<LibraryRef> = open
            .iter()
            .map(|at| self.libraries[*at].reference.clone())
            .collect();
        let all = registry.known(&names)?;
        if all.len() != names.len() {
            let problem = format!("{} answers to {} questions", all.len(), names.len());
            let library = names[0].clone();
            return Err(LinkError::BadReservation { library, problem });
        }
        let requests = open.iter().zip(all).map(|(at, known)| {
            let (library, plan, unit) = (
                &self.libraries[*at],
                &mut plans[at + 1],
                &self.units[at + 1],
            );
            let keeps = keep(plan, unit, &known).map_err(|problem| LinkError::BadReservation {
                library: library.reference.clone(),
                problem,
            })?;
            let mut request = request(library, plan);
            request.keeps = keeps;
            if matches!(known, Known::Earlier { .. } | Known::Nothing) {
                let record = plan.record(unit);
                request.places = record.and_then(|record| Places::new(record.to_bytes()));
            }
            Ok(request)
        });
        requests.collect()
    }
}

fn request(library: &Library, plan: &Plan<'_>) -> ReservationRequest {
    ReservationRequest {
        library: library.reference.clone(),
        identity: library.identity,
        shared_pages: PageCount::covering(plan.shared_size()),
        private_pages: PageCount::covering(plan.private_size()),
        shared_alignment: plan.shared_alignment(),
        tls_size: plan.thread.size,
        tls_alignment: plan.thread.alignment,
        dependencies: Vec::new(),
        keeps: None,
        places: None,
    }
}

/// Moves what a plan has to where it is on record, and says whose places it keeps.
fn keep<'a>(
    plan: &mut Plan<'a>,
    unit: &Unit<'a>,
    known: &Known,
) -> Result<Option<LibraryRef>, String> {
    let (version, places, follow) = match known {
        Known::Alone | Known::Nothing => return Ok(None),
        Known::Earlier { version, places } => (version, places, Follow::IfWorth),
        Known::Keeping { version, places } => (version, places, Follow::Always),
    };
    let record = Record::parse(places.bytes());
    match (record, follow) {
        (Some(record), _) if plan.keep(unit, &record, follow) => Ok(Some(version.clone())),
        (_, Follow::IfWorth) => Ok(None),
        (_, Follow::Always) => Err(format!(
            "it keeps places of {version}, and the record of its own is none of this linker's"
        )),
    }
}

/// A registry may be another machine's: what it answers must fit.
fn check(request: &ReservationRequest, reservation: &Reservation) -> Result<(), String> {
    if !reservation.request.is_as(request) {
        return Err("it is for another request".to_owned());
    }
    let ranges = [
        (
            reservation.shared,
            request.shared_pages,
            request.shared_alignment,
            SHARED_START,
            PRIVATE_START,
        ),
        (
            reservation.private,
            request.private_pages,
            PAGE_SIZE,
            PRIVATE_START,
            PRIVATE_END,
        ),
    ];
    for (range, pages, alignment, start, end) in ranges {
        let fits = range.pages == pages
            && range.start.0.is_multiple_of(alignment)
            && range.start >= start
            && pages
                .checked_bytes()
                .and_then(|bytes| range.start.checked_add(bytes))
                .is_some_and(|last| last <= end);
        if !fits {
            return Err(format!(
                "{} pages at {} do not fit between {start} and {end}",
                range.pages, range.start
            ));
        }
    }
    let tls = reservation.tls;
    let fits = tls.size == request.tls_size
        && (tls.size == 0
            || (tls.offset >= tls.size && tls.offset.is_multiple_of(request.tls_alignment.max(1))));
    if !fits || tls.offset > 1 << 30 {
        return Err("its thread-local block does not fit".to_owned());
    }
    Ok(())
}
