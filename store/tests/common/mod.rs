//! What the tests of the store share: content from seeds, images, and reading back.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

use std::path::Path;

use pool_core::address::{GuestAddress, Protection};
use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, Description, FileIdentity, Layout, LibraryUse, Range, RangeKind,
    Source,
};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};
use pool_core::registry::ReservationRequest;
use pool_core::{ObjectId, PageCount};
use pool_store::placement::Placement;
use pool_store::upload::{CommitSummary, Content, Target, UploadManifest, UploadObject, padded};
use pool_store::{Result, Store, StoreError, StoreOptions, StoreView, Totals};
pub use pool_tests::content::content;
use pool_tests::wait;

/// Options of a store of small segments, which is made if it is not there.
pub fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        segment_bytes: 2 * WINDOW_SIZE,
        ..StoreOptions::default()
    }
}

/// A store of small segments in `directory`.
pub fn open(directory: &Path) -> Store {
    open_with(directory, options()).unwrap()
}

/// Opens a store that nobody has, or that this test has closed. A child that another test of this process starts has its
/// lock, too, until it has become the program that it is to run.
pub fn open_with(directory: &Path, options: StoreOptions) -> Result<Store> {
    wait::until_some("the store's lock", || {
        match Store::open(directory, options) {
            Err(StoreError::Locked { .. }) => None,
            other => Some(other),
        }
    })
}

/// A small generator, so that a failing round can be run again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        // xorshift64*, Vigna 2014.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

pub fn library_ref(text: &str) -> LibraryRef {
    text.parse().unwrap()
}

pub fn image_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// Pushes a library version with this content.
pub fn push_library(
    store: &Store,
    name: &str,
    bytes: &[u8],
    placement: Placement,
) -> Result<CommitSummary> {
    let content = Content::of(bytes, placement);
    let target = Target::Library {
        library: library_ref(name),
        object: content.id(),
    };
    store.ingest(target, &[content])
}

/// An image whose file is `file`, which maps it and each of `libraries` in a window of its own.
pub fn description(file: &[u8], libraries: &[(&str, &[u8])]) -> Description {
    let range = |address, bytes: &[u8], library: Option<&str>| Range {
        address: GuestAddress(address),
        length: PageCount::covering(bytes.len() as u64).bytes(),
        protection: Protection {
            read: true,
            write: false,
            execute: true,
        },
        kind: RangeKind::Shared,
        source: Some(Source {
            object: ObjectId::of(bytes),
            offset: 0,
        }),
        library: library.map(library_ref),
    };
    let mut ranges = vec![range(0x40_0000, file, None)];
    let mut used = Vec::new();
    for (nth, (name, bytes)) in libraries.iter().enumerate() {
        let address = 0x1000_0000 + nth as u64 * 16 * WINDOW_SIZE;
        ranges.push(range(address, bytes, Some(name)));
        used.push(LibraryUse {
            library: library_ref(name),
            object: ObjectId::of(bytes),
            address: GuestAddress(address),
        });
    }
    Description {
        format: DESCRIPTION_FORMAT,
        image: FileIdentity {
            digest: ObjectId::of(file),
            length: file.len() as u64,
        },
        abi: Abi::Linux,
        layout: Layout::Registered,
        load_bias: 0,
        entry: GuestAddress(0x40_0000),
        program_headers: None,
        executable_stack: false,
        slide: None,
        libraries: used,
        ranges,
    }
}

pub fn image_target(image: &str, description: Description) -> Target {
    Target::Image {
        image: image_ref(image),
        description: Box::new(description),
        data: None,
    }
}

/// Pushes an image and the libraries that it uses, all of them densely placed where possible.
pub fn push_image(
    store: &Store,
    image: &str,
    file: &[u8],
    libraries: &[(&str, &[u8])],
) -> Result<CommitSummary> {
    let target = image_target(image, description(file, libraries));
    let mut contents = vec![Content::of(file, Placement::Windows { phase: 0 })];
    for (_, bytes) in libraries {
        contents.push(Content::of(bytes, Placement::Windows { phase: 0 }));
    }
    store.ingest(target, &contents)
}

/// An upload of one library version, as a client announces it.
pub fn announcement(name: &str, bytes: &[u8], placement: Placement) -> UploadManifest {
    let object = UploadObject::of(bytes, placement);
    UploadManifest {
        target: Target::Library {
            library: library_ref(name),
            object: object.id,
        },
        objects: vec![object],
    }
}

/// A request for addresses for a library version whose members are `identity`.
pub fn reservation(library: &str, identity: &[u8]) -> ReservationRequest {
    ReservationRequest::new(
        library_ref(library),
        ObjectId::of(identity),
        PageCount(10),
        PageCount(1),
    )
}

/// Sends what is missing of `bytes` and commits, as a client does, until nothing is missing.
pub fn negotiate(store: &Store, manifest: UploadManifest, bytes: &[u8]) -> Result<CommitSummary> {
    let upload = store.begin_upload(manifest)?;
    loop {
        for id in store.missing_pages(&upload)? {
            let pages = bytes.chunks(PAGE_SIZE as usize).map(padded);
            let page = pages
                .into_iter()
                .find(|page| pool_core::PageId::of(page) == id)
                .expect("only announced pages are asked for");
            upload.add_page(id, &page)?;
        }
        match store.commit(&upload) {
            Err(StoreError::MissingPages(_)) => {}
            other => return other,
        }
    }
}

/// An object's bytes, read back.
pub fn read_object(view: &StoreView, id: ObjectId) -> Vec<u8> {
    let record = view.object(id).unwrap().expect("the object is stored");
    view.read(&record.map, 0, record.map.length as usize)
        .unwrap()
}

/// What commits have said of the number of pages is so, if it is known.
pub fn assert_totals(store: &Store) {
    let shown = store.snapshot();
    let mut counted = Totals::default();
    let scanned = shown.for_each_page(|_, _| {
        counted.pages += 1;
        Ok(())
    });
    scanned.unwrap();
    let scanned = shown.for_each_window(|_, _| {
        counted.windows += 1;
        Ok(())
    });
    scanned.unwrap();
    if let Some(told) = shown.totals().unwrap() {
        assert_eq!(told, counted);
    }
}

pub fn assert_stored(view: &StoreView, bytes: &[u8]) {
    assert!(read_object(view, ObjectId::of(bytes)) == bytes, "content");
}
