//! Writing anew what was found damaged, from what the open store has.

use std::sync::atomic::Ordering;

use super::{DamagedFile, Part};
use crate::Store;
use crate::error::Result;
use crate::format::JOURNAL_DIRECTORY;
use crate::journal;

impl Store {
    /// Writes those of the files anew that the store has in memory or elsewhere, and notes which ones that were: superblock, mark
    /// and, where nothing of the index is damaged, the journal, which begins anew with a checkpoint of it. What is damaged of the
    /// index stays for a repair, and until then, or until nothing is found, no checkpoint is written that would have it.
    pub fn mend_files(&self, found: &mut [DamagedFile]) {
        let has = |part: &[Part]| found.iter().any(|file| part.contains(&file.part));
        let index_is_whole = !has(&[Part::Index]);
        self.distrusts_index
            .store(!index_is_whole, Ordering::Relaxed);
        let superblock = has(&[Part::Superblock]) && self.attempt(Self::mend_superblock);
        let mark = has(&[Part::Mark]) && self.attempt(|store| store.view.index.write_mark());
        let journal = has(&[Part::Checkpoint, Part::Log])
            && index_is_whole
            && self.attempt(Self::begin_journal_anew);
        for file in found {
            file.mended = match file.part {
                Part::Superblock => superblock,
                Part::Mark => mark,
                Part::Index => false,
                Part::Checkpoint | Part::Log => journal,
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

    /// Begins the journal anew from the index. What is damaged goes as what a checkpoint makes needless does.
    fn begin_journal_anew(&self) -> Result<()> {
        self.checkpoint()?;
        let path = self.view.directory().join(JOURNAL_DIRECTORY);
        let identity = self.view.superblock().identity;
        let commits = self.view.index.now().commits()?;
        let examined = journal::examine(&path, identity, commits, |_, _, _| ());
        match examined.flaws.first() {
            None => Ok(()),
            Some(flaw) => Err(crate::StoreError::Corrupt(flaw.told())),
        }
    }
}
