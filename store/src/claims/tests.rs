use pool_core::address::{GuestAddress, Protection};
use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, Description, FileIdentity, Layout, Range, RangeKind, Source,
};
use pool_core::extent::Slot;
use pool_core::page::WINDOW_SIZE;

use super::*;
use crate::damage::{DamagedSlots, Expected};
use crate::error::StoreError;
use crate::format::Location;
use crate::look::Looked;
use crate::moment::Moment;
use crate::placement::Placement;
use crate::precondition::Precondition;
use crate::testing::{assert_stored, content, open, push};
use crate::upload::{Target, UploadManifest};

/// An upload of library `l@1`, the first of `objects`.
fn upload(store: &Store, objects: &[UploadObject]) -> Upload {
    let target = Target::Library {
        library: "l@1".parse().unwrap(),
        object: objects[0].id,
    };
    begin(store, target, objects)
}

/// An upload of an image of two objects: its file, which is all that it maps, and its data.
fn upload_image(store: &Store, file: &UploadObject, data: &UploadObject) -> Upload {
    let address = GuestAddress(0x40_0000);
    let range = Range {
        address,
        length: file.pages.len() as u64 * PAGE_SIZE,
        protection: Protection::READ_EXECUTE,
        kind: RangeKind::Shared,
        source: Some(Source {
            object: file.id,
            offset: 0,
        }),
        library: None,
    };
    let description = Description {
        format: DESCRIPTION_FORMAT,
        image: FileIdentity {
            digest: file.id,
            length: file.length,
        },
        abi: Abi::Linux,
        layout: Layout::Own,
        load_bias: 0,
        entry: address,
        program_headers: None,
        executable_stack: false,
        slide: None,
        libraries: vec![],
        ranges: vec![range],
    };
    let target = Target::Image {
        image: "i:1".parse().unwrap(),
        description: Box::new(description),
        data: Some(data.id),
    };
    begin(store, target, &[file.clone(), data.clone()])
}

fn begin(store: &Store, target: Target, objects: &[UploadObject]) -> Upload {
    let objects = objects.to_vec();
    store
        .begin_upload(UploadManifest { target, objects })
        .unwrap()
}

fn proven(store: &Store, upload: &Upload) -> HashSet<ObjectId> {
    let proven = look_and_prove(store, &upload.manifest().objects, upload);
    proven.objects.into_keys().collect()
}

/// What is found out before a commit, whatever is missing.
fn look_and_prove(store: &Store, objects: &[UploadObject], upload: &Upload) -> Proven {
    let given = Given::Sent(upload);
    let (look, _) = store.look_up(objects, given, None).unwrap();
    store.proven(objects, given, look).unwrap()
}

/// Stores a library in one go.
fn put(store: &Store, name: &str, bytes: &[u8]) {
    push(store, name, bytes).unwrap();
}

fn send(upload: &Upload, bytes: &[u8]) {
    for page in bytes.chunks(PAGE_SIZE as usize) {
        upload.add_page(PageId::of(page), page).unwrap();
    }
}

#[test]
fn an_object_is_proven_by_every_list_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (a, b) = (content(1, 3), content(2, 3));
    let good = UploadObject::of(&a, Placement::Sparse);
    let windows = Placement::Windows { phase: 0 };
    let other = UploadObject::of(&b, windows);
    let both = upload_image(&store, &good, &other);
    send(&both, &a);
    send(&both, &b[..2 * PAGE_SIZE as usize]);
    assert_eq!(proven(&store, &both), [good.id].into());
    send(&both, &b);
    assert_eq!(proven(&store, &both), [good.id, other.id].into());

    // Another list of the same object is another claim, and would be placed first.
    let lie = UploadObject {
        placement: windows,
        pages: other.pages.clone(),
        ..good.clone()
    };
    let twice = upload(&store, &[good.clone(), lie]);
    send(&twice, &a);
    assert!(proven(&store, &twice).is_empty());
    send(&twice, &b);
    // Nor are places of pages of one list taken for those of the other.
    put(&store, "other@1", &b);
    assert_eq!(store.missing_pages(&twice).unwrap(), []);
    let refused = store.commit(&twice);
    assert!(
        matches!(refused, Err(StoreError::ObjectMismatch { .. })),
        "{refused:?}"
    );
    assert_eq!(store.damaged_slots(), 0);
    store.commit(&both).unwrap();
    assert!(proven(&store, &both).is_empty());
}

#[test]
fn where_pages_were_is_known_until_somebody_may_move_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (known, new) = (content(1, 3), content(2, 2));
    put(&store, "known@1", &known);
    let object = UploadObject::of(&[&known[..], &new].concat(), Placement::Sparse);
    let both = upload(&store, std::slice::from_ref(&object));
    send(&both, &new);
    let objects = std::slice::from_ref(&object);
    let proven = look_and_prove(&store, objects, &both);
    let looked = |first: usize| {
        let piece = Piece {
            object: object.id,
            first_page: first as u64,
            pages: &object.pages[first..],
        };
        let now = Moment::of(&store, &store.joining());
        proven.looked(&now, &piece)
    };
    let ids: Vec<_> = object.pages[..3].iter().flatten().copied().collect();
    let at = store.whole_pages(&ids).unwrap();
    let found: Vec<_> = at.into_iter().flatten().map(Looked::Found).collect();
    assert_eq!(found.len(), 3);
    let nowhere = [Looked::Nowhere; 2];
    assert_eq!(looked(0), [&found[..], &nowhere].concat());
    assert_eq!(looked(2), [&found[2..], &nowhere].concat());
    // Another one may have stored what was not there.
    put(&store, "other@1", &content(3, 1));
    assert_eq!(looked(0), [&found[..], &[Looked::Not; 2]].concat());
    drop(store.writer());
    assert_eq!(looked(0), [Looked::Not; 5]);

    // While something is on its way nobody knows what is not there.
    let halt = store.groups.hold();
    std::thread::scope(|scope| {
        scope.spawn(|| put(&store, "waits@1", &content(4, 1)));
        while store.groups.sight().is_clear() {
            std::thread::yield_now();
        }
        let proven = look_and_prove(&store, objects, &both);
        let piece = Piece {
            object: object.id,
            first_page: 0,
            pages: &object.pages,
        };
        let now = Moment::of(&store, &store.joining());
        let looked = proven.looked(&now, &piece);
        assert_eq!(looked, [&found[..], &[Looked::Not; 2]].concat());
        drop(halt);
    });
}

#[test]
fn what_was_found_when_an_upload_began_is_not_looked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (known, new) = (content(1, 3), content(2, 2));
    put(&store, "known@1", &known);
    let object = UploadObject::of(&[&known[..], &new].concat(), Placement::Sparse);
    let objects = std::slice::from_ref(&object);
    let both = upload(&store, objects);
    let given = Given::Sent(&both);
    let ids: Vec<_> = object.pages.iter().flatten().copied().collect();
    assert_eq!(store.missing_pages(&both).unwrap(), ids[3..]);
    let found = |look: &Look| {
        let now = Moment::of(&store, &store.joining());
        look.at(&now, 0, 0, 5)
    };
    let first = both.take_look().unwrap();
    let places = found(&first);
    assert!(places[..3].iter().all(|at| matches!(at, Looked::Found(_))));
    assert_eq!(places[3..], [Looked::Nowhere; 2]);

    // Nothing tells that this is wrong but a look at the index.
    let at = |slot| {
        let segment = SegmentId(7);
        let slot = Slot(slot);
        Looked::Found(Location { segment, slot })
    };
    let told = vec![at(1), at(2), Looked::Nowhere, Looked::Nowhere, at(3)];
    let wrong = || first.with_found(vec![told.clone()]);
    let (look, missing) = store.look_up(objects, given, Some(&wrong())).unwrap();
    assert_eq!((found(&look), missing), (told.clone(), ids[2..4].to_vec()));
    both.keep_look(wrong());
    let refused = store.commit(&both);
    assert!(
        matches!(&refused, Err(StoreError::MissingPages(pages)) if *pages == ids[2..4]),
        "{refused:?}"
    );
    // Others may have stored what was nowhere.
    put(&store, "other@1", &content(3, 1));
    let (look, missing) = store.look_up(objects, given, Some(&wrong())).unwrap();
    let expected = [&told[..2], &places[2..4], &told[4..]].concat();
    assert_eq!(missing, ids[3..4]);
    let now = Moment::of(&store, &store.joining());
    assert_eq!(look.at(&now, 0, 0, 5), expected);
    // And what was found may be elsewhere when somebody has had the lock who may move it.
    drop(store.writer());
    let (look, missing) = store.look_up(objects, given, Some(&wrong())).unwrap();
    assert_eq!((found(&look), missing), (places, ids[3..].to_vec()));
    both.keep_look(wrong());
    send(&both, &new);
    let committed = store.commit(&both).unwrap();
    assert_eq!(committed.new_pages.0, 2);
}

#[test]
fn what_was_found_and_is_damaged_by_now_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let known = content(1, 3);
    put(&store, "known@1", &known);
    let object = UploadObject::of(&[&known[..], &content(2, 1)].concat(), Placement::Sparse);
    let objects = std::slice::from_ref(&object);
    let sent = upload(&store, objects);
    let given = Given::Sent(&sent);
    let (look, _) = store.look_up(objects, given, None).unwrap();
    let id = object.pages[1].unwrap();
    let at = store.whole_pages(&[id]).unwrap()[0].unwrap();
    let mut damage = DamagedSlots::default();
    let expected = Expected {
        page: Some(id),
        window: None,
    };
    damage.note(at, expected);
    assert_eq!(store.remember(&damage).unwrap(), 1);
    // Even if it stood.
    let look = Look::since_now(&store, look);
    let (_, missing) = store.look_up(objects, given, Some(&look)).unwrap();
    assert_eq!(missing, [id, object.pages[3].unwrap()]);
}

#[test]
fn what_another_one_has_stored_since_is_not_stored_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 3);
    let object = UploadObject::of(&bytes[..2 * PAGE_SIZE as usize], Placement::Sparse);
    let sent = upload(&store, std::slice::from_ref(&object));
    send(&sent, &bytes[..2 * PAGE_SIZE as usize]);
    let given = Given::Sent(&sent);
    let proven = look_and_prove(&store, std::slice::from_ref(&object), &sent);
    put(&store, "other@1", &bytes);
    let taken = store.take_in(sent.manifest(), given, &proven, &Precondition::default());
    assert_eq!(taken.unwrap().new_pages.0, 0);
}

#[test]
fn pages_are_read_in_whatever_order_they_were_sent() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(5, 9);
    let object = UploadObject::of(&bytes, Placement::Sparse);
    let pages: Vec<_> = bytes
        .chunks(PAGE_SIZE as usize)
        .map(|page| (PageId::of(page), page))
        .collect();
    for order in [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [8, 7, 6, 5, 4, 3, 2, 1, 0],
        [3, 4, 5, 0, 1, 2, 6, 8, 7],
    ] {
        let sent = upload(&store, std::slice::from_ref(&object));
        let (some, others) = order.split_at(4);
        for part in [some, &[3, 3, 0], others] {
            sent.add_pages(part.iter().map(|nth| pages[*nth])).unwrap();
        }
        assert_eq!(proven(&store, &sent), [object.id].into());
        // Each is there once.
        assert_eq!(sent.offsets().len(), 9);
    }
    // What comes before a page that is refused stays, and nothing after it.
    let sent = upload(&store, std::slice::from_ref(&object));
    let wrong = (pages[1].0, pages[2].1);
    let refused = sent.add_pages([pages[0], wrong, pages[3]]);
    assert!(matches!(refused, Err(StoreError::PageMismatch { .. })));
    let foreign = (
        PageId::of(&[7; PAGE_SIZE as usize]),
        &[7; PAGE_SIZE as usize][..],
    );
    let refused = sent.add_pages([pages[1], foreign, pages[4]]);
    assert!(matches!(refused, Err(StoreError::UnexpectedPage(_))));
    let short = (pages[5].0, &pages[5].1[1..]);
    let refused = sent.add_pages([pages[2], short, pages[5]]);
    assert!(matches!(refused, Err(StoreError::PageMismatch { .. })));
    let there: HashSet<_> = sent.offsets().keys().copied().collect();
    assert_eq!(there, [pages[0].0, pages[1].0, pages[2].0].into());
}

#[test]
fn what_is_not_proven_is_checked_when_it_is_placed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (seed, placement) in [(1, Placement::Sparse), (2, Placement::Windows { phase: 0 })] {
        let bytes = content(seed, 40);
        let good = UploadObject::of(&bytes, placement);
        let mut lie = good.clone();
        lie.pages.swap(3, 4);
        let commit = |object: UploadObject| {
            let upload = upload(&store, &[object]);
            send(&upload, &bytes);
            let (nothing, given) = (Proven::default(), Given::Sent(&upload));
            store.take_in(upload.manifest(), given, &nothing, &Precondition::default())
        };
        let refused = commit(lie);
        assert!(
            matches!(refused, Err(StoreError::ObjectMismatch { .. })),
            "{refused:?}"
        );
        commit(good).unwrap();
        store.delete_library(&"l@1".parse().unwrap()).unwrap();
    }
}

#[test]
fn windows_are_written_from_where_their_pages_were_sent() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let windows = Placement::Windows { phase: 0 };
    let whole = |sent: &Upload, nth: usize| {
        let object = &sent.manifest().objects[0];
        let reader = PageReader::new(&store, Given::Sent(sent));
        let part = &reader.parts(object).unwrap()[nth];
        let piece = pieces(object, part).next().unwrap();
        let at_hand = reader.window_at_hand(part, &piece)?;
        Some(at_hand.places().concat())
    };
    let bytes = content(1, 1100);
    let window = |nth: usize| &bytes[nth * WINDOW_SIZE as usize..][..WINDOW_SIZE as usize];
    let sent = upload(&store, &[UploadObject::of(&bytes, windows)]);
    let batches: Vec<_> = bytes.chunks(256 * PAGE_SIZE as usize).collect();
    // As several connections do.
    for nth in [1, 0, 3, 4, 2] {
        let pages = batches[nth].chunks(PAGE_SIZE as usize);
        let pages = pages.map(|page| (PageId::of(page), page));
        sent.add_pages(pages).unwrap();
    }
    for nth in 0..2 {
        assert!(whole(&sent, nth).unwrap() == window(nth), "{nth}");
    }
    // The last one has zeros behind its pages.
    assert!(whole(&sent, 2).is_none());
    store.commit(&sent).unwrap();
    assert_stored(&store, &bytes);
    store.delete_library(&"l@1".parse().unwrap()).unwrap();

    let other = content(2, 512);
    let sent = upload(&store, &[UploadObject::of(&other, windows)]);
    for page in other.chunks(PAGE_SIZE as usize).rev() {
        sent.add_page(PageId::of(page), page).unwrap();
    }
    assert!(whole(&sent, 0).is_none());
    store.commit(&sent).unwrap();
    assert_stored(&store, &other);
}
