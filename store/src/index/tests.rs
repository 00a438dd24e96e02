//! What an index says of counters that cannot be.

use super::*;

#[test]
fn a_count_that_is_the_last_number_there_is_has_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    Index::create(&path, [7; 16]).unwrap();
    let db = DB::open_cf_descriptors(&primary_options(), &path, families()).unwrap();
    let index = Index {
        path: path.clone(),
        role: Role::Inspector(db),
    };
    let mut batch = index.batch();
    batch.note(COMMITS, u64::MAX.to_le_bytes());
    batch.note(commit_key(u64::MAX), []);
    index.write(&batch, true).unwrap();
    drop(index);
    let found = Index::inspect_at(&path).unwrap();
    assert_eq!(found.commits, u64::MAX);
    assert!(found.hole.is_some());
}

impl Reader<'_> {
    /// All keys of all families that it has with their values, but for notes of which commits there were.
    pub(crate) fn everything(&self) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let has = |family: &&'static str| self.check_has(family).is_ok();
        for family in options::FAMILIES.into_iter().filter(has) {
            self.scan(family, &[], |key, value| {
                if family != META || !key.starts_with(COMMIT) {
                    all.push((family, key.to_vec(), value.to_vec()));
                }
                Ok(())
            })
            .unwrap();
        }
        all
    }
}
