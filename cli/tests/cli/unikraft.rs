//! `pool link --unikraft`: a build directory in the form that Unikraft's make leaves, linked again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pool_tests::source_directory;
use pool_tests::workshop::succeeds;
use serde_json::Value;
use tempfile::TempDir;

use super::common::pool;

/// Two applications of the libraries in `same_as_ld/unikraft`.
const APPLICATIONS: [&str; 2] = ["one", "two"];
/// What behind the link make does with an image.
const STRIP: &str = "strip -s IMAGE.dbg -o IMAGE 2>&1 | { grep -v Empty || true; }";
const BOOTINFO: &str = "printf 'B\\007' > IMAGE.bootinfo && truncate -s 256 IMAGE.bootinfo && \
                        objcopy IMAGE --update-section .uk_bootinfo=IMAGE.bootinfo";

struct Builds {
    directory: TempDir,
}

/// As `part` of the fixture's `parts.sh`, in the folder `build` and with the commands on record there.
const PART: &str = r#"part() {
	name=$1 options= members=
	for symbol in $2; do options="$options --keep-global-symbol=$symbol"; done
	shift 2
	for member; do
		mkdir -p $build/$name
		cp $member $build/$name/
		members="$members $build/$name/$member"
	done
	echo "\"\"gcc -nostdlib -no-pie -Wl,-r -Wl,-d -Wl,--build-id=none $members -o $build/$name.ld.o" > $build/$name.ld.o.cmd
	echo "\"\"objcopy $options $build/$name.ld.o $build/$name.o" > $build/$name.o.cmd
	sh $build/$name.ld.o.cmd
	sh $build/$name.o.cmd
}"#;

impl Builds {
    /// Has both applications built as make would, by the system's linker, with further `options` for the second's.
    fn new(options: &str) -> Self {
        let builds = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let from = source_directory().join("cli/tests/same_as_ld/unikraft");
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), builds.path("").join(entry.file_name())).unwrap();
        }
        for (name, mounted, options) in [("one", 5, ""), ("two", 6, options)] {
            builds.shell(&format!(
                "set -e\nbuild=$PWD/{name}\nmkdir $build\n. ./parts.sh\n{PART}\n\
                 compile() {{ gcc -O2 -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables \
                 -ftls-model=local-exec {options} -c \"$@\"; }}\nparts -DMOUNTED={mounted}"
            ));
            builds.record(name, ".dbg", &builds.link(name));
            builds.record(name, "", STRIP);
            builds.record(name, ".bootinfo", BOOTINFO);
            for step in [".dbg", "", ".bootinfo"] {
                let file = builds.image(name).with_file_name(format!("app{step}.cmd"));
                succeeds(Command::new("sh").arg(file)).unwrap();
            }
        }
        builds
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn shell(&self, script: &str) {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", script])
            .current_dir(self.directory.path());
        succeeds(&mut shell).unwrap();
    }

    fn image(&self, name: &str) -> PathBuf {
        self.path(name).join("app")
    }

    /// A call of the compiler, as make records it.
    fn link(&self, name: &str) -> String {
        let (scripts, build) = (self.directory.path().display(), self.path(name));
        let objects = [
            "libplat",
            "appfixture",
            "libboot",
            "libfs",
            "libram",
            "libuklibid",
        ];
        let objects = objects.map(|object| build.join(format!("{object}.o")).display().to_string());
        format!(
            "\"\"gcc -nostdlib -Wl,--build-id=none -no-pie -Wl,-e,_libplat_start {} -Wl,--start-group -Wl,--end-group \
             -Wl,-T,{scripts}/bootinfo.lds -Wl,-T,{scripts}/platform.lds -Wl,-T,{scripts}/tables.ld -o IMAGE.dbg",
            objects.join(" ")
        )
    }

    fn record(&self, name: &str, step: &str, command: &str) {
        let image = self.image(name);
        let file = image.with_file_name(format!("app{step}.cmd"));
        let command = command.replace("IMAGE", image.to_str().unwrap());
        fs::write(file, command + "\n").unwrap();
    }

    fn again(&self, name: &str, options: &[&str]) -> Output {
        let registry = self.path("addresses.json");
        pool(&["link", "--unikraft"])
            .arg(self.path(name))
            .args(options)
            .arg("--pool-registry")
            .arg(registry)
            .output()
            .unwrap()
    }

    fn refused(&self, name: &str, options: &[&str]) -> String {
        let output = self.again(name, options);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// What an image prints, and how it ends.
fn runs(image: &Path) -> (Option<i32>, String) {
    let output = Command::new(image).arg("x").output().unwrap();
    let says = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), says)
}

/// The libraries of an image, each with the object that its pages are. It has all of them as they are.
fn libraries(image: &Path) -> Vec<(String, Value, Value)> {
    let inspected = pool(&["inspect", "--json"]).arg(image).output().unwrap();
    let report: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(report["own"], serde_json::json!([]));
    let libraries = report["libraries"].as_array().unwrap().iter();
    let of = |library: &Value| {
        (
            library["library"].as_str().unwrap().to_owned(),
            library["object"].clone(),
            library["address"].clone(),
        )
    };
    libraries.map(of).collect()
}

#[test]
fn a_finished_build_is_linked_again_and_its_libraries_are_shared() {
    let builds = Builds::new("");
    let mut seen = Vec::new();
    for name in APPLICATIONS {
        let image = builds.image(name);
        let by_ld = runs(&image);
        // The boot information is there.
        assert!(by_ld.1.starts_with("boot 4 7 0 0 1 0 "), "{by_ld:?}");
        let output = builds.again(name, &[]);
        assert!(output.status.success(), "{output:?}");
        let says = String::from_utf8(output.stdout).unwrap();
        assert_eq!(says.trim(), image.to_str().unwrap());
        assert_eq!(runs(&image), by_ld);
        let symbols = succeeds(Command::new("nm").arg(&image)).unwrap_or_default();
        assert_eq!(symbols, b"", "it is stripped");
        seen.push(libraries(&image));
    }
    let names = seen[0].iter().map(|(name, ..)| name.split('@').next());
    let names: Vec<&str> = names.map(Option::unwrap).collect();
    assert_eq!(names, ["plat", "boot", "fs", "ram"]);
    assert_eq!(seen[0], seen[1]);
}

/// What of a library is compiled otherwise in another build leaves the rest of it where it was.
#[test]
fn a_library_that_is_built_otherwise_keeps_its_places() {
    let builds = Builds::new("-DLONGER=9");
    let (mut seen, mut boots) = (Vec::new(), Vec::new());
    for name in APPLICATIONS {
        let image = builds.image(name);
        let by_ld = runs(&image);
        let output = builds.again(name, &[]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(runs(&image), by_ld);
        let linked = image.with_file_name("app.dbg");
        let symbols = succeeds(Command::new("nm").arg("-S").arg(linked)).unwrap();
        let symbols = String::from_utf8(symbols).unwrap();
        let of = |name: &str| -> Vec<String> {
            let mut lines = symbols.lines().map(str::split_whitespace);
            let line = lines.find(|words| words.clone().next_back() == Some(name));
            line.unwrap().map(str::to_owned).collect()
        };
        seen.push((of("first"), of("mount_dev"), of("tick_dev")));
        let boot = libraries(&image).into_iter();
        boots.extend(boot.filter(|(name, ..)| name.starts_with("boot@")));
    }
    // Its pages hold nothing of what was added, which lies in a table.
    let [one, two] = &boots[..] else {
        panic!("both have it: {boots:?}")
    };
    assert_ne!(one.0, two.0);
    assert_eq!((&one.1, &one.2), (&two.1, &two.2));
    let [(first, mount, tick), (longer, other_mount, other_tick)] = &seen[..] else {
        panic!("two were built")
    };
    assert!(longer[1] > first[1], "{longer:?}, {first:?}");
    assert_eq!((mount, tick), (other_mount, other_tick));
    let left = fs::read_dir(builds.path("one")).unwrap();
    let mut left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.find(|name| name.starts_with("pool-")), None);
}

#[test]
fn what_make_does_with_another_linker_is_the_same() {
    let builds = Builds::new("");
    let image = builds.image("one");
    let by_ld = runs(&image);
    let bin = builds.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_pool"), bin.join("ld")).unwrap();
    let command = fs::read_to_string(builds.path("one/app.dbg.cmd")).unwrap();
    let mut make = Command::new("sh");
    make.arg("-c")
        .arg(format!("{} -B{}/", command.trim(), bin.display()))
        .env("POOL_REGISTRY", builds.path("addresses.json"));
    succeeds(&mut make).unwrap();
    builds.shell("sh one/app.cmd && sh one/app.bootinfo.cmd");
    assert_eq!(runs(&image), by_ld);
    assert_eq!(libraries(&image).len(), 4);

    // That is on record then, and may be another linker's folder by now.
    fs::remove_file(bin.join("ld")).unwrap();
    symlink("/bin/false", bin.join("ld")).unwrap();
    let link = builds
        .link("one")
        .replace("gcc ", &format!("gcc -B{}/ ", bin.display()));
    builds.record("one", ".dbg", &link);
    let output = builds.again("one", &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(runs(&image), by_ld);
}

#[test]
fn what_cannot_be_linked_again_is_told() {
    let builds = Builds::new("");
    let says = builds.refused("bare", &[]);
    assert!(
        says.contains("bare") && says.contains("No such file"),
        "{says}"
    );
    fs::create_dir(builds.path("bare")).unwrap();
    let says = builds.refused("bare", &[]);
    assert!(
        says.contains("no recorded link") && says.contains("run make first"),
        "{says}"
    );

    let before = runs(&builds.image("one"));
    let says = builds.refused("one", &["--no-such-option"]);
    assert!(
        says.contains("--no-such-option") && says.contains("app.dbg.cmd failed"),
        "{says}"
    );
    assert_eq!(runs(&builds.image("one")), before, "the image is as it was");
    let says = builds.refused("one", &["-o", "elsewhere"]);
    assert!(says.contains("where make had it"), "{says}");
    // What is on record there is about the other.
    builds.shell("cp -r one copy");
    let says = builds.refused("copy", &[]);
    assert!(says.contains("moved or copied"), "{says}");
    assert_eq!(runs(&builds.image("one")), before, "the image is as it was");
    builds.record("one", "", "exit 3");
    let says = builds.refused("one", &[]);
    assert!(says.contains("app.cmd failed (exit status: 3)"), "{says}");
    for more in ["&& true", "# as ever", "-Wl,-T,\"two  words\""] {
        builds.record("one", ".dbg", &format!("{} {more}", builds.link("one")));
        let says = builds.refused("one", &[]);
        assert!(
            says.contains("not one call") && says.contains("UK_LDFLAGS"),
            "{says}"
        );
    }

    // A script that says more than is followed is named, with the line.
    fs::write(
        builds.path("tables.ld"),
        "SECTIONS\n{\n\t.uk_libinfo : { *(.uk_libinfo) LONG(1) }\n}\nINSERT AFTER .rodata;\n",
    )
    .unwrap();
    let says = builds.refused("two", &[]);
    assert!(says.contains("tables.ld:3: \"LONG\""), "{says}");
}
