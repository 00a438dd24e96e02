use pool_core::ObjectId;
use pool_core::image_map::ImageMap;

use super::*;
use crate::plan::Plan;
use crate::pool::Segments;

/// Free in the image below.
const PAGE: u64 = 0x1000_0000;

/// The memory of a guest whose image is one page of zeros.
fn memory() -> GuestMemory {
    let object = ObjectId::of(b"text");
    let json = format!(
        r#"{{"format": 2, "description": {{"format": 1,
            "image": {{"digest": "{object}", "length": 1}}, "abi": "linux", "layout": "own",
            "load_bias": 0, "entry": "0x400000", "program_headers": null, "libraries": [],
            "ranges": [{{"address": "0x400000", "length": 4096, "protection": "r-x",
                "kind": "shared", "source": {{"object": "{object}", "offset": 0}},
                "library": null}}]}},
            "objects": {{"{object}": {{"length": 4096, "extents": []}}}}}}"#
    );
    let map = ImageMap::from_json(json.as_bytes()).unwrap();
    let plan = Plan::new(&map, 16 << 20).unwrap();
    GuestMemory::build(&plan, &Segments::default(), Backing::Pool, [&[]; 3]).unwrap()
}

/// A processor that remembers a page as read-only faults once on it after it has become writable.
#[test]
fn a_page_may_fault_once_after_each_change() {
    let mut memory = memory();
    memory
        .map_zero(PAGE, PAGE_SIZE, Protection::READ_WRITE)
        .unwrap();
    for _ in 0..3 {
        for protection in [Protection::READ, Protection::READ_WRITE] {
            let end = PAGE + PAGE_SIZE;
            memory.protect(PAGE, end, protection).unwrap().unwrap();
        }
        assert!(memory.resolve_fault(PAGE, Access::Write).unwrap());
    }
    let again = memory.resolve_fault(PAGE, Access::Write).unwrap();
    assert!(!again, "it would fault for ever");
}
