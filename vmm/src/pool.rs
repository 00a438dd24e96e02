//! The mounted pool as a VMM sees it: an image's map, and the segments that it points into.
//!
//! Open descriptors are the leases. The map's descriptor keeps the image and all that it refers
//! to from being collected; each segment's descriptor keeps that segment. The kernel closes them
//! when this process dies, so no lease outlives its holder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pool_core::image_map::{ImageMap, ImageMapError};
use pool_core::{ImageRef, ObjectId, PAGE_SIZE, Referent, SegmentId};
use rustix::fs::{AtFlags, StatxFlags};
use thiserror::Error;

/// Largest map that is read: 16 384 ranges and their extents take far less.
const MAX_MAP_BYTES: u64 = 64 << 20;
/// Most maps are shorter, and are read at once.
const USUAL_MAP_BYTES: usize = 16 << 10;

/// Why an image cannot be taken from the pool.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The directory is no mounted pool.
    #[error(
        "{0} is not a mounted pool (it has no `images` directory): mount one with \
         `mount -t fuse.poolfs STORE {0}` or name another with --pool"
    )]
    NotAPool(PathBuf),
    /// The image's name cannot be read as one.
    #[error("{0:?} names no image: give image/NAME:TAG, NAME:TAG or a path under the pool")]
    Name(String),
    /// No such image.
    #[error("no image {name} in the pool: {path} does not exist; `pool ls` lists what there is")]
    NoImage {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file of the pool cannot be opened or read.
    #[error("opening {path}: {error}; is the pool still mounted?")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The map is longer than any image needs.
    #[error("the map {path} has {length} bytes, more than the limit of {MAX_MAP_BYTES}")]
    MapTooLong {
        /// The map.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// The map is wrong.
    #[error("the map {path} cannot be used: {error}; push the image again, or run `pool fsck`")]
    Map {
        /// The map.
        path: PathBuf,
        /// What is wrong with it.
        error: ImageMapError,
    },
    /// A segment ends before the pages that the map places in it.
    #[error(
        "segment {segment} has {length} bytes, but the image needs its bytes up to {needed}: the \
         store is damaged, run `pool fsck`"
    )]
    ShortSegment {
        /// The segment.
        segment: SegmentId,
        /// Its length.
        length: u64,
        /// First byte that is not needed.
        needed: u64,
    },
}

/// An image, leased.
#[derive(Debug)]
pub struct Image {
    /// What people call it, `hello:v1`.
    pub label: String,
    /// What the guest finds in `argv[0]`.
    pub program: String,
    map_file: File,
    pool: PathBuf,
}

impl Image {
    /// Opens the map of `image` (`image/NAME:TAG`, `NAME:TAG`, or a path) in the pool mounted at
    /// `pool`. The image is leased until the value is dropped.
    pub fn open(pool: &Path, image: &str) -> Result<Self, PoolError> {
        let (directory, reference) = locate(pool, image)?;
        let path = directory.join("map");
        let map_file = File::open(&path).map_err(|error| match error.kind() {
            _ if !is_pool(pool) => PoolError::NotAPool(pool.to_owned()),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => PoolError::NoImage {
                name: image.to_owned(),
                path: directory,
            },
            _ => PoolError::Open { path, error },
        })?;
        Ok(Self {
            label: reference.to_string(),
            program: reference.name.to_string(),
            map_file,
            pool: pool.to_owned(),
        })
    }

    /// Where the executable can be read.
    pub fn file(&self) -> PathBuf {
        self.directory().join("image.elf")
    }

    fn directory(&self) -> PathBuf {
        let path = self.label.replace(':', "/");
        self.pool.join("images").join(path)
    }

    /// Reads the map and checks it whole.
    pub fn read_map(&self) -> Result<ImageMap, PoolError> {
        let path = || self.directory().join("map");
        let open_error = |error| PoolError::Open {
            path: path(),
            error,
        };
        let mut json = Vec::with_capacity(USUAL_MAP_BYTES);
        let read = (&self.map_file)
            .take(MAX_MAP_BYTES + 1)
            .read_to_end(&mut json)
            .map_err(open_error)?;
        if read as u64 > MAX_MAP_BYTES {
            return Err(PoolError::MapTooLong {
                path: path(),
                length: read as u64,
            });
        }
        ImageMap::from_json(&json).map_err(|error| PoolError::Map {
            path: path(),
            error,
        })
    }

    /// The bytes of `object`, which `map` places.
    pub fn read_object(&self, map: &ImageMap, object: &ObjectId) -> Result<Vec<u8>, PoolError> {
        let Some(extents) = map.objects.get(object) else {
            return Ok(Vec::new());
        };
        let mut needed = BTreeMap::new();
        for extent in extents.extents() {
            let end: &mut u64 = needed.entry(extent.segment).or_default();
            *end = (*end).max(extent.slot.byte_offset() + u64::from(extent.count) * PAGE_SIZE);
        }
        let segments = self.open_segments(&needed)?;
        let mut bytes = vec![0; extents.page_count().bytes() as usize];
        for extent in extents.extents() {
            let start = (extent.file_page * PAGE_SIZE) as usize;
            let room = &mut bytes[start..][..extent.count as usize * PAGE_SIZE as usize];
            let file = segments.files.get(&extent.segment);
            let read = file.map_or(Err(io::ErrorKind::NotFound.into()), |file| {
                file.read_exact_at(room, extent.slot.byte_offset())
            });
            read.map_err(|error| PoolError::Open {
                path: self.pool.join("segments").join(extent.segment.to_string()),
                error,
            })?;
        }
        bytes.truncate(extents.length as usize);
        Ok(bytes)
    }

    /// Opens every segment of `needed` (segment, first byte past what is used of it) and checks
    /// its length, so that no access to a mapping of it can run past the file's end.
    pub fn open_segments(&self, needed: &BTreeMap<SegmentId, u64>) -> Result<Segments, PoolError> {
        let mut files = BTreeMap::new();
        for (&segment, &needed) in needed {
            let path = self.pool.join("segments").join(segment.to_string());
            let open = || {
                let file = File::open(&path)?;
                let length = length(&file, needed)?;
                Ok((file, length))
            };
            let (file, length) = open().map_err(|error| {
                if is_pool(&self.pool) {
                    let path = path.clone();
                    PoolError::Open { path, error }
                } else {
                    PoolError::NotAPool(self.pool.clone())
                }
            })?;
            if length < needed {
                return Err(PoolError::ShortSegment {
                    segment,
                    length,
                    needed,
                });
            }
            files.insert(segment, file);
        }
        Ok(Segments { files })
    }
}

/// Bytes of a segment. It never gets shorter, so what the kernel remembers is enough if it is `needed`, and
/// poolfs need not be asked.
fn length(file: &File, needed: u64) -> io::Result<u64> {
    let remembered = rustix::fs::statx(
        file,
        "",
        AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
        StatxFlags::SIZE,
    );
    match remembered {
        Ok(found) if found.stx_size >= needed => Ok(found.stx_size),
        _ => Ok(file.metadata()?.len()),
    }
}

/// Asked for only where something is missing: a guest that starts has no time for it.
fn is_pool(pool: &Path) -> bool {
    pool.join("images").is_dir()
}

fn locate(pool: &Path, image: &str) -> Result<(PathBuf, ImageRef), PoolError> {
    let wrong = || PoolError::Name(image.chars().take(200).collect());
    let at = |reference: ImageRef| {
        let directory = pool.join("images");
        let directory = directory.join(reference.name.as_str());
        (directory.join(reference.tag.as_str()), reference)
    };
    // A reference has at most one slash, behind `image`.
    let is_path = image.starts_with(['/', '.']) || image.matches('/').count() > 1;
    if !is_path {
        let reference = match image.parse::<Referent>() {
            Ok(Referent::Image(reference)) => Some(reference),
            _ => image.parse::<ImageRef>().ok(),
        };
        return reference.map(at).ok_or_else(wrong);
    }
    let path = Path::new(image);
    let directory = match path.file_name() {
        Some(name) if path.is_file() || name == "map" => path.parent().ok_or_else(wrong)?,
        _ => path,
    };
    let component = |path: Option<&Path>| {
        let name = path?.file_name()?.to_str()?;
        pool_core::Name::new(name).ok()
    };
    match (component(directory.parent()), component(Some(directory))) {
        (Some(name), Some(tag)) => Ok((directory.to_owned(), ImageRef { name, tag })),
        _ => Err(wrong()),
    }
}

/// The segments of an image, open and long enough.
#[derive(Debug, Default)]
pub struct Segments {
    files: BTreeMap<SegmentId, File>,
}

impl Segments {
    /// The descriptor of `segment`, if the image uses it.
    pub fn get(&self, segment: SegmentId) -> Option<BorrowedFd<'_>> {
        self.files.get(&segment).map(AsFd::as_fd)
    }

    /// The file of `segment`, if the image uses it.
    pub fn file(&self, segment: SegmentId) -> Option<&File> {
        self.files.get(&segment)
    }

    /// How many segments are leased.
    pub fn count(&self) -> usize {
        self.files.len()
    }
}
