//! Pushes that leave out what the pool has, while that goes, or is damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pool_api::announce::{Announcement, Part};
use pool_api::client::{ClientError, PushOptions, PushReport};
use pool_core::digest::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_store::placement::Placement;
use serde_json::json;

use super::common::{Service, announcement, content, push_library};
use super::store::{Random, description, image_target};

const PAGE: usize = PAGE_SIZE as usize;

type Libraries<'a> = [(&'a str, &'a [u8])];

/// Pushes an image with these libraries, as `pool push` does; `progress` is told of pages that were sent.
fn push(
    service: &Service,
    image: &str,
    file: &[u8],
    libraries: &Libraries<'_>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<PushReport, ClientError> {
    let part = |bytes, placement, is_library| Part {
        id: ObjectId::of(bytes),
        placement,
        in_memory: is_library,
        is_library,
        bytes: bytes.into(),
    };
    let windows = Placement::Windows { phase: 0 };
    let libraries_parts = libraries
        .iter()
        .map(|(_, bytes)| part(bytes, windows, true));
    let announced = Announcement {
        target: image_target(image, description(file, libraries)),
        parts: libraries_parts
            .chain([part(file, Placement::Sparse, false)])
            .collect(),
        file_bytes: file.len() as u64,
    };
    let client = service.client();
    client.push(&announced, PushOptions::default(), progress)
}

#[track_caller]
fn assert_there(service: &Service, image: &str, file: &[u8]) {
    let path = format!("/v1/images/{}/elf", image.replace(':', "/"));
    assert!(service.get(&path).expect(200).bytes == file, "{image}");
}

fn collect(service: &Service) -> u64 {
    let collected = service.post("/v1/gc", &json!({"grace_seconds": 0}));
    collected.expect(200).json()["pages"].as_u64().unwrap()
}

fn assert_sound(service: &Service) {
    let report = service.post("/v1/fsck", &json!({"content": true})).json();
    assert_eq!(report["findings"], json!([]));
}

/// How many announcements were answered with a status.
fn announcements(service: &Service, status: u16) -> u64 {
    let metrics = String::from_utf8(service.get("/metrics").expect(200).bytes).unwrap();
    let line = format!("route=\"/v1/uploads\",status=\"{status}\"}} ");
    let count = metrics.split_once(&line).map(|(_, rest)| rest);
    count.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap())
}

#[test]
fn libraries_that_go_while_pages_are_sent_are_asked_for_at_once() {
    let service = Service::start(&[]);
    let (z, y, used) = (content(1, 600), content(2, 40), content(3, 50));
    push(
        &service,
        "other:1",
        &content(4, 1),
        &[("x@1", &used)],
        &|_, _| (),
    )
    .unwrap();
    push_library(&service.client(), "z@1", &z);
    push_library(&service.client(), "y@1", &y);
    let before = [201, 409].map(|status| announcements(&service, status));
    let file = [&content(5, 2), &z[..], &y, &used].concat();
    let libraries: &Libraries<'_> = &[("z@1", &z), ("y@1", &y), ("x@1", &used)];
    let is_gone = AtomicBool::new(false);
    let report = push(&service, "image:1", &file, libraries, &|_, _| {
        if !is_gone.swap(true, Ordering::Relaxed) {
            service.delete("/v1/libs/z/1").expect(204);
            service.delete("/v1/libs/y/1").expect(204);
            assert_eq!(collect(&service), 640);
        }
    });
    let report = report.unwrap();
    assert_there(&service, "image:1", &file);
    assert_sound(&service);
    // It began twice, and was not told of one library after the other, nor of pages to send in vain.
    let after = [201, 409].map(|status| announcements(&service, status));
    assert_eq!(after, [before[0] + 2, before[1]]);
    assert_eq!((report.sent_pages, report.unsent_pages), (2 + 642, 50));
    assert_eq!(
        (report.summary.pages, report.summary.known_pages),
        (2 * 690 + 2, 50)
    );
}

/// Where in the segments a sequence of bytes is.
fn places(service: &Service, bytes: &[u8]) -> Vec<(PathBuf, u64)> {
    let segments = fs::read_dir(service.store.join("segments")).unwrap();
    let mut places = Vec::new();
    for segment in segments {
        let path = segment.unwrap().path();
        let content = fs::read(&path).unwrap();
        let pages = (0..content.len()).step_by(PAGE);
        let found = pages.filter(|at| content[*at..].starts_with(bytes));
        places.extend(found.map(|at| (path.clone(), at as u64)));
    }
    places
}

fn write(place: &(PathBuf, u64), bytes: &[u8]) {
    let segment = File::options().write(true).open(&place.0).unwrap();
    segment.write_all_at(bytes, place.1).unwrap();
}

#[test]
fn a_damaged_library_keeps_no_image_out_and_is_mended_by_what_is_pushed() {
    let service = Service::start(&[]);
    let z = content(1, 600);
    // The first pages by themselves, and again in the library's window.
    push_library(&service.client(), "y@1", &z[..20 * PAGE]);
    push_library(&service.client(), "z@1", &z);
    let page = &z[5 * PAGE..6 * PAGE];
    let window = places(&service, &z[5 * PAGE..21 * PAGE]).remove(0);
    assert_eq!(places(&service, page).len(), 2);

    let mut flipped = page.to_vec();
    flipped[7] ^= 1;
    let spoilt: [&[u8]; 3] = [&flipped, &[0; PAGE], &z[..PAGE]];
    for (nth, bytes) in spoilt.into_iter().enumerate() {
        let file = [&content(10 + nth as u64, 1), &z[..]].concat();
        let image = format!("image:{nth}");
        write(&window, bytes);
        push(&service, &image, &file, &[("z@1", &z)], &|_, _| ()).unwrap();
        assert_there(&service, &image, &file);

        // Every copy of the page: it is asked for.
        for place in &places(&service, page) {
            write(place, bytes);
        }
        let file = [&content(20 + nth as u64, 1), &z[..]].concat();
        let mended = format!("mended:{nth}");
        let report = push(&service, &mended, &file, &[("z@1", &z)], &|_, _| ()).unwrap();
        // Where the service takes its copy for other known pages, it finds out when it has the rest.
        assert_eq!(report.sent_pages, if nth == 0 { 2 } else { 3 });
        assert_there(&service, &mended, &file);
        assert_eq!(service.get("/v1/stats").json()["uploads"], 0);
        // What is sent whole brings it with it.
        for place in &places(&service, page) {
            write(place, bytes);
        }
        let few = [page, &content(40 + nth as u64, 1)].concat();
        let few_path = format!("/v1/libs/few/{nth}");
        service.put(&few_path, &few).expect(201);
        assert_eq!(
            service
                .get(&format!("{few_path}/content"))
                .expect(200)
                .bytes,
            few
        );
        let old = service.get("/v1/libs/y/1/content").expect(200).bytes;
        assert!(old == z[..20 * PAGE]);
        write(&window, page);
    }

    let segment = File::options().write(true).open(&window.0).unwrap();
    segment.set_len(window.1).unwrap();
    let file = [&content(30, 1), &z[..20 * PAGE]].concat();
    push(&service, "image:cut", &file, &[("z@1", &z)], &|_, _| ()).unwrap();
    assert_there(&service, "image:cut", &file);
}

#[test]
fn a_name_is_looked_at_before_what_is_announced_for_it() {
    let service = Service::start(&[]);
    push_library(&service.client(), "y@1", &content(1, 1));
    let mut announced = announcement("y", &content(2, 1));
    announced["target"]["object"] = json!(ObjectId::of(b"unknown"));
    let announced = announced.to_string();
    let headers = [("content-type", "application/json"), ("if-none-match", "*")];
    let begin = |headers: &[(&str, &str)]| {
        service.ask("POST", "/v1/uploads", headers, announced.as_bytes())
    };
    begin(&headers).expect(412);
    begin(&headers[..1]).expect(409);
}

/// Library number `nth`: neighbours share most pages.
fn library(nth: u64) -> Vec<u8> {
    let own = content(100 + nth, 5);
    [own, content(1, 60), content(200 + nth / 2, 40)].concat()
}

/// Pushes and deletes images of several libraries; answers with those that are left and their files, and how many pages
/// were not sent.
fn push_and_delete(service: &Service, thread: u64, seed: u64) -> (Vec<(String, Vec<u8>)>, u64) {
    let mut random = Random(seed);
    let mut mine: Vec<(String, Vec<u8>)> = Vec::new();
    let mut unsent = 0;
    for step in 0..25 {
        if mine.len() > 2 || (!mine.is_empty() && random.below(3) == 0) {
            let (image, _) = mine.swap_remove(random.below(mine.len() as u64) as usize);
            let path = format!("/v1/images/{}", image.replace(':', "/"));
            service.delete(&path).expect(204);
            continue;
        }
        // Some are pushed by two at the same time.
        let own = random.below(6);
        let numbers: Vec<_> = (0..5).filter(|_| random.below(2) == 0).collect();
        let libraries: Vec<_> = numbers
            .iter()
            .map(|nth| (format!("l{nth}@1"), library(*nth)))
            .collect();
        let libraries: Vec<(&str, &[u8])> = libraries
            .iter()
            .map(|(name, bytes)| (&name[..], &bytes[..]))
            .collect();
        let mut file = content(1000 + own, 2);
        for (_, bytes) in &libraries {
            // Headers and the like lie between.
            file.extend(&bytes[..90 * PAGE]);
            file.extend(content(2000 + own, 1));
        }
        let image = format!("t{thread}:{step}");
        let report = push(service, &image, &file, &libraries, &|_, _| ()).unwrap();
        unsent += report.unsent_pages;
        if random.below(3) == 0 {
            assert_there(service, &image, &file);
        }
        mine.push((image, file));
    }
    (mine, unsent)
}

#[test]
fn pushes_beside_collections_lose_nothing() {
    let rounds: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(2, |text| text.parse().unwrap());
    for round in 0..rounds {
        let service = Service::start(&[]);
        let stop = AtomicBool::new(false);
        let (left, collected) = std::thread::scope(|scope| {
            let (service, stop) = (&service, &stop);
            let pushers: Vec<_> = (0..3)
                .map(|thread| {
                    let seed = round * 1000 + thread + 1;
                    scope.spawn(move || push_and_delete(service, thread, seed))
                })
                .collect();
            let collector = scope.spawn(move || {
                let mut pages = 0;
                while !stop.load(Ordering::Relaxed) {
                    pages += collect(service);
                }
                pages
            });
            let ended = pushers.into_iter().map(std::thread::ScopedJoinHandle::join);
            let left: Vec<_> = ended.collect();
            stop.store(true, Ordering::Relaxed);
            (left, collector.join().unwrap())
        });
        let mut unsent = 0;
        for pushed in left {
            let (images, pages) = pushed.unwrap();
            unsent += pages;
            for (image, file) in images {
                assert_there(&service, &image, &file);
            }
        }
        assert_sound(&service);
        assert!(
            collected > 0 && unsent > 0,
            "round {round}: {collected} pages collected, {unsent} not sent"
        );
    }
}
