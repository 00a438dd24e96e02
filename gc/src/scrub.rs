//! A pass over all that a store has, which goes on where the last one stopped, and sees to it that what it finds damaged
//! is mended by the next push of it.

use std::ops::ControlFlow;

use pool_core::digest::ObjectId;
use pool_store::audit::audit;
use pool_store::scrub::{Pass, PassState, ScrubReport, State};
use pool_store::{Progress, Store, now};
use serde::{Deserialize, Serialize};

use crate::{Keepers, Result, Thing, during, why};

/// How far [`scrub`] came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// It came to the end of the store, and could read all of the index; otherwise the next one goes on there, or begins anew.
    #[serde(rename = "complete")]
    pub is_complete: bool,
    /// What the pass has found, with what was found before it was interrupted.
    #[serde(flatten)]
    pub report: ScrubReport,
}

/// Reads what has not been read yet of the pass under way, or of a new one. `step` is called every 2 MiB at most, may
/// take its time, and may end it; it is told of the bytes of segments. How far it came is kept after each of these.
pub fn scrub(store: &Store, step: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Scrubbed> {
    let directory = store.directory();
    let mut state = State::read(directory, now());
    let mut under_way = state.pass.take().unwrap_or_else(|| PassState {
        begun_at: now(),
        ..PassState::default()
    });
    if under_way.after.is_none() {
        // All that is still damaged is found again.
        under_way.found = ScrubReport {
            damaged_files: under_way.found.damaged_files,
            ..ScrubReport::default()
        };
    }
    let begun = Pass::begin(store, under_way.after);
    let mut pass = during("beginning to scrub", begun)?;
    let mut is_stopped = false;
    // However far the pass is: what it has found of these files may be mended since. And whatever the rate: no file of index and
    // journal goes meanwhile, and no checkpoint is written.
    let audited = audit(store, &mut |_| step(pass.beside(0)));
    match during("comparing index and journal", audited)? {
        ControlFlow::Continue(found) => {
            let mut damaged = found.damaged;
            store.mend_files(&mut damaged);
            let before = under_way.found.damaged_files.clone();
            let files = &mut under_way.found.damaged_files;
            // Whatever else is still damaged is found again.
            files.retain(|file| file.mended && damaged.iter().all(|again| again.file != file.file));
            files.extend(damaged);
            under_way.found.add_unread(&pass);
            if under_way.found.damaged_files != before {
                state.pass = Some(under_way.clone());
                during("noting how far a scrub is", state.write(directory))?;
            }
        }
        ControlFlow::Break(()) => is_stopped = true,
    }
    while !is_stopped {
        let mut watched = |progress| {
            let flow = step(progress);
            is_stopped |= flow.is_break();
            flow
        };
        let Some(read) = during("scrubbing", pass.next(&mut watched))? else {
            break;
        };
        let segment = read.segment;
        let found = &mut under_way.found;
        found.segments += 1;
        found.pages += read.pages;
        found.doubtful_pages += read.doubtful_pages();
        let asked = pass.damaged_by(read, &mut watched);
        let Some(mut damaged) = during("asking for damaged objects", asked)? else {
            break;
        };
        damaged.retain(|id| !found.damaged_objects.contains(id));
        if !damaged.is_empty() {
            report(store, &damaged);
            // What keeps it from being noted is of the index, and told as well.
            if let Err(error) = store.note_damaged(&damaged) {
                tracing::error!(%error, "noting what is damaged");
            }
            found.damaged_objects.extend(damaged);
        }
        found.add_unread(&pass);
        under_way.after = Some(segment);
        state.pass = Some(under_way.clone());
        during("noting how far a scrub is", state.write(directory))?;
    }
    let report = under_way.found;
    let is_complete = !is_stopped && !pass.passes_over();
    if !is_stopped {
        if is_complete {
            state.pass = None;
            state.completed_at = Some(now());
            state.last = Some(report.clone());
        } else {
            // The next one has to read all segments again, for the objects that were passed over.
            state.pass = Some(PassState {
                begun_at: now(),
                after: None,
                found: report.clone(),
            });
        }
        during("noting the end of a scrub", state.write(directory))?;
        if let Err(error) = store.mend() {
            tracing::error!(%error, "mending what was damaged");
        }
    }
    tracing::info!(
        segments = report.segments,
        pages = report.pages,
        damaged_objects = report.damaged_objects.len(),
        damaged_files = report.damaged_files.len(),
        is_complete,
        "scrubbed"
    );
    Ok(Scrubbed {
        is_complete,
        report,
    })
}

/// Names objects that are damaged, and what needs them.
fn report(store: &Store, damaged: &[ObjectId]) {
    for id in damaged {
        let needed_by = match why(store, Thing::Object(*id)) {
            Ok(mut why) => names(&why.objects.remove(id).unwrap_or_default()),
            Err(error) => error.to_string(),
        };
        tracing::error!(
            object = %id,
            needed_by,
            "an object is damaged: check the disk (dmesg, smartctl), and push it again"
        );
    }
}

fn names(keepers: &Keepers) -> String {
    let images = keepers.images.iter().map(|image| format!("image/{image}"));
    let libraries = keepers.libraries.iter();
    let libraries = libraries.map(|library| format!("lib/{library}"));
    images.chain(libraries).collect::<Vec<_>>().join(" ")
}
