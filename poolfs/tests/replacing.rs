//! Tags that are replaced while their files are read.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Pool, cannot_mount};
use pool_core::image_map::ImageMap;
use pool_tests::wait;

const REPLACEMENTS: u64 = 300;
/// Whole readings of every file that there must have been among them.
const READINGS: usize = 100;

#[test]
fn files_of_a_tag_that_is_replaced_all_the_time_open_and_are_one_version_each() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let images = [1, 2].map(|seed| pool.add_image("i:t", seed, None));
    let _mount = pool.mount();
    let done = AtomicBool::new(false);
    let readings = AtomicUsize::new(0);
    let read = |file: &str| {
        let path = pool.path(&format!("images/i/t/{file}"));
        let bytes = fs::read(&path).map_err(|error| format!("{file}: {error}"))?;
        let whole = match file {
            "image.elf" => images.iter().any(|image| image.elf == bytes),
            "data" => images.iter().any(|image| image.data == bytes),
            "desc" => images
                .iter()
                .any(|image| image.description.to_json() == bytes),
            "map" => ImageMap::from_json(&bytes)
                .is_ok_and(|map| images.iter().any(|i| i.description == map.description)),
            _ => serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(),
        };
        fs::metadata(&path).map_err(|error| format!("{file}: stat: {error}"))?;
        whole.then_some(()).ok_or(format!("{file}: of no version"))
    };
    let read_on = || {
        let mut failures = Vec::new();
        while !done.load(Ordering::Relaxed) {
            for file in ["image.elf", "desc", "data", "map", "manifest.json"] {
                failures.extend(read(file).err());
            }
            readings.fetch_add(1, Ordering::Relaxed);
        }
        failures
    };
    let failures: Vec<String> = thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read_on)).collect();
        let mut seed = 0;
        while seed < REPLACEMENTS || readings.load(Ordering::Relaxed) < READINGS {
            // The old image goes with its only tag.
            pool.add_image("i:t", seed % 2 + 1, None);
            seed += 1;
        }
        done.store(true, Ordering::Relaxed);
        let joined = readers.into_iter().map(|reader| reader.join().unwrap());
        joined.flatten().collect()
    });
    assert!(failures.is_empty(), "{}: {failures:?}", failures.len());
}

#[test]
fn an_opening_gets_what_was_committed_before_it_whatever_the_kernel_remembers() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let _mount = pool.mount();
    let path = pool.path("images/i/t/image.elf");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // So that the kernel has just been told where the name leads. It may lead nowhere.
                    let _ = fs::metadata(&path);
                }
            });
        }
        let replace = |seed: u64| {
            let image = pool.add_image("i:t", seed % 2 + 1, None);
            let read = fs::read(&path).map_err(|error| error.to_string())?;
            if read != image.elf {
                return Err("is what was there before".to_owned());
            }
            if seed.is_multiple_of(10) {
                pool.store().delete_image(&"i:t".parse().unwrap()).unwrap();
                match fs::read(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => return Err(format!("deleted: {:?}", other.map(|read| read.len()))),
                }
            }
            Ok(())
        };
        let failure = (1..=REPLACEMENTS).find_map(|seed| Some((seed, replace(seed).err()?)));
        done.store(true, Ordering::Relaxed);
        assert_eq!(failure, None);
    });
}

#[test]
fn an_open_file_can_be_opened_again_by_its_descriptor_when_its_tag_is_gone() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    let image = pool.add_image("i:t", 1, None);
    let _mount = pool.mount();
    for file in ["image.elf", "map"] {
        let open = File::open(pool.path(&format!("images/i/t/{file}"))).unwrap();
        pool.store().delete_image(&"i:t".parse().unwrap()).unwrap();
        let gone = fs::read(pool.path(&format!("images/i/t/{file}")));
        assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let again = fs::read(format!("/proc/self/fd/{}", open.as_raw_fd())).unwrap();
        assert!(file != "image.elf" || again == image.elf);
        pool.add_image("i:t", 1, None);
    }
}

#[test]
fn an_open_directory_can_be_asked_what_it_is_when_its_tag_is_gone() {
    if cannot_mount() {
        return;
    }
    let pool = Pool::new();
    pool.add_image("i:t", 1, None);
    let _mount = pool.mount();
    let path = pool.path("images/i/t");
    let open = File::open(&path).unwrap();
    let inode = open.metadata().unwrap().ino();
    pool.store().delete_image(&"i:t".parse().unwrap()).unwrap();
    // What the kernel remembers of the name and of the directory lasts as long.
    wait::until("the name is gone", || fs::metadata(&path).is_err());
    let metadata = open.metadata().unwrap();
    assert!(metadata.is_dir() && metadata.ino() == inode);
}
