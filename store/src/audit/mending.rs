//! Writing anew what was found damaged, from what the open store has.

use super::{DamagedFile, Part};
use crate::Store;
use crate::error::Result;

impl Store {
    /// Writes superblock and mark anew, which the store has in memory, where they were found damaged, and notes that. Index and
    /// journal stay for a [repair](crate::repair): it moves what it replaces aside, and nobody writes meanwhile.
    pub fn mend_files(&self, found: &mut [DamagedFile]) {
        let has = |part: Part| found.iter().any(|file| file.part == part);
        let superblock = has(Part::Superblock) && self.attempt(Self::mend_superblock);
        let mark = has(Part::Mark) && self.attempt(|store| store.view.index.write_mark());
        for file in found {
            file.mended = match file.part {
                Part::Superblock => superblock,
                Part::Mark => mark,
                Part::Index | Part::Checkpoint | Part::Log => false,
            };
            let (file, what, mended) = (file.place(), &file.what, file.mended);
            tracing::error!(
                file,
                what,
                mended,
                "a file of the store is damaged: check the disk (dmesg, smartctl)"
            );
        }
    }

    fn attempt(&self, work: impl FnOnce(&Self) -> Result<()>) -> bool {
        let result = work(self);
        if let Err(error) = &result {
            tracing::error!(%error, "writing a damaged file anew");
        }
        result.is_ok()
    }

    fn mend_superblock(&self) -> Result<()> {
        self.view.superblock().write(self.view.directory())
    }
}
