//! How an object's pages are laid out: dense or sparse, window by window. Pure.
//!
//! A 2 MiB window of an address space that is one 2 MiB-aligned run of a segment costs one page
//! table entry, one fault and, on the first touch, about 1/300 of what its pages cost one by one.
//! The price is disk and page cache: the window takes 2 MiB however little of it is used, and a
//! page that is also stored elsewhere is stored again. Both are paid once a host; the faults are
//! saved at every start. So a window is dense once it holds enough pages to matter.

use pool_core::digest::{PageId, WindowId};
use pool_core::page::PAGES_PER_WINDOW;
use serde::{Deserialize, Serialize};

/// How an object wants to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Placement {
    /// Wherever its pages are: files that are read, data that is mapped privately.
    Sparse,
    /// In windows of an address space whose first page has this position (0 to 511).
    Windows {
        /// Position of the object's first page in its window.
        phase: u16,
    },
}

/// From how many non-zero pages on a window is stored densely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementPolicy {
    /// Pages; 1 makes every window dense, 513 none.
    pub dense_from_pages: u32,
}

impl Default for PlacementPolicy {
    /// 32 pages: touching them singly costs a guest some 0.4 ms at every start (measured at
    /// 13 us a page), against at most 1.9 MiB of padding once a host.
    fn default() -> Self {
        Self {
            dense_from_pages: 32,
        }
    }
}

/// The part of an object that lies in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    /// First page of the part, in the object.
    pub first_page: u64,
    /// Pages of the part; never zero.
    pub count: u64,
    /// Position of the first page in the window, 0 to 511.
    pub position: u64,
    /// The window's name when it is to be stored densely.
    pub dense: Option<WindowId>,
}

/// Cuts an object into windows and decides about each. `None` is a zero page.
pub fn plan(
    placement: Placement,
    pages: &[Option<PageId>],
    policy: PlacementPolicy,
) -> Vec<WindowPlan> {
    let total = pages.len() as u64;
    let Placement::Windows { phase } = placement else {
        let whole = WindowPlan {
            first_page: 0,
            count: total,
            position: 0,
            dense: None,
        };
        return if total == 0 { vec![] } else { vec![whole] };
    };
    let mut plans = Vec::new();
    let mut first_page = 0;
    let mut position = u64::from(phase) % PAGES_PER_WINDOW;
    while first_page < total {
        let count = (PAGES_PER_WINDOW - position).min(total - first_page);
        let part = &pages[first_page as usize..(first_page + count) as usize];
        let stored = part.iter().flatten().count();
        let dense = (stored >= policy.dense_from_pages as usize)
            .then(|| window_id(position as usize, part));
        plans.push(WindowPlan {
            first_page,
            count,
            position,
            dense,
        });
        first_page += count;
        position = 0;
    }
    plans
}

/// Names a window that holds `part` from `position` on and zeros elsewhere: the digest of the 512
/// page digests, 32 zero bytes standing for a zero page.
fn window_id(position: usize, part: &[Option<PageId>]) -> WindowId {
    let mut hasher = blake3::Hasher::new();
    let zeros = [0u8; 32];
    let before = std::iter::repeat_n(&zeros, position);
    let inside = part
        .iter()
        .map(|page| page.as_ref().map_or(&zeros, PageId::as_bytes));
    let after = std::iter::repeat_n(&zeros, PAGES_PER_WINDOW as usize - position - part.len());
    for digest in before.chain(inside).chain(after) {
        hasher.update(digest);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize) -> Vec<Option<PageId>> {
        (0..count)
            .map(|n| Some(PageId::of(&n.to_le_bytes())))
            .collect()
    }

    const POLICY: PlacementPolicy = PlacementPolicy {
        dense_from_pages: 32,
    };

    #[test]
    fn windows_follow_the_address_space_not_the_file() {
        let plans = plan(Placement::Windows { phase: 500 }, &pages(600), POLICY);
        let cut: Vec<_> = plans
            .iter()
            .map(|p| (p.first_page, p.count, p.position, p.dense.is_some()))
            .collect();
        assert_eq!(
            cut,
            [(0, 12, 500, false), (12, 512, 0, true), (524, 76, 0, true)]
        );
    }

    #[test]
    fn zero_pages_do_not_make_a_window_dense() {
        let mut mostly_zero = pages(512);
        for page in &mut mostly_zero[31..] {
            *page = None;
        }
        assert_eq!(
            plan(Placement::Windows { phase: 0 }, &mostly_zero, POLICY)[0].dense,
            None
        );
        mostly_zero[40] = Some(PageId::of(b"one more"));
        assert!(
            plan(Placement::Windows { phase: 0 }, &mostly_zero, POLICY)[0]
                .dense
                .is_some()
        );
    }

    #[test]
    fn equal_windows_have_equal_names_whatever_the_object() {
        let content = pages(100);
        let name = |phase, pages: &[Option<PageId>]| {
            plan(Placement::Windows { phase }, pages, POLICY)
                .last()
                .unwrap()
                .dense
        };
        let mut shifted = vec![None; 20];
        shifted.extend(&content);
        assert_eq!(name(120, &content), name(100, &shifted));
        assert_ne!(name(120, &content), name(121, &content));
    }

    #[test]
    fn sparse_objects_are_one_part() {
        assert_eq!(plan(Placement::Sparse, &pages(1000), POLICY).len(), 1);
        assert!(plan(Placement::Sparse, &[], POLICY).is_empty());
        assert!(plan(Placement::Windows { phase: 3 }, &[], POLICY).is_empty());
    }
}
