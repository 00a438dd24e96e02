//! What is not live and can be taken out of the index.

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::name::LibraryRef;
use pool_store::Snapshot;
use pool_store::format::Location;

use crate::mark::Mark;
use crate::{Result, during};

/// Index entries that nothing live refers to.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Objects that no root reaches.
    pub objects: Vec<ObjectId>,
    /// Pages whose slot no live object refers to.
    pub pages: Vec<(PageId, Location)>,
    /// Dense windows that no live dense extent lies in.
    pub windows: Vec<(WindowId, Location)>,
}

/// Library versions that no image, pin or lease keeps and that have been unused since
/// `unused_before` (seconds since 1970) or longer.
pub fn expired_libraries(store: &Snapshot<'_>, unused_before: u64) -> Result<Vec<LibraryRef>> {
    let mut expired = Vec::new();
    for (library, record) in during("reading library versions", store.libraries())? {
        let unused = record
            .unused_since
            .is_some_and(|since| since <= unused_before);
        if !unused || record.pinned {
            continue;
        }
        let used = !during("reading references", store.library_users(&library))?.is_empty();
        let leased = during(
            "asking for leases",
            store.view().object_is_leased(record.object),
        )?;
        if !used && !leased {
            expired.push(library);
        }
    }
    Ok(expired)
}

/// Everything in the index that `mark` does not reach.
pub fn garbage(store: &Snapshot<'_>, mark: &Mark) -> Result<Garbage> {
    let mut garbage = Garbage::default();
    let objects = store.for_each_object(|id, _| {
        if !mark.objects.contains(&id) {
            garbage.objects.push(id);
        }
        Ok(())
    });
    during("listing objects", objects)?;
    let pages = store.for_each_page(|id, at| {
        if !mark.is_live(at) {
            garbage.pages.push((id, at));
        }
        Ok(())
    });
    during("listing pages", pages)?;
    let windows = store.for_each_window(|id, at| {
        if !mark.window_is_live(at) {
            garbage.windows.push((id, at));
        }
        Ok(())
    });
    during("listing windows", windows)?;
    Ok(garbage)
}
