//! Taking content in: negotiation, staging, commit.
//!
//! An [`Upload`] announces objects as lists of page digests. Those pages that the pool lacks are
//! sent, each checked against its digest, and kept in memory, or a nameless file, for as long as the upload lives (`staging`).
//! [`Store::commit`] then checks that they make up what they are said to (`claims`), looks all
//! pages up *again*, so that a collection in the meantime costs at most another round, places what is
//! new, names it and makes it durable (`commit`). An upload that is given up leaves nothing.

use std::collections::{HashMap, HashSet};

use pool_core::digest::PageId;

use crate::Store;
use crate::claims::{Given, Proven};
use crate::error::{Result, StoreError};
use crate::look::Look;
use crate::precondition::{Conditional, Precondition};
use crate::staging::Staging;
use crate::upload::{CommitSummary, Content, Target, Upload, UploadManifest};

impl Store {
    /// Begins an upload. Its target may refer to objects that the pool has, which are not announced then; with
    /// others it fails ([`StoreError::UnknownObjects`]).
    pub fn begin_upload(&self, mut manifest: UploadManifest) -> Result<Upload> {
        manifest.validate()?;
        manifest.leave_zeros_out();
        let announced = manifest.objects.iter();
        let lengths: HashMap<_, _> = announced.map(|object| (object.id, object.length)).collect();
        self.check_quotas_of(&manifest.target, |id| lengths.get(&id).copied())?;
        self.check_left_out(&manifest)?;
        let staging = Staging::new(&self.upload_memory, &self.view.backend, &self.promised);
        Ok(Upload::new(manifest, self.epoch()?, staging))
    }

    /// Bytes of memory that pages of uploads under way, and files that come whole, take up.
    pub fn upload_memory(&self) -> u64 {
        self.upload_memory.taken()
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
        let (look, missing) = self.look_again(upload)?;
        upload.keep_look(look);
        Ok(missing)
    }

    /// Looks pages of an upload up that were not, or that may be elsewhere since, and says which are missing.
    fn look_again(&self, upload: &Upload) -> Result<(Look, Vec<PageId>)> {
        let earlier = upload.take_look();
        let objects = &upload.manifest().objects;
        self.look_up(objects, Given::Sent(upload), earlier.as_ref())
    }

    /// Stores and names what the upload announced. When pages are missing nothing has happened:
    /// send them and commit again. When objects that were left out have gone, begin again with them.
    pub fn commit(&self, upload: &Upload) -> Result<CommitSummary> {
        self.when(&Precondition::default()).commit(upload)
    }

    /// Where the pages of an upload are. Refuses one of which anything is missing: first objects, before pages are asked for
    /// that would be sent in vain.
    fn check_complete(&self, upload: &Upload) -> Result<Look> {
        self.check_left_out(upload.manifest())?;
        let (look, missing) = self.look_again(upload)?;
        if missing.is_empty() {
            return Ok(look);
        }
        upload.keep_look(look);
        Err(StoreError::MissingPages(missing))
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
        let manifest = upload.manifest();
        store.check(&manifest.target.name(), self.precondition)?;
        // Before everything is read in vain.
        let look = store.check_complete(upload)?;
        let given = Given::Sent(upload);
        let proven = store.proven(&manifest.objects, given, look)?;
        let taken = store.take_in(manifest, given, &proven, self.precondition);
        if let Err(StoreError::MissingPages(_) | StoreError::UnknownObjects(_)) = &taken {
            // A collection took some. Whoever is to send them is told of all.
            store.check_complete(upload)?;
        }
        taken
    }

    /// [`Store::ingest`], if the precondition holds of the name that the content is to have.
    pub fn ingest(&self, target: Target, contents: &[Content<'_>]) -> Result<CommitSummary> {
        let store = self.store;
        store.check(&target.name(), self.precondition)?;
        let bytes = contents.iter().map(|content| (content.id, content.bytes));
        let bytes: HashMap<_, _> = bytes.collect();
        store.check_quotas_of(&target, |id| Some(bytes.get(&id)?.len() as u64))?;
        let given = Given::AtHand(&bytes);
        let mut manifest = UploadManifest {
            target,
            objects: Vec::new(),
        };
        let (mut announced, mut proven) = (HashSet::new(), Proven::default());
        loop {
            let mut unknown = Vec::new();
            for content in contents {
                if !announced.contains(&content.id) && store.whole_object(content.id)?.is_none() {
                    unknown.push(content);
                }
            }
            if unknown.is_empty() {
                let taken = store.take_in(&manifest, given, &proven, self.precondition);
                let Err(StoreError::UnknownObjects(gone)) = &taken else {
                    return taken;
                };
                // A collection took what was known a moment ago.
                let is_gone = |content: &&Content<'_>| {
                    gone.contains(&content.id) && !announced.contains(&content.id)
                };
                unknown.extend(contents.iter().filter(is_gone));
                if unknown.is_empty() {
                    return taken;
                }
            }
            // What is announced now is not asked about again.
            for content in unknown {
                if announced.insert(content.id) {
                    manifest.objects.push(content.announce());
                }
            }
            let (look, _) = store.look_up(&manifest.objects, given, None)?;
            proven = store.proven(&manifest.objects, given, look)?;
        }
    }
}
