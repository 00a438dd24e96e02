//! Images that start elsewhere at each run: every instance has a layout of its own, all print the same, and all of their
//! text is the pool's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use pool_core::PAGE_SIZE;
use pool_core::description::RangeKind;
use pool_core::image_map::ImageMap;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, command};
use pool_tests::workshop::{Workshop, succeeds};
use serde_json::Value;

/// Instances at a time, of each program on each platform.
const INSTANCES: usize = 64;

/// Exceptions through libraries, threads, thread-local variables, functions that choose their implementation, tables of
/// functions. It says on standard error where it is, and ends when its standard input does.
const CXX: &str = r#"
#include <atomic>
#include <cstdio>
#include <functional>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
struct Base { virtual ~Base() {} virtual int f(int x) { return x; } };
struct Derived : Base {
    int f(int x) override {
        if (x % 3 == 0) throw std::runtime_error("three " + std::to_string(x));
        return x * 2;
    }
};
thread_local int mine = 3;
std::atomic<int> total{0};
static int chosen(int x) { return x + 1; }
extern "C" {
static int (*choose(void))(int) { return chosen; }
int by_choice(int) __attribute__((ifunc("choose")));
}
int main() {
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++)
        threads.emplace_back([] {
            Derived derived;
            Base *base = &derived;
            for (int i = 0; i < 50; i++) {
                try { mine += base->f(i); total += by_choice(0); }
                catch (const std::exception &e) { total += (int)std::string(e.what()).size(); }
            }
            total += mine;
        });
    for (auto &thread : threads) thread.join();
    std::map<std::string, int> empty;
    try { empty.at("nothing"); } catch (const std::out_of_range &e) { std::cout << "caught " << e.what() << "\n"; }
    std::function<void(int)> deep = [&](int n) {
        struct Guard { ~Guard() { total++; } } guard;
        if (n == 0) throw 42;
        deep(n - 1);
    };
    try { deep(20); } catch (int x) { std::cout << "int " << x << "\n"; }
    std::cout << total << std::endl;
    int on_stack;
    std::fprintf(stderr, "%p %p %p %p\n", (void *)&main, (void *)&std::fputs, (void *)new int, (void *)&on_stack);
    return std::getchar() == EOF ? 0 : 1;
}
"#;

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int one(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
static int other(const void *a, const void *b) { return one(b, a); }
static int (*const orders[])(const void *, const void *) = {one, other};
static const char *const names[] = {"up", "down"};
_Thread_local int mine = 7;
static int five = 5;
// The address ends on a page that is zeros otherwise.
static struct __attribute__((packed)) { char before[4093]; int *volatile at; char zeros[8187]; char behind; } across
    __attribute__((aligned(4096))) = {.at = &five, .behind = 1};
int main(void) {
    int numbers[] = {3, 1, 2};
    for (int i = 0; i < 2; i++) {
        qsort(numbers, 3, sizeof *numbers, orders[i]);
        printf("%s %d%d%d %d\n", names[i], numbers[0], numbers[1], numbers[2], mine++);
    }
    char *text = strdup(getenv("HOME") ? "has a home" : "has none");
    puts(text);
    printf("%d\n", *across.at);
    fflush(stdout);
    fprintf(stderr, "%p %p %p %p\n", (void *)main, (void *)fputs, sbrk(0), (void *)numbers);
    return getchar() == EOF ? 0 : 1;
}
"#;

/// Name, file, text and compiler.
const PROGRAMS: [(&str, &str, &str, &str); 2] =
    [("cxx", "cxx.cc", CXX, "g++"), ("c", "c.c", C, "musl-gcc")];

/// A guest that has printed what it has to say, and waits.
struct Instance {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
    report: PathBuf,
    /// What it says of where it is.
    layout: String,
}

impl Instance {
    fn start(host: &Host, image: &str, platform: &str, aslr: &str, report: &Path) -> Result<Self> {
        let mut child = command(host, image, Backing::Pool, platform)
            .args(["--aslr", aslr, "--report"])
            .arg(report)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting poolvmm")?;
        let errors = child.stderr.take().context("no standard error")?;
        Ok(Self {
            child,
            errors: BufReader::new(errors),
            report: report.to_owned(),
            layout: String::new(),
        })
    }

    fn wait_for_layout(&mut self) -> Result<()> {
        self.errors.read_line(&mut self.layout)?;
        ensure!(self.layout.starts_with("0x"), "it said {:?}", self.layout);
        Ok(())
    }

    /// The process whose memory has the guest's: poolvmm's, or its child.
    fn process(&self, platform: &str) -> Result<u32> {
        let monitor = self.child.id();
        match platform {
            "kvm" => Ok(monitor),
            _ => child_of(monitor),
        }
    }

    /// What it printed and what poolvmm reports.
    fn finish(mut self) -> Result<(String, Value)> {
        drop(self.child.stdin.take());
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().context("no standard output")?;
        stdout.read_to_string(&mut output)?;
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}: {rest}");
        Ok((output, serde_json::from_slice(&fs::read(&self.report)?)?))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn child_of(process: u32) -> Result<u32> {
    let mut children = String::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        children += &fs::read_to_string(task?.path().join("children"))?;
    }
    let first = children.split_whitespace().next();
    Ok(first
        .with_context(|| format!("{process} has no child"))?
        .parse()?)
}

/// The pages of an executable that have code: guest addresses as linked.
fn text_pages(file: &Path) -> Result<BTreeSet<u64>> {
    let sections = succeeds(Command::new("readelf").arg("-SW").arg(file))?;
    let mut pages = BTreeSet::new();
    for line in String::from_utf8(sections)?.lines() {
        let Some((_, rest)) = line.split_once(']') else {
            continue;
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [name, _, address, _, size, _, flags, ..] = words[..] else {
            continue;
        };
        let is_text = [".text", ".init", ".fini"]
            .iter()
            .any(|text| name.starts_with(text));
        if is_text && flags.contains('X') {
            let start = u64::from_str_radix(address, 16)?;
            let end = start + u64::from_str_radix(size, 16)?;
            pages.extend((start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).map(|page| page * PAGE_SIZE));
        }
    }
    Ok(pages)
}

/// Where in the pool each of `pages` is: segment and byte.
fn places(map: &ImageMap, pages: &BTreeSet<u64>) -> Result<BTreeSet<(String, u64)>> {
    let mut places = BTreeSet::new();
    for &page in pages {
        let mut ranges = map.description.ranges.iter();
        let range = ranges.find(|range| (range.address.0..range.end().0).contains(&page));
        let range = range.with_context(|| format!("{page:#x} is in no range"))?;
        ensure!(range.kind == RangeKind::Shared, "{page:#x} is not shared");
        let source = range.source.context("source")?;
        let first = (source.offset + (page - range.address.0)) / PAGE_SIZE;
        let extent = map.objects[&source.object].slice(first, 1).next();
        // A page of zeros is in no segment.
        places.extend(extent.map(|e| (e.segment.to_string(), e.slot.byte_offset())));
    }
    Ok(places)
}

/// The frames of what `process` maps shared of segments, by segment and byte. What was not touched has none.
fn frames(process: u32) -> Result<BTreeMap<(String, u64), Option<u64>>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let pagemap = File::open(format!("/proc/{process}/pagemap"))?;
    let mut frames = BTreeMap::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let mut word = || words.next().with_context(|| format!("too short: {line}"));
        let (addresses, access, offset) = (word()?, word()?, word()?);
        let Some((_, segment)) = line.rsplit_once("/segments/") else {
            continue;
        };
        // Since Linux 6.16 a name that two processes look up for the first time at once may leave the dentry cache
        // though its file is there: fuse_lookup (fs/fuse/dir.c) sets a dentry's epoch after others see the dentry, and
        // one without an epoch is dropped.
        let segment = segment.strip_suffix(" (deleted)").unwrap_or(segment);
        let (start, end) = addresses.split_once('-').context("addresses")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        let offset = u64::from_str_radix(offset, 16)?;
        ensure!(!access.contains('w') || access.ends_with('p'), "{line}");
        if !access.ends_with('s') {
            continue;
        }
        let mut entries = vec![0; ((end - start) / PAGE_SIZE * 8) as usize];
        pagemap.read_exact_at(&mut entries, start / PAGE_SIZE * 8)?;
        for (nth, entry) in (0..).zip(entries.chunks_exact(8)) {
            let entry = u64::from_le_bytes(entry.try_into()?);
            // Present, and the frame's number (pagemap.rst).
            let frame = (entry >> 63 != 0).then_some(entry & ((1 << 55) - 1));
            frames.insert((segment.to_owned(), offset + nth * PAGE_SIZE), frame);
        }
    }
    Ok(frames)
}

fn build(host: &Host, work: &Path, options: &[&str]) -> Result<()> {
    let workshop = Workshop::new(host, work)?;
    for (name, file, text, compiler) in PROGRAMS {
        workshop.compile(compiler, &["-O2"], file, text)?;
        let object = format!("{name}.o");
        workshop.push(compiler, name, &[&[object.as_str()], options].concat())?;
    }
    Ok(())
}

fn natively(program: &Path, name: &str) -> Result<String> {
    let script = ["-c", "exec -a \"$0\" \"$1\" 2>/dev/null", name];
    let mut shell = Command::new("bash");
    shell
        .args(script)
        .arg(program)
        .env_clear()
        .stdin(Stdio::null());
    Ok(String::from_utf8(succeeds(&mut shell)?)?)
}

/// How far a library's function is from the application's.
fn distance(layout: &str) -> Result<i64> {
    let mut words = layout.split_whitespace();
    let mut address = || -> Result<i64> {
        let word = words.next().context("an address")?;
        Ok(i64::from_str_radix(word.trim_start_matches("0x"), 16)?)
    };
    Ok(-(address()? - address()?))
}

/// Runs many instances at a time and compares them.
fn compare(host: &Host, work: &Path, platform: &str, aslr: &str) -> Result<()> {
    for (name, ..) in PROGRAMS {
        let image = format!("image/{name}:v1");
        let expected = natively(&work.join(name), name)?;
        let map = host.mount_point().join("images").join(name).join("v1/map");
        let map = ImageMap::from_json(&fs::read(map)?)?;
        let text = places(&map, &text_pages(&work.join(name))?)?;
        ensure!(text.len() > 20, "{name} has {} pages of text", text.len());

        let mut instances = Vec::new();
        for nth in 0..INSTANCES {
            let report = work.join(format!("report-{nth}"));
            instances.push(Instance::start(host, &image, platform, aslr, &report)?);
        }
        let mut layouts = BTreeSet::new();
        let mut distances = BTreeSet::new();
        let mut addresses: [BTreeSet<String>; 4] = Default::default();
        let mut seen: BTreeMap<&(String, u64), u64> = BTreeMap::new();
        for instance in &mut instances {
            instance.wait_for_layout()?;
            let words = instance.layout.split_whitespace().map(str::to_owned);
            for (kind, word) in addresses.iter_mut().zip(words) {
                kind.insert(word);
            }
            layouts.insert(instance.layout.clone());
            distances.insert(distance(&instance.layout)?);
            let frames = frames(instance.process(platform)?)?;
            let mut touched = 0;
            for place in &text {
                let frame = frames.get(place);
                let frame = frame.with_context(|| {
                    let process = instance.process(platform).unwrap_or_default();
                    let maps = fs::read_to_string(format!("/proc/{process}/maps"));
                    let maps = maps.unwrap_or_else(|error| error.to_string());
                    format!("{name}, {platform}: {place:?} is not the pool's in {process}:\n{maps}")
                })?;
                if let Some(frame) = frame {
                    touched += 1;
                    let first = seen.entry(place).or_insert(*frame);
                    ensure!(first == frame, "{place:?} has two frames");
                }
            }
            ensure!(touched > 10, "{name} touched {touched} pages of text");
        }
        // Of 1024 places for each library many are drawn.
        let least = if aslr == "library" { INSTANCES / 2 } else { 1 };
        ensure!(distances.len() >= least, "{name}: {distances:?}");
        ensure!(
            aslr == "library" || distances.len() == 1,
            "{name}: {distances:?}"
        );
        let mut tables = BTreeSet::new();
        for instance in instances {
            let (output, report) = instance.finish()?;
            ensure!(
                output == expected,
                "{name}: {output} in place of {expected}"
            );
            let written = report.pointer("/mapped/written_pages");
            tables.insert(written.and_then(Value::as_u64).context("written pages")? * PAGE_SIZE);
        }
        ensure!(layouts.len() == INSTANCES, "{name}: {layouts:?}");
        // Code, library, heap and stack are elsewhere, too. Of 2^24 places two may draw the same, but hardly twice.
        for of_a_kind in &addresses {
            ensure!(of_a_kind.len() + 1 >= INSTANCES, "{name}: {of_a_kind:?}");
        }
        ensure!(tables.len() == 1 && tables.first() > Some(&0), "{tables:?}");
        eprintln!(
            "{name}, {platform}, {aslr}: {} pages of text, all shared; {} bytes an instance hold addresses",
            text.len(),
            tables.first().unwrap_or(&0)
        );
    }
    Ok(())
}

fn all_instances_differ_and_share(aslr: &str, options: &[&str]) -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let work = directory.path();
    let host = Host::start(&work.join("host"), &[])?;
    build(&host, work, options)?;
    for platform in ["kvm", "process"] {
        compare(&host, work, platform, aslr)?;
    }
    Ok(())
}

#[test]
fn images_slide_and_share_their_text() -> Result<()> {
    all_instances_differ_and_share("image", &[])
}

#[test]
fn libraries_slide_one_by_one_and_share_their_text() -> Result<()> {
    all_instances_differ_and_share("library", &["-Wl,--pool-aslr=library"])
}

/// Code that an archive has in `.init` and `.fini` is put together with that of the start files, and calls what is the
/// library's: those pages alone are the guest's own where libraries move.
const PREPARED: &str = r#"
#include <stdio.h>
int ready;
void prepare(void) { ready = 41; }
void clean_up(void) { printf("done %d\n", ready); fflush(stdout); }
__asm__(".section .init, \"ax\", @progbits\n call prepare\n .section .fini, \"ax\", @progbits\n call clean_up\n .text\n");
"#;

#[test]
fn libraries_with_code_for_the_start_slide_one_by_one() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    let text = "#include <stdio.h>\nextern int ready;\nint main(void) { printf(\"%d\\n\", ++ready); return 0; }\n";
    workshop.compile("gcc", &["-O2", "-fPIE"], "main.c", text)?;
    workshop.compile("gcc", &["-O2", "-fPIE"], "prepared.c", PREPARED)?;
    workshop.archive("libprepared.a", &["prepared.o"])?;
    let options = ["-Wl,--pool-libraries=all", "-Wl,--pool-aslr=library"];
    let inputs = ["main.o", "libprepared.a"];
    workshop.push("gcc", "prepared", &[&inputs[..], &options].concat())?;
    let says: &[u8] = b"42\ndone 42\n";
    let file = workshop.path("prepared");
    ensure!(succeeds(&mut Command::new(&file))? == says);
    let report = host.pool(&["inspect", file.to_str().context("path")?])?;
    ensure!(report["slide"]["libraries"] == true, "{report}");
    for platform in ["kvm", "process"] {
        for aslr in ["image", "library"] {
            let mut guest = command(&host, "image/prepared:v1", Backing::Pool, platform);
            let found = guest.args(["--aslr", aslr]).output()?;
            let is_right = found.status.success() && found.stdout == says;
            ensure!(is_right, "{platform}, --aslr {aslr}: {found:?}");
        }
    }
    Ok(())
}

/// What cannot start elsewhere says so, and runs where it was linked.
#[test]
fn what_cannot_slide_is_refused_by_name() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    // More places than are led through the offset table.
    let places: Vec<String> = (0..64)
        .map(|nth| format!("__asm__ volatile(\"movl $bytes + {nth}, %%eax\" ::: \"eax\");\n"))
        .collect();
    let places = places.concat();
    let text = format!(
        "#include <stdio.h>\nchar bytes[64];\nint main(void) {{\n{places}puts(\"here\"); return 0; }}\n"
    );
    workshop.compile("musl-gcc", &["-O2", "-fno-pie"], "fixed.c", &text)?;
    workshop.push("musl-gcc", "fixed", &["fixed.o"])?;
    let file = workshop.path("fixed");
    let file = file.to_str().context("path")?;
    let report = host.pool(&["inspect", file])?;
    let why = report.pointer("/slide/why_not").and_then(Value::as_str);
    ensure!(why.is_some_and(|why| why.contains("bytes")), "{report}");
    for platform in ["kvm", "process"] {
        let mut run = command(&host, "image/fixed:v1", Backing::Pool, platform);
        ensure!(succeeds(&mut run)? == b"here\n");
        for aslr in ["image", "library"] {
            let refused = command(&host, "image/fixed:v1", Backing::Pool, platform)
                .args(["--aslr", aslr])
                .output()?;
            let says = String::from_utf8_lossy(&refused.stderr);
            ensure!(refused.status.code() == Some(1), "{says}");
            ensure!(
                says.contains("fixed:v1 cannot slide") && says.contains("bytes"),
                "{says}"
            );
        }
    }
    Ok(())
}
