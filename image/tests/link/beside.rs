//! Images beside each other: what they share, and what keeps them from sharing more.

use crate::support::{Compiler, Workshop};
use pool_core::registry::AddressBook;
use pool_image::describe::describe;
use pool_image::inspect::{against, inspect, picture};
use pool_image::link::link;

/// A library of several pages. Its `get` refers to `value` by an instruction that nothing can go between.
const LIBRARY: &str = "__asm__(\".text\\n.globl get\\n.type get, @function\\n\
                       get: pushq value(%rip)\\npop %rax\\nret\\n.skip 20000, 0x90\\n\");\n\
                       const char unused[9000] = {1};";
const MAIN: &str = "#include <stdio.h>\nlong get(void);\n\
                    int main(void) { printf(\"%ld\\n\", get()); return 0; }\n";

#[test]
fn what_images_share_is_counted_and_what_breaks_it_is_told() {
    let workshop = Workshop::new();
    let mut book = AddressBook::default();
    let build = |name: &str, library: &str, main: &str, book: &mut AddressBook| {
        let get = workshop.compile(Compiler::Musl, "get", library);
        let get = workshop.archive("libget.a", &[&get]);
        let other = workshop.compile(Compiler::Musl, "other", "long value = 5;");
        let other = workshop.archive("libother.a", &[&other]);
        let main = workshop.compile(Compiler::Musl, name, main);
        let arguments = ["-static", &main, &get, &other];
        link(&workshop.request(Compiler::Musl, &arguments), book)
            .unwrap()
            .elf
    };
    let plain = build("plain", LIBRARY, MAIN, &mut book);
    let same = build("same", LIBRARY, &MAIN.replace("%ld", "<%ld>"), &mut book);
    let own = build("own", LIBRARY, &format!("{MAIN}long value = 6;"), &mut book);
    let changed = LIBRARY.replace("20000", "24000");
    let changed = build("changed", &changed, MAIN, &mut book);
    let beside = |images: &[(&str, &[u8])]| {
        let described = images
            .iter()
            .map(|(name, elf)| ((*name).to_owned(), describe(elf).unwrap()));
        against::compare(&described.collect::<Vec<_>>())
    };

    // The application's own pages are all that two programs of the same libraries do not share.
    let found = beside(&[("plain", &plain), ("same", &same)]);
    for image in &found.images {
        assert_eq!(image.in_some.0, 0);
        assert_eq!(image.pages.0, image.in_all.0 + image.alone.0);
        assert!(image.alone.0 < 10 && image.in_all.0 > 10, "{image:?}");
        let library = image.parts.iter().find(|part| {
            let library = part.library.as_ref();
            !part.is_data && library.is_some_and(|library| library.name.as_str() == "get")
        });
        let cells = &library.unwrap().cells;
        assert!(
            cells.len() > 4 && cells.iter().all(|holders| matches!(holders, 0 | 2)),
            "{cells:?}"
        );
    }
    let pages: u64 = found.images.iter().map(|image| image.pages.0).sum();
    assert!(found.distinct.0 < pages);

    // A page that refers to what one program replaces is that program's.
    let found = beside(&[("plain", &plain), ("own", &own)]);
    let mut told = found.breaks.iter();
    let told = told.find(|found| found.why.contains("differ in own"));
    let told = told.unwrap();
    assert_eq!(told.pages.0, 1);
    assert!(told.why.starts_with("get@"), "{told:?}");
    let why = "differ in own, because what they refer to is its own: value (1)";
    assert!(told.why.ends_with(why), "{told:?}");
    let report = inspect(&describe(&own).unwrap());
    assert_eq!(report.own.len(), 1);
    assert_eq!(report.own[0].because[0].symbol, "value");
    assert!(report.to_string().contains("1 pages of get@"), "{report}");

    // Another content is another version.
    let found = beside(&[("plain", &plain), ("changed", &changed), ("same", &same)]);
    let told = found.breaks.iter().map(|found| found.why.as_str());
    let versions: Vec<&str> = told.filter(|why| why.contains("; get@")).collect();
    assert_eq!(versions.len(), 1, "{:?}", found.breaks);
    for words in ["in plain, same", "in changed", "one archive"] {
        assert!(versions[0].contains(words), "{versions:?}");
    }
    assert!(
        found
            .images
            .iter()
            .all(|image| image.in_some.0 > 0 || image.name == "changed")
    );

    let svg = picture::draw(&found);
    for words in [
        "<svg ",
        ">plain<",
        ">changed<",
        ">same<",
        ">in all 3<",
        "</svg>\n",
    ] {
        assert!(svg.contains(words), "{words}");
    }
    let odd = picture::draw(&beside(&[("a<b>&\"c\"\u{1b}", &plain), ("same", &same)]));
    assert!(odd.contains("a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}"));
}
