use super::*;
use crate::digest::ObjectId;

fn request(library: &str, shared: u64, private: u64) -> ReservationRequest {
    ReservationRequest::new(
        library.parse().unwrap(),
        ObjectId::of(library.as_bytes()),
        PageCount(shared),
        PageCount(private),
    )
}

#[test]
fn libraries_never_overlap_and_versions_share_a_base() {
    let mut book = AddressBook::default();
    let zlib = book.reserve(&request("zlib@1.3", 25, 1)).unwrap();
    let musl = book.reserve(&request("musl@1.2.3", 150, 3)).unwrap();
    let newer = book.reserve(&request("zlib@1.3.1", 26, 1)).unwrap();
    assert_eq!(zlib.shared.start, SHARED_START);
    assert_eq!(zlib.shared.start.page_in_window(), 0);
    assert_eq!(newer.shared.start, zlib.shared.start);
    assert_eq!(newer.private.start, zlib.private.start);
    assert!(!zlib.slot.shared.overlaps(&musl.slot.shared));
    assert!(!zlib.slot.private.overlaps(&musl.slot.private));
}

#[test]
fn a_version_that_outgrows_its_slot_moves() {
    let mut book = AddressBook::default();
    let old = book.reserve(&request("a@1", 400, 1)).unwrap();
    let new = book.reserve(&request("a@2", 600, 1)).unwrap();
    assert!(!old.slot.shared.overlaps(&new.slot.shared));
}

#[test]
fn answers_repeat_and_contents_cannot_change() {
    let mut book = AddressBook::default();
    let first = book.reserve(&request("a@1", 10, 1)).unwrap();
    assert_eq!(book.reserve(&request("a@1", 10, 1)), Ok(first));
    let mut other = request("a@1", 10, 1);
    other.identity = ObjectId::of(b"other");
    assert!(matches!(
        book.reserve(&other),
        Err(ReserveError::Conflict { .. })
    ));
    assert_eq!(book.reservations().len(), 1);
}

#[test]
fn who_registers_a_version_first_decides_what_it_keeps() {
    let places = |text: &str| Places::new(text.as_bytes().to_vec()).unwrap();
    let with = |version: &str, keeps: Option<&str>, text: &str| ReservationRequest {
        keeps: keeps.map(|keeps| keeps.parse().unwrap()),
        places: Some(places(text)),
        ..request(version, 10, 1)
    };
    let mut book = AddressBook::default();
    let known = |book: &AddressBook, library: &str| {
        let places = |library: &LibraryRef| Ok::<_, ()>(book.places(library).cloned());
        book.known(&library.parse().unwrap(), places).unwrap()
    };
    assert_eq!(known(&book, "a@1"), Known::Nothing);
    let first = book.reserve(&with("a@1", None, "one")).unwrap();
    assert_eq!(first.request.places, None);
    assert_eq!(known(&book, "a@1"), Known::Alone);
    assert_eq!(known(&book, "b@1"), Known::Nothing);
    let (version, one) = ("a@1".parse().unwrap(), places("one"));
    let earlier = Known::Earlier {
        version,
        places: one,
    };
    assert_eq!(known(&book, "a@2"), earlier);
    let second = book.reserve(&with("a@2", Some("a@1"), "two")).unwrap();
    assert_eq!(first.follows, None);
    assert_eq!(second.follows, Some(places("two").digest()));
    let late = with("a@2", None, "other");
    assert_eq!(book.reserve(&late), Ok(second.clone()));
    // One that keeps the same places otherwise learns of it by the digest, whatever sizes it has.
    let mut other = with("a@2", Some("a@1"), "other");
    other.shared_pages = PageCount(11);
    assert_eq!(book.reserve(&other), Ok(second));
    let (version, two) = ("a@1".parse().unwrap(), places("two"));
    let keeping = Known::Keeping {
        version,
        places: two,
    };
    assert_eq!(known(&book, "a@2"), keeping);
    // What is refused with others leaves nothing behind.
    let mut other = with("a@1", None, "other");
    other.identity = ObjectId::of(b"other");
    let three = with("a@3", Some("a@2"), "three");
    assert!(book.reserve_all(&[three.clone(), other]).is_err());
    assert_eq!(book.places(&three.library), None);
    let text = serde_json::to_string(&book).unwrap();
    let again: AddressBook = serde_json::from_str(&text).unwrap();
    assert_eq!(known(&again, "a@2"), keeping);
}

#[test]
fn places_are_kept_of_another_version_that_is_registered_and_with_a_record() {
    let keeping = |keeps: &str, has_record: bool| ReservationRequest {
        keeps: Some(keeps.parse().unwrap()),
        places: has_record.then(|| Places::new(vec![1]).unwrap()),
        ..request("a@2", 10, 1)
    };
    let mut book = AddressBook::default();
    for library in ["a@1", "b@1"] {
        book.reserve(&request(library, 10, 1)).unwrap();
    }
    for (keeps, has_record) in [("a@1", false), ("a@2", true), ("a@3", true), ("b@1", true)] {
        let refused = book.reserve(&keeping(keeps, has_record));
        assert!(
            matches!(refused, Err(ReserveError::Keeps { .. })),
            "{keeps}"
        );
    }
    assert_eq!(book.reservations().len(), 2);
    book.reserve(&keeping("a@1", true)).unwrap();
    // A record is its version's, whoever else has these members.
    let mut same = keeping("a@1", true);
    same.library = "c@1".parse().unwrap();
    (same.keeps, same.places) = (None, Places::new(vec![2]));
    book.reserve(&same).unwrap();
    let places = book.places(&"a@2".parse().unwrap()).unwrap();
    assert_eq!(places.bytes(), [1]);
}

#[test]
fn other_sizes_for_the_same_members_are_told_as_such() {
    let mut book = AddressBook::default();
    book.reserve(&request("a@1", 10, 1)).unwrap();
    let refused = book.reserve(&request("a@1", 11, 1));
    assert!(matches!(refused, Err(ReserveError::Layout { .. })));
}

#[test]
fn what_a_version_outgrows_alone_is_elsewhere() {
    let mut book = AddressBook::default();
    let sized = |library: &str, shared, private, tls_size| ReservationRequest {
        tls_size,
        tls_alignment: 8,
        ..request(library, shared, private)
    };
    let one = book.reserve(&sized("a@1", 100, 4, 8)).unwrap();
    book.reserve(&sized("b@1", 100, 4, 8)).unwrap();
    let two = book.reserve(&sized("a@2", 100, 4, 16)).unwrap();
    assert_eq!(two.shared.start, one.shared.start);
    assert_eq!(two.private.start, one.private.start);
    assert_eq!((one.tls.offset, two.tls.offset), (8, 32));
    let three = book.reserve(&sized("a@3", 600, 4, 16)).unwrap();
    assert_ne!(three.shared.start, one.shared.start);
    assert_eq!(
        (three.private.start, three.tls),
        (one.private.start, two.tls)
    );
    // Where it would fit with several it is with the one whose places it keeps.
    let mut four = sized("a@4", 90, 4, 8);
    four.keeps = Some("a@3".parse().unwrap());
    four.places = Places::new(Vec::new());
    let four = book.reserve(&four).unwrap();
    assert_eq!(four.shared.start, three.shared.start);
    assert_eq!(four.tls.offset, two.tls.offset);
}

#[test]
fn of_several_all_are_reserved_or_none() {
    let mut book = AddressBook::default();
    let known = book.reserve(&request("a@1", 10, 1)).unwrap();
    let mut other = request("a@1", 10, 1);
    other.identity = ObjectId::of(b"other");
    let refused = book.reserve_all(&[request("b@1", 1, 1), other]);
    assert!(matches!(refused, Err(ReserveError::Conflict { .. })));
    assert_eq!(book.reservations(), std::slice::from_ref(&known));
    let all = [request("b@1", 1, 1), request("a@1", 10, 1)];
    let reserved = book.reserve_all(&all).unwrap();
    assert_eq!(reserved[1], known);
    assert_eq!(book.reservations(), [known, reserved[0].clone()]);
}

#[test]
fn dependencies_on_record_decide_nothing() {
    let text = r#"{"reservations":[{"library":"a@1","identity":"IDENTITY","shared_pages":10,"private_pages":1,
        "dependencies":["c@2"],"shared":{"start":"0x10000000","pages":10},"private":{"start":"0x60000000","pages":1},
        "tls":{"offset":0,"size":0},"slot":{"shared":{"start":"0x10000000","pages":512},
        "private":{"start":"0x60000000","pages":3},"tls_offset":0,"tls_size":0}}]}"#;
    let identity = request("a@1", 10, 1).identity.to_string();
    let mut book: AddressBook = serde_json::from_str(&text.replace("IDENTITY", &identity)).unwrap();
    let known = book.reservations()[0].clone();
    assert_eq!(book.reserve(&request("a@1", 10, 1)), Ok(known));
}

#[test]
fn exhaustion_is_an_error() {
    let mut book = AddressBook::default();
    for huge in [u64::MAX, u64::MAX / PAGE_SIZE, 1 << 20] {
        let refused = book.reserve(&request("a@1", huge, 1));
        assert!(matches!(refused, Err(ReserveError::Full { .. })), "{huge}");
        let refused = book.reserve(&request("a@1", 1, huge));
        assert!(matches!(refused, Err(ReserveError::Full { .. })), "{huge}");
    }
    let refused = (0..1000).find_map(|n| book.reserve(&request(&format!("l{n}@1"), 32, 1)).err());
    assert!(matches!(refused, Some(ReserveError::Full { .. })));
    assert_eq!(book.reservations().len(), 640);
}

#[test]
fn small_libraries_share_windows_and_large_ones_do_not() {
    let mut book = AddressBook::default();
    let small: Vec<_> = (0..2000)
        .map(|n| book.reserve(&request(&format!("s{n}@1"), 3, 1)).unwrap())
        .collect();
    assert_eq!(
        small[1].shared.start.0 - small[0].shared.start.0,
        4 * PAGE_SIZE
    );
    let windows = small[1999].slot.shared.end().0 - SHARED_START.0;
    assert_eq!(windows.div_ceil(WINDOW_SIZE), 16);
    let large = book.reserve(&request("large@1", 32, 1)).unwrap();
    assert_eq!(large.shared.start.0, SHARED_START.0 + 16 * WINDOW_SIZE);
    let next = book.reserve(&request("next@1", 20, 1)).unwrap();
    assert_eq!(next.slot.shared.start, small[1999].slot.shared.end());
    assert_eq!(next.slot.shared.pages, PageCount(28));
}

#[test]
fn text_is_as_aligned_as_it_asks_to_be() {
    let mut book = AddressBook::default();
    book.reserve(&request("a@1", 1, 1)).unwrap();
    let aligned = |version: &str, alignment| ReservationRequest {
        shared_alignment: alignment,
        ..request(version, 1, 1)
    };
    let other = book.reserve(&aligned("b@1", 1 << 16)).unwrap();
    assert_eq!(other.shared.start.0, SHARED_START.0 + (1 << 16));
    let moved = book.reserve(&aligned("b@2", 1 << 20)).unwrap();
    assert_eq!(moved.shared.start.0, SHARED_START.0 + (1 << 20));
    for alignment in [0, 1, 2048, 12288, 2 * WINDOW_SIZE, u64::MAX] {
        let refused = book.reserve(&aligned("c@1", alignment));
        assert!(
            matches!(refused, Err(ReserveError::Alignment { .. })),
            "{alignment}"
        );
    }
}

#[test]
fn thread_local_blocks_are_disjoint_and_aligned() {
    let mut book = AddressBook::default();
    let with_tls = |name: &str, size, alignment| ReservationRequest {
        tls_size: size,
        tls_alignment: alignment,
        ..request(name, 1, 1)
    };
    let a = book.reserve(&with_tls("a@1", 20, 8)).unwrap();
    let b = book.reserve(&with_tls("b@1", 100, 64)).unwrap();
    assert_eq!(
        a.tls,
        TlsBlock {
            offset: 24,
            size: 20
        }
    );
    assert_eq!(
        b.tls,
        TlsBlock {
            offset: 128,
            size: 100
        }
    );
    for (size, alignment) in [(TLS_CAPACITY, 1), (u64::MAX, 8), (8, 3), (8, 8192), (8, 0)] {
        let refused = book.reserve(&with_tls("c@1", size, alignment));
        assert!(
            matches!(refused, Err(ReserveError::Tls { .. })),
            "{size} {alignment}"
        );
    }
}
