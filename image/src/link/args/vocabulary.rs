//! Options that are ld's and say nothing to a link at registered addresses, those that ask for
//! something else than a static executable, and those that cannot be followed.

use crate::link::properties::{FEATURES, LEVEL_NEEDED};

/// Long options that take a value which makes no difference here.
pub(super) const IGNORED_WITH_VALUE: &[&str] = &[
    "dynamic-linker",
    "rpath",
    "rpath-link",
    "soname",
    "h",
    "hash-style",
    "version-script",
    "dynamic-list",
    "sort-section",
    "max-page-size",
    "fini",
    "init",
    "A",
    "architecture",
    "assert",
    "a",
    "G",
    "threads",
    "thread-count",
    "y",
    "trace-symbol",
    "exclude-libs",
    "audit",
    "depaudit",
    "filter",
    "auxiliary",
    "Y",
    "color-diagnostics",
    "orphan-handling",
    "package-metadata",
    "retain-symbols-file",
    "ctf-share-types",
    "error-handling-script",
    "export-dynamic-symbol",
    "export-dynamic-symbol-list",
    "f",
    "F",
    "flto-partition",
    "fuse-ld",
    "gpsize",
    "hash-size",
    "max-cache-size",
    "P",
    "spare-dynamic-tags",
];

/// Long options without value that make no difference here.
pub(super) const IGNORED: &[&str] = &[
    "Bsymbolic",
    "Bsymbolic-functions",
    "no-dynamic-linker",
    "as-needed",
    "no-as-needed",
    "add-needed",
    "no-add-needed",
    "copy-dt-needed-entries",
    "no-copy-dt-needed-entries",
    "export-dynamic",
    "no-export-dynamic",
    "E",
    "no-allow-shlib-undefined",
    "allow-shlib-undefined",
    "no-warn-mismatch",
    "warn-once",
    "no-warn-rwx-segments",
    "warn-rwx-segments",
    "no-warn-execstack",
    "warn-execstack",
    "enable-new-dtags",
    "disable-new-dtags",
    "relax",
    "no-relax",
    "no-ld-generated-unwind-info",
    "ld-generated-unwind-info",
    "stats",
    "no-keep-memory",
    "gc-keep-exported",
    "sort-common",
    "g",
    "cref",
    "verbose",
    "no-omagic",
    "n",
    "nmagic",
    "Qy",
    "no-color-diagnostics",
    "no-eh-frame-hdr",
    "no-undefined-version",
    "no-rosegment",
    "no-warnings",
    "w",
    "no-allow-multiple-definition",
    "d",
    "dc",
    "dp",
    "no-print-map-discarded",
    "no-ctf-variables",
    "dynamic-list-data",
    "Bgroup",
    "Bno-symbolic",
    "EL",
    "accept-unknown-input-arch",
    "no-accept-unknown-input-arch",
    "check-sections",
    "no-check-sections",
    "ctf-variables",
    "default-imported-symver",
    "default-symver",
    "dynamic-list-cpp-new",
    "dynamic-list-cpp-typeinfo",
    "enable-non-contiguous-regions",
    "enable-non-contiguous-regions-warnings",
    "flto",
    "force-group-allocation",
    "map-whole-files",
    "no-map-whole-files",
    "no-strip-discarded",
    "strip-discarded",
    "no-warn-search-mismatch",
    "print-map-discarded",
    "print-memory-usage",
    "reduce-memory-overheads",
    "split-by-file",
    "traditional-format",
    "undefined-version",
    "warn-alternate-em",
    "warn-constructors",
    "warn-multiple-gp",
    "warn-section-align",
    "warn-textrel",
];

/// Letters of options of which a value that makes no difference may be written behind the letter.
pub(super) const IGNORED_LETTERS: &str = "AFGPYfhy";

/// Words behind `-z` that make no difference here.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "call-nop",
    "cet-report",
    "combreloc",
    "common",
    "common-page-size",
    "dynamic-undefined-weak",
    "global",
    "globalaudit",
    "ibtplt",
    "indirect-extern-access",
    "initfirst",
    "interpose",
    "keep-text-section-prefix",
    "lam-report",
    "lam-u48",
    "lam-u48-report",
    "lam-u57",
    "lam-u57-report",
    "lazy",
    "loadfltr",
    "nocombreloc",
    "nocommon",
    "nocopyreloc",
    "nodefaultlib",
    "nodelete",
    "nodlopen",
    "nodump",
    "nodynamic-undefined-weak",
    "noextern-protected-data",
    "noindirect-extern-access",
    "nokeep-text-section-prefix",
    "nopack-relative-relocs",
    "noreloc-overflow",
    "noseparate-code",
    "notext",
    "nounique",
    "nounique-symbol",
    "now",
    "origin",
    "pack-relative-relocs",
    "report-relative-reloc",
    "rodynamic",
    "separate-code",
    "start-stop-visibility",
    "text",
    "textoff",
    "unique",
    "unique-symbol",
];

/// Keywords of `-z` that stand for a bit of a property of the program.
pub(super) const PROPERTIES: &[(&str, (u32, u32))] = &[
    ("ibt", (FEATURES, 1)),
    ("shstk", (FEATURES, 2)),
    ("x86-64-baseline", (LEVEL_NEEDED, 1)),
    ("x86-64-v2", (LEVEL_NEEDED, 2)),
    ("x86-64-v3", (LEVEL_NEEDED, 4)),
    ("x86-64-v4", (LEVEL_NEEDED, 8)),
];

/// What another kind of output is called for by, and what to do instead. The last on a command line counts.
pub(super) fn other_output(name: &str) -> Option<&'static str> {
    look_up(OTHER_OUTPUTS, name)
}

/// The question is one about the linker of the system.
pub(super) fn asks_the_system(name: &str) -> bool {
    ["print-sysroot", "print-output-format", "target-help"].contains(&name)
}

/// What to do instead of an option that cannot be followed.
pub(super) fn advice(name: &str) -> Option<&'static str> {
    look_up(REFUSED, name)
}

type Table = [(&'static [&'static str], &'static str)];

fn look_up(table: &'static Table, name: &str) -> Option<&'static str> {
    let (_, advice) = table.iter().find(|(names, _)| names.contains(&name))?;
    Some(advice)
}

const OTHER_OUTPUTS: &Table = &[
    (
        &["pie", "pic-executable"],
        "pool link makes executables at registered addresses: add -static -no-pie to the \
         compiler's command line",
    ),
    (
        &["static-pie"],
        "pool link makes executables at registered addresses: use -static -no-pie instead",
    ),
    (
        &["shared", "Bshareable"],
        "pool link makes no shared libraries: make a static archive (ar rcs libNAME.a *.o), which \
         becomes a shared library of the pool when a program is linked with it",
    ),
    (
        &["relocatable", "r", "i", "Ur"],
        "pool link makes no relocatable objects: use the system's ld for this step",
    ),
];

const REFUSED: &Table = &[
    (
        &[
            "Ttext",
            "Tdata",
            "Tbss",
            "Ttext-segment",
            "Trodata-segment",
            "Tldata-segment",
            "section-start",
            "image-base",
        ],
        "addresses come from the registry: leave it out",
    ),
    (
        &["omagic", "N"],
        "text and data are kept on separate pages: leave it out",
    ),
    (
        &["emit-relocs", "q"],
        "no relocations are kept: link with the system's ld for a tool that rewrites the executable",
    ),
    (
        &["format", "b"],
        "inputs are 64-bit ELF objects: leave it out",
    ),
    (
        &["just-symbols", "R"],
        "not supported: link the objects themselves",
    ),
];
