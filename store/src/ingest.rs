//! Taking content in: negotiation, staging, commit.
//!
//! An [`Upload`] announces objects as lists of page digests. Those pages that the pool lacks are
//! sent, each checked against its digest, and kept in a nameless file that ends with the upload.
//! [`Store::commit`] then checks that they make up what they are said to (`claims`), looks all
//! pages up *again*, so that a collection in the meantime costs at most another round, places what is
//! new, makes it durable and names it, in that order. An upload that is given up leaves nothing.

use std::collections::{HashMap, HashSet};
use std::sync::MutexGuard;

use pool_core::digest::{ObjectId, PageId};

use crate::claims::{Given, PageReader};
use crate::error::{Result, StoreError};
use crate::intake::Intake;
use crate::placement::Placement;
use crate::precondition::{Conditional, Precondition};
use crate::upload::{CommitSummary, Content, Target, Upload, UploadManifest};
use crate::{Store, Writer, references};

impl Store {
    /// Begins an upload. Its target may refer to objects that the pool has, which are not announced then; with
    /// others it fails ([`StoreError::UnknownObjects`]).
    pub fn begin_upload(&self, mut manifest: UploadManifest) -> Result<Upload> {
        manifest.validate()?;
        manifest.leave_zeros_out();
        self.check_left_out(&manifest)?;
        let file = self.backend.temporary()?;
        Ok(Upload::new(manifest, self.epoch()?, file))
    }

    /// Refuses a target that refers to objects that are neither announced nor stored; says which, all of them.
    fn check_left_out(&self, manifest: &UploadManifest) -> Result<()> {
        let announced: HashSet<_> = manifest.objects.iter().map(|object| object.id).collect();
        let required = manifest.target.required_objects().into_keys();
        let unknown = self.unknown_objects(required.filter(|id| !announced.contains(id)))?;
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(StoreError::UnknownObjects(unknown))
        }
    }

    /// Pages of the upload that are neither stored nor sent, each once, in the order announced. What the store is known
    /// to have damaged is not stored.
    pub fn missing_pages(&self, upload: &Upload) -> Result<Vec<PageId>> {
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for object in &upload.manifest().objects {
            if self.whole_object(object.id)?.is_some() {
                continue;
            }
            unknown.extend(object.pages.iter().flatten().filter(|id| seen.insert(**id)));
        }
        let offsets = upload.offsets();
        unknown.retain(|id| !offsets.contains_key(id));
        drop(offsets);
        let mut missing = Vec::new();
        for chunk in unknown.chunks(4096) {
            let found = self.whole_pages(chunk)?;
            missing.extend(
                chunk
                    .iter()
                    .zip(found)
                    .filter(|(_, at)| at.is_none())
                    .map(|(id, _)| *id),
            );
        }
        Ok(missing)
    }

    /// Stores and names what the upload announced. When pages are missing nothing has happened:
    /// send them and commit again. When objects that were left out have gone, begin again with them.
    pub fn commit(&self, upload: &Upload) -> Result<CommitSummary> {
        self.when(&Precondition::default()).commit(upload)
    }

    pub(crate) fn commit_locked(
        &self,
        writer: &mut Writer,
        upload: &Upload,
        proven: &HashSet<ObjectId>,
        precondition: &Precondition,
    ) -> Result<CommitSummary> {
        let manifest = upload.manifest();
        self.check(&manifest.target.name(), precondition)?;
        self.check_complete(upload)?;
        self.take_in(writer, manifest, Given::Sent(upload), proven)
    }

    /// Refuses an upload of which anything is missing: first objects, before pages are asked for that would be sent in
    /// vain.
    fn check_complete(&self, upload: &Upload) -> Result<()> {
        self.check_left_out(upload.manifest())?;
        let missing = self.missing_pages(upload)?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(StoreError::MissingPages(missing))
        }
    }

    /// Places, syncs and names everything in one batch. The caller commits or rolls back the
    /// appender.
    fn take_in(
        &self,
        writer: &mut Writer,
        manifest: &UploadManifest,
        given: Given<'_>,
        proven: &HashSet<ObjectId>,
    ) -> Result<CommitSummary> {
        writer.appender.begin()?;
        self.view.index.reserve()?;
        let reader = PageReader::new(self, given);
        let mut intake = Intake::new(self, &mut writer.appender, reader, proven);
        intake.summary.created = match &manifest.target {
            Target::Image { image, .. } => self.view.index.now().tag(image)?.is_none(),
            Target::Library { library, .. } => self.library(library)?.is_none(),
        };
        // Dense windows first: pages that they hold need no place of their own.
        let mut objects: Vec<_> = manifest.objects.iter().collect();
        objects.sort_by_key(|object| object.placement == Placement::Sparse);
        for object in objects {
            intake.take(object)?;
        }
        intake.check_required(manifest)?;
        let can_mend = intake.can_mend();
        let (mut batch, objects, summary) = intake.finish();
        references::name_target(self, &mut batch, &manifest.target)?;
        writer.appender.sync()?;
        writer.appender.record(&mut batch);
        batch.commit()?;
        writer.can_mend |= can_mend;
        if let Some(barrier) = &mut writer.barrier {
            for (id, record) in &objects {
                barrier.protect(*id, record.map.extents());
            }
        }
        Ok(summary)
    }

    /// Keeps or forgets what a commit appended, and answers for it once it is acknowledged.
    pub(crate) fn answer<T>(&self, writer: &mut Writer, result: Result<T>) -> Result<T> {
        writer.settle(result.is_ok());
        let done = result?;
        self.view.index.acknowledge()?;
        Ok(done)
    }

    /// [Answers](Self::answer), and has others follow to what was damaged and is here anew. That is not the author's
    /// business: should it fail, it is done another time.
    fn answer_and_mend<T>(
        &self,
        mut writer: MutexGuard<'_, Writer>,
        result: Result<T>,
    ) -> Result<T> {
        let answer = self.answer(&mut writer, result);
        let can_mend = std::mem::take(&mut writer.can_mend);
        drop(writer);
        if can_mend && let Err(error) = self.mend() {
            tracing::warn!(%error, "mending what was damaged");
        }
        answer
    }

    /// Stores content that is at hand, all in one. The digests in `contents` were computed here, so pages that the
    /// pool has are compared with it, and content that the pool has whole is not even cut into pages.
    pub fn ingest(&self, target: Target, contents: &[Content<'_>]) -> Result<CommitSummary> {
        self.when(&Precondition::default()).ingest(target, contents)
    }
}

impl Conditional<'_> {
    /// [`Store::commit`], if the precondition holds of the name that the upload is to have.
    pub fn commit(&self, upload: &Upload) -> Result<CommitSummary> {
        let store = self.store;
        store.check(&upload.manifest().target.name(), self.precondition)?;
        // Before everything is read in vain.
        store.check_complete(upload)?;
        let proven = store.proven(&upload.manifest().objects, Given::Sent(upload))?;
        let mut writer = store.writer();
        let result = store.commit_locked(&mut writer, upload, &proven, self.precondition);
        store.answer_and_mend(writer, result)
    }

    /// [`Store::ingest`], if the precondition holds of the name that the content is to have.
    pub fn ingest(&self, target: Target, contents: &[Content<'_>]) -> Result<CommitSummary> {
        let store = self.store;
        let name = target.name();
        let bytes = contents.iter().map(|content| (content.id, content.bytes));
        let bytes: HashMap<_, _> = bytes.collect();
        let given = Given::AtHand(&bytes);
        let mut manifest = UploadManifest {
            target,
            objects: Vec::new(),
        };
        let (mut announced, mut proven) = (HashSet::new(), HashSet::new());
        loop {
            let mut unknown = Vec::new();
            {
                let mut writer = store.writer();
                store.check(&name, self.precondition)?;
                for content in contents {
                    if announced.contains(&content.id) {
                        continue;
                    }
                    if store.whole_object(content.id)?.is_none() {
                        unknown.push(content);
                    }
                }
                if unknown.is_empty() {
                    manifest.validate()?;
                    let result = store.take_in(&mut writer, &manifest, given, &proven);
                    return store.answer_and_mend(writer, result);
                }
            }
            // Hashing and reading pages needs no lock, and what is announced now is not asked about again.
            for content in unknown {
                if announced.insert(content.id) {
                    manifest.objects.push(content.announce());
                }
            }
            proven = store.proven(&manifest.objects, given)?;
        }
    }
}
