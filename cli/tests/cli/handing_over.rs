//! What is no static executable is another linker's: `pool` as the linker of whole builds.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder to build in, with `pool` as `bin/ld`, and no registry anywhere.
struct Yard(TempDir);

impl Yard {
    fn new() -> Self {
        let yard = Self(tempfile::tempdir().unwrap());
        fs::create_dir(yard.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_pool"), yard.path("bin/ld")).unwrap();
        yard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn script(&self, name: &str, text: &str) {
        self.write(name, text);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), executable).unwrap();
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(self.0.path())
            .env("POOL_SERVER", "http://127.0.0.1:1")
            .env_remove("POOL_REGISTRY")
            .env_remove("POOL_SYSTEM_LINKER");
        command
    }

    /// `line`, in words, with the compiler's programs.
    fn run(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap());
        command.args(words).output().unwrap()
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let output = self.run(line);
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {says}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn builds_go_on_with_the_linker_of_the_system() {
    let yard = Yard::new();
    yard.write("f.c", "int f(void) { return 5; }\n");
    yard.write(
        "main.c",
        "int f(void); int main(void) { return f() - 5; }\n",
    );
    for line in [
        "gcc -Bbin main.c f.c -o dynamic",
        "gcc -Bbin -no-pie main.c f.c -o no-pie",
        "gcc -Bbin -static-pie -fPIE main.c f.c -o static-pie",
        "gcc -Bbin -shared -fPIC f.c -o libf.so",
        "gcc -Bbin main.c -L. -lf -Wl,-rpath,. -o with-library",
        "gcc -Bbin -r -nostdlib f.c -o f.o",
        "gcc -Bbin main.c f.o -o with-relocatable",
        "gcc -Bbin -m32 -r -nostdlib -x c f.c -o f32.o",
        "musl-gcc -Bbin main.c f.c -o musl",
        "clang -fuse-ld=bin/ld main.c f.c -o clang",
    ] {
        let line = line.replace(
            "-fuse-ld=bin",
            &format!("-fuse-ld={}/bin", yard.0.path().display()),
        );
        yard.done(&line);
    }
    for program in [
        "dynamic",
        "no-pie",
        "static-pie",
        "with-library",
        "with-relocatable",
        "musl",
        "clang",
    ] {
        yard.done(&format!("./{program}"));
    }
}

#[test]
fn with_pool_only_nothing_is_handed_over() {
    let yard = Yard::new();
    yard.write("main.c", "int main(void) { return 0; }\n");
    for (line, words) in [
        (
            "gcc -Bbin -Wl,--pool-only main.c -o a",
            ["-pie", "-static -no-pie"],
        ),
        (
            "gcc -Bbin -Wl,--pool-only -no-pie main.c -o a",
            ["shared library", "-static"],
        ),
        (
            "gcc -Bbin -Wl,--pool-only -static-pie main.c -o a",
            ["-pie", "-static -no-pie"],
        ),
        (
            "gcc -Bbin -Wl,--pool-only -shared main.c -o a",
            ["-shared", "static archive"],
        ),
        (
            "gcc -Bbin -Wl,--pool-only -r -nostdlib main.c -o a",
            ["-r", "system's ld"],
        ),
        (
            "gcc -Bbin -Wl,--pool-only -m32 -r -nostdlib main.c -o a",
            ["-r", "relocatable"],
        ),
        (
            "bin/ld --pool-only -m elf_i386 main.o",
            ["-m elf_i386", "x86-64"],
        ),
        (
            "bin/ld --pool-only --print-sysroot",
            ["--print-sysroot", "system's linker"],
        ),
    ] {
        let says = yard.refused(line);
        for words in words {
            assert!(says.contains(words), "{line}: {says}");
        }
        assert!(!yard.path("a").exists(), "{line}");
    }
}

/// However `pool` is reached, it is never the linker that it hands something to.
#[test]
fn pool_hands_nothing_to_itself() {
    let yard = Yard::new();
    yard.write("main.c", "int main(void) { return 0; }\n");
    for folder in ["linked", "copied", "script", "script-and-shell"] {
        fs::create_dir(yard.path(folder)).unwrap();
    }
    let pool = env!("CARGO_BIN_EXE_pool");
    symlink(yard.path("bin/ld"), yard.path("linked/ld")).unwrap();
    fs::copy(pool, yard.path("copied/ld")).unwrap();
    yard.script(
        "script/ld",
        &format!("#!/bin/sh\nexec {pool} link \"$@\"\n"),
    );
    yard.script(
        "script-and-shell/ld",
        &format!("#!/bin/sh\n{pool} link \"$@\"\nexit $?\n"),
    );
    let folders = ["linked", "copied", "script", "script-and-shell"].map(|f| yard.path(f));
    let path = std::env::var_os("PATH").unwrap();
    let path = folders.into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).unwrap();
    for (line, made) in [("gcc -Bbin main.c -o a", "a"), ("gcc main.c -o b", "b")] {
        let mut words = line.split(' ');
        let mut command = yard.command(words.next().unwrap());
        let output = command.args(words).env("PATH", &path).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {says}");
        yard.done(&format!("./{made}"));
    }
    // Asked for its version, too.
    let output = yard.command("bin/ld").arg("-v").env("PATH", &path).output();
    let says = output.unwrap().stdout;
    assert!(
        says.starts_with(b"GNU ld "),
        "{}",
        String::from_utf8_lossy(&says)
    );

    // Where there is none, that is said, with the reason.
    for (linker, words) in [("bin/ld", "pool itself"), ("nowhere", "not there")] {
        let mut command = yard.command("bin/ld");
        command
            .args(["-shared", "x.o"])
            .env("POOL_SYSTEM_LINKER", linker);
        let says = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(says.contains("-shared: "), "{says}");
        assert!(says.contains(words), "{says}");
        assert!(says.contains("POOL_SYSTEM_LINKER"), "{says}");
    }
}

/// The other linker sees the command line that `pool` saw, but for options that are its own.
#[test]
fn the_command_line_is_handed_on_as_it_is() {
    let yard = Yard::new();
    yard.script(
        "theirs",
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > seen\nexit 7\n",
    );
    yard.write("plain", "-O1 'a b.o'");
    yard.write("own", "-O1 --pool-library=x.a=x@1 'a b.o'");
    for (line, seen) in [
        (
            "-shared -T x --theirs-alone -o out",
            "-shared\n-T\nx\n--theirs-alone\n-o\nout\n",
        ),
        ("-r --pool-registry nowhere @plain", "-r\n@plain\n"),
        (
            "-r --pool-layout-file=l --pool-layout=spacer @own",
            "-r\n-O1\na b.o\n",
        ),
    ] {
        let mut command = yard.command("bin/ld");
        command
            .args(line.split(' '))
            .env("POOL_SYSTEM_LINKER", "./theirs");
        assert_eq!(command.output().unwrap().status.code(), Some(7), "{line}");
        assert_eq!(fs::read_to_string(yard.path("seen")).unwrap(), seen);
    }
}

/// cargo and rustc, which brings a linker of its own and is told to use the compiler's.
#[test]
fn rust_programs_are_linked() {
    let yard = Yard::new();
    yard.write(
        "main.rs",
        "fn main() { println!(\"{}\", [1, 2].iter().sum::<i32>()); }\n",
    );
    let common = "rustc -O main.rs -C link-arg=-Bbin -C linker-features=-lld";
    assert!(yard.done(&format!("{common} -o dynamic")).is_empty());
    assert_eq!(yard.done("./dynamic"), "3\n");
    let options = "-C relocation-model=static -C target-feature=+crt-static";
    let registry = "-C link-arg=-Wl,--pool-registry=addresses.json -C link-arg=-Wl,--pool-only";
    yard.done(&format!("{common} {options} {registry} -o static"));
    assert_eq!(yard.done("./static"), "3\n");
    assert!(yard.path("addresses.json").exists());
}
