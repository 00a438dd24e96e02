//! Asks the registry for the addresses of a link's libraries, and has their plans as the registry has them.

use pool_core::digest::ObjectId;
use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, PageCount};
use pool_core::registry::{
    AddressRange, Known, PRIVATE_END, PRIVATE_START, Places, Reservation, ReservationRequest,
    SHARED_START,
};

use super::error::LinkError;
use super::library::Library;
use super::places::record::Record;
use super::plan::Plan;
use super::registry::Registry;
use super::resolve::Resolution;
use super::set::LinkSet;
use super::unit::{Unit, UnitKind};

/// Plans a unit as if nothing were on record.
pub(super) type PlanAnew<'p, 'a> = &'p dyn Fn(usize) -> Result<Plan<'a>, LinkError>;

/// What is asked for a library.
struct Wanted {
    request: ReservationRequest,
    /// Digest of the record that its plan follows, if it keeps places.
    follows: Option<ObjectId>,
    /// Why it cannot be linked, unless the registry says that it is another library altogether.
    problem: Option<String>,
}

impl<'a> LinkSet<'a> {
    /// Asks for the addresses of all libraries of the image, with their plans as the registry has it: each keeps the
    /// places that are on record of its version, or of the one before.
    pub(super) fn reserve(
        &self,
        plans: &mut [Plan<'a>],
        program: &Resolution<'a>,
        registry: &mut dyn Registry,
        plan_anew: PlanAnew<'_, 'a>,
    ) -> Result<Vec<Option<Reservation>>, LinkError> {
        let libraries = 0..self.libraries.len();
        let mut open: Vec<usize> = libraries.filter(|at| program.includes(at + 1)).collect();
        let mut reservations = vec![None; self.libraries.len()];
        // Whoever registers a version first decides what it keeps, and that may have been another one since.
        for is_last in [false, true] {
            if open.is_empty() {
                break;
            }
            let wanted = self.ask(&open, plans, registry, plan_anew)?;
            let requests: Vec<_> = wanted.iter().map(|wanted| wanted.request.clone()).collect();
            let reserved = registry.reserve(&requests)?;
            if reserved.len() != requests.len() {
                let problem = format!("{} answers to {} requests", reserved.len(), requests.len());
                return Err(self.refuse(open[0], problem));
            }
            let mut others = Vec::new();
            for ((at, wanted), reservation) in open.into_iter().zip(wanted).zip(reserved) {
                if let Some(problem) = wanted.problem {
                    return Err(self.refuse(at, problem));
                }
                if !is_last && !is_followed(&wanted, &reservation) {
                    // The plan may have followed what is not true any more.
                    plans[at + 1] = plan_anew(at + 1)?;
                    others.push(at);
                    continue;
                }
                check(&wanted, &reservation).map_err(|problem| self.refuse(at, problem))?;
                reservations[at] = Some(reservation);
            }
            open = others;
        }
        self.check_apart(&reservations)?;
        Ok(reservations)
    }

    /// No two have an address, or a thread-local variable, in one place.
    fn check_apart(&self, reservations: &[Option<Reservation>]) -> Result<(), LinkError> {
        type Taken = fn(&Reservation) -> (u64, u64);
        let kinds: [(&str, Taken); 3] = [
            ("shared pages", |of| bounds(of.shared)),
            ("private pages", |of| bounds(of.private)),
            // Below the thread pointer.
            ("thread-local block", |of| {
                (of.tls.offset - of.tls.size, of.tls.offset)
            }),
        ];
        for (what, taken) in kinds {
            let given = reservations.iter().enumerate();
            let given = given.filter_map(|(at, given)| given.as_ref().map(|of| (taken(of), at)));
            let mut all: Vec<_> = given.filter(|((start, end), _)| start < end).collect();
            all.sort_unstable();
            if let Some(pair) = all.windows(2).find(|pair| pair[1].0.0 < pair[0].0.1) {
                let other = &self.libraries[pair[0].1].reference;
                let problem = format!(
                    "its {what} would lie in those of {other}: restore the registry from a backup"
                );
                return Err(self.refuse(pair[1].1, problem));
            }
        }
        Ok(())
    }

    /// What the libraries `open` ask for, once their plans are as the registry has it.
    fn ask(
        &self,
        open: &[usize],
        plans: &mut [Plan<'a>],
        registry: &mut dyn Registry,
        plan_anew: PlanAnew<'_, 'a>,
    ) -> Result<Vec<Wanted>, LinkError> {
        let names: Vec<LibraryRef> = open
            .iter()
            .map(|at| self.libraries[*at].reference.clone())
            .collect();
        let all = registry.known(&names)?;
        if all.len() != names.len() {
            let problem = format!("{} answers to {} questions", all.len(), names.len());
            return Err(self.refuse(open[0], problem));
        }
        let wanted = open.iter().zip(all).map(|(at, known)| {
            let (library, unit) = (&self.libraries[*at], &self.units[at + 1]);
            let plan = &mut plans[at + 1];
            match known {
                // Its pages are not its version's alone, so nothing is gained by keeping places.
                _ if unit.kind == UnitKind::Aligned => Ok(Wanted::of(library, plan)),
                Known::Alone => Ok(Wanted::of(library, plan)),
                Known::Nothing => {
                    let mut wanted = Wanted::of(library, plan);
                    wanted.request.places = places(plan, unit);
                    Ok(wanted)
                }
                Known::Keeping { version, places } => {
                    let record = Record::parse(places.bytes());
                    let can = record.is_some_and(|record| plan.follow(unit, &record));
                    let mut wanted = Wanted::of(library, plan);
                    wanted.problem = (!can).then(|| {
                        format!(
                            "it keeps places of {version}, and the record of its own is damaged, or another linker's: restore \
                             the registry from a backup, or choose another version name"
                        )
                    });
                    wanted.request.keeps = Some(version);
                    wanted.follows = Some(places.digest());
                    Ok(wanted)
                }
                Known::Earlier {
                    version,
                    places: earlier,
                } => {
                    let record = Record::parse(earlier.bytes());
                    let keeps = record.is_some_and(|record| plan.keep(unit, &record));
                    let places = places(plan, unit);
                    if keeps && places.is_none() {
                        // Its own record is too large for the registry, so that nobody could follow it.
                        *plan = plan_anew(at + 1)?;
                    }
                    let mut wanted = Wanted::of(library, plan);
                    if let Some(places) = places.as_ref().filter(|_| keeps) {
                        wanted.request.keeps = Some(version);
                        wanted.follows = Some(places.digest());
                    }
                    wanted.request.places = places;
                    Ok(wanted)
                }
            }
        });
        wanted.collect()
    }

    fn refuse(&self, library: usize, problem: String) -> LinkError {
        let library = self.libraries[library].reference.clone();
        LinkError::BadReservation { library, problem }
    }
}

impl Wanted {
    fn of(library: &Library, plan: &Plan<'_>) -> Self {
        Self {
            request: request(library, plan),
            follows: None,
            problem: None,
        }
    }
}

/// What is to be on record of a plan; none if that is too much.
fn places<'a>(plan: &Plan<'a>, unit: &Unit<'a>) -> Option<Places> {
    Places::new(plan.record(unit)?.to_bytes())
}

/// The plan is laid out as the registry has it.
fn is_followed(wanted: &Wanted, reservation: &Reservation) -> bool {
    wanted.request.keeps == reservation.request.keeps && wanted.follows == reservation.follows
}

fn request(library: &Library, plan: &Plan<'_>) -> ReservationRequest {
    ReservationRequest {
        shared_alignment: plan.shared_alignment(),
        tls_size: plan.thread.size,
        tls_alignment: plan.thread.alignment,
        ..ReservationRequest::new(
            library.reference.clone(),
            library.identity,
            PageCount::covering(plan.shared_size()),
            PageCount::covering(plan.private_size()),
        )
    }
}

/// First address, and first behind it.
fn bounds(range: AddressRange) -> (u64, u64) {
    (range.start.0, range.end().0)
}

/// A registry may be another machine's: what it answers must fit.
fn check(wanted: &Wanted, reservation: &Reservation) -> Result<(), String> {
    let request = &wanted.request;
    if !is_followed(wanted, reservation) {
        let version = reservation.request.keeps.as_ref();
        return Err(match (version, request.keeps.is_some()) {
            (Some(version), false) => format!(
                "it keeps places of {version}, and the registry has lost the record of its own: restore that from a backup, or \
                 choose another version name"
            ),
            _ => "it was not registered with the record of its places that the registry has now: restore the registry from a \
                  backup, or choose another version name"
                .to_owned(),
        });
    }
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
