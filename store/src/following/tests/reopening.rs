//! What a follower finds when it opens the index anew, and what it shows meanwhile.

use super::*;

/// The tables of the store's index, which can be taken away.
struct Tables {
    index: PathBuf,
    away: PathBuf,
}

impl Tables {
    fn of(store: &Path) -> Self {
        Self {
            index: store.join("index"),
            away: store.with_extension("away"),
        }
    }

    fn take_away(&self) {
        fs::create_dir(&self.away).unwrap();
        let taken = move_tables(&self.index, &self.away);
        assert!(taken > 0, "nothing would be missed");
    }

    fn put_back(&self) {
        move_tables(&self.away, &self.index);
        fs::remove_dir(&self.away).unwrap();
    }
}

fn move_tables(from: &Path, to: &Path) -> usize {
    let entries = fs::read_dir(from).unwrap();
    let tables = entries.map(|entry| entry.unwrap().file_name());
    let tables: Vec<_> = tables
        .filter(|name| Path::new(name).extension() == Some("sst".as_ref()))
        .collect();
    for name in &tables {
        fs::rename(from.join(name), to.join(name)).unwrap();
    }
    tables.len()
}

/// A copy takes the place of the mark: there may be another index.
fn replace_mark(store: &Path) {
    let (mark, copy) = (store.join("generation"), store.join("copy"));
    fs::copy(&mark, &copy).unwrap();
    fs::rename(copy, mark).unwrap();
}

/// One whose store is in tables, and nobody's at the moment.
fn followed_in_tables() -> (Directories, StoreView) {
    let (directories, store, view) = followed();
    drop((store, view));
    // What a log had is in tables then.
    drop(open(directories.0.path()));
    let view = StoreView::follow_closely(directories.0.path(), directories.1.path()).unwrap();
    (directories, view)
}

fn goes_on(directories: &Directories, view: &StoreView) {
    let store = open(directories.0.path());
    assert_same(&store, view);
    token(&store, "after");
    assert_same(&store, view);
}

#[test]
fn a_table_that_is_missed_once_is_looked_for_again() {
    let (directories, view) = followed_in_tables();
    let before = view.snapshot().everything();
    let tables = Arc::new(Tables::of(directories.0.path()));
    tables.take_away();
    replace_mark(directories.0.path());
    let (back, mut is_back) = (Arc::clone(&tables), false);
    steps::at_each(move |step| {
        if step == Step::Reopened && !std::mem::replace(&mut is_back, true) {
            back.put_back();
        }
    });
    let refreshed = view.refresh();
    steps::at_each(|_| ());
    refreshed.unwrap();
    assert!(!tables.away.exists(), "it was opened anew");
    assert!(view.snapshot().everything() == before);
    goes_on(&directories, &view);
}

#[test]
fn nobody_is_shown_an_index_without_its_tables() {
    let (directories, view) = followed_in_tables();
    let before = view.snapshot().everything();
    let tables = Tables::of(directories.0.path());
    tables.take_away();
    replace_mark(directories.0.path());
    let refused = view.refresh().unwrap_err().to_string();
    assert!(refused.contains("files of it are missing"), "{refused}");
    assert!(view.snapshot().everything() == before);
    tables.put_back();
    goes_on(&directories, &view);
}
