//! What happens in a detour of a library's code (`pool link`) happens in the function that takes it, wherever the image
//! starts: who unwinds out of one gets there.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, bounded, command};
use pool_tests::workshop::{Workshop, succeeds};

/// Instructions that refer to what is another library's: one whose result has room for the address, and two for which
/// a register is saved.
const LIBRARY: &str = r#"
static int load() {
    int x;
    asm volatile("movl page(%%rip), %0" : "=r"(x));
    return x;
}
static bool is(int y) {
    bool x;
    asm volatile("cmpl %1, page+4(%%rip); sete %0" : "=r"(x) : "r"(y) : "cc");
    return x;
}
static void add(int y) { asm volatile("addl %0, page+8(%%rip)" : : "r"(y) : "cc", "memory"); }
int loads(int a) {
    try { return load() + a; } catch (int thrown) { return thrown - a; }
}
int compares(int a) {
    int b = a * 3;
    try { return is(7) + b; } catch (int thrown) { return thrown + b; }
}
int adds(int a) {
    int b = a * 5;
    try { add(a); } catch (int thrown) { return thrown + b; }
    return b;
}
"#;
const OTHER: &str = "int page[1024] __attribute__((aligned(4096))) = {5, 7, 9};";
/// What faults is thrown from.
const PROGRAM: &str = r#"
#include <csignal>
#include <cstdio>
#include <sys/mman.h>
extern int page[1024];
int loads(int), compares(int), adds(int);
static void fault(int) {
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    sigprocmask(SIG_UNBLOCK, &faults, nullptr);
    throw 100;
}
int main() {
    std::signal(SIGSEGV, fault);
    std::printf("%d %d %d\n", loads(1), compares(2), adds(3));
    mprotect(page, sizeof page, PROT_NONE);
    std::printf("%d %d %d\n", loads(1), compares(2), adds(3));
}
"#;
const SAYS: &[u8] = b"6 7 15\n99 106 115\n";

#[test]
fn what_faults_in_a_detour_is_caught_in_its_function() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let host = Host::start(&directory.path().join("host"), &[])?;
    let workshop = Workshop::new(&host, &directory.path().join("work"))?;
    for (file, text) in [
        ("main.cc", PROGRAM),
        ("library.cc", LIBRARY),
        ("other.cc", OTHER),
    ] {
        workshop.compile(
            "g++",
            &["-O2", "-fPIE", "-fnon-call-exceptions"],
            file,
            text,
        )?;
    }
    workshop.archive("liblibrary.a", &["library.o"])?;
    workshop.archive("libother.a", &["other.o"])?;
    let inputs = ["main.o", "liblibrary.a", "libother.a"];
    let options = ["-Wl,--pool-libraries=all", "-Wl,--pool-aslr=library"];
    workshop.push("g++", "detours", &[&inputs[..], &options].concat())?;
    let file = workshop.path("detours");
    ensure!(succeeds(&mut Command::new(&file))? == SAYS);
    let report = host.pool(&["inspect", file.to_str().context("path")?])?;
    ensure!(report["slide"]["libraries"] == true, "{report}");
    for platform in ["kvm", "process"] {
        for aslr in ["off", "image", "library"] {
            let mut guest = command(&host, "image/detours:v1", Backing::Pool, platform);
            guest.args(["--aslr", aslr]);
            let found = bounded(&guest).output()?;
            let is_right = found.status.success() && found.stdout == SAYS;
            ensure!(is_right, "{platform}, --aslr {aslr}: {found:?}");
        }
    }
    Ok(())
}
