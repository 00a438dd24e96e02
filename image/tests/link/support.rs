//! Compilers, guests and a place for files.
#![allow(clippy::unwrap_used)] // Helpers of tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use pool_image::link::{LinkRequest, Linked, parse_args};
use pool_tests::source_directory;

/// A compiler driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    Musl,
    Gnu,
    Cxx,
}

impl Compiler {
    fn program(self) -> &'static str {
        match self {
            Self::Musl => "musl-gcc",
            Self::Gnu => "gcc",
            Self::Cxx => "g++",
        }
    }
}

/// The folder of the guests, built once.
pub(crate) fn guests() -> &'static Path {
    static GUESTS: OnceLock<PathBuf> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let script = source_directory().join("tests/guests/build.sh");
        done(Command::new(script).arg(&folder));
        folder
    })
}

/// A source beside this file.
pub(crate) fn source(name: &str) -> PathBuf {
    source_directory().join("image/tests/link").join(name)
}

fn done(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a program prints; it must succeed.
pub(crate) fn run(program: &Path, name: &str) -> String {
    use std::os::unix::process::CommandExt;
    let output = Command::new(program).arg0(name).output().unwrap();
    assert!(output.status.success(), "{name}: {:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A folder for one test's files, removed at its end.
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // In place of a linker: records what the compiler driver passes to one, and keeps the
        // response files that it will remove.
        let recorder = folder.path().join("ld");
        std::fs::write(
            &recorder,
            "#!/bin/sh\n\
             number=0\n\
             for argument; do\n\
               case $argument in @*)\n\
                 number=$((number + 1))\n\
                 cp \"${argument#@}\" \"$RECORDED_ARGUMENTS.$number\"\n\
                 argument=@$RECORDED_ARGUMENTS.$number\n\
               esac\n\
               printf '%s\\n' \"$argument\"\n\
             done >\"$RECORDED_ARGUMENTS\"\n",
        )
        .unwrap();
        std::fs::set_permissions(&recorder, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a compiler driver asks a linker for, given its own arguments; all archives are libraries.
    pub(crate) fn request(&self, compiler: Compiler, arguments: &[&str]) -> LinkRequest {
        let mut arguments = self.linker_arguments(compiler, arguments);
        arguments.push("--pool-libraries=all".to_owned());
        parse_args(&arguments).unwrap()
    }

    pub(crate) fn linker_arguments(&self, compiler: Compiler, arguments: &[&str]) -> Vec<String> {
        let recorded = self.path("arguments");
        // Sources would be temporary objects, gone by the time they are linked.
        let mut inputs = Vec::new();
        for argument in arguments {
            if Path::new(argument).extension().is_some_and(|e| e == "cc") {
                let object = self.path("source.o").display().to_string();
                done(Command::new(compiler.program()).args(["-O2", "-c", argument, "-o", &object]));
                inputs.push(object);
            } else {
                inputs.push((*argument).to_owned());
            }
        }
        done(
            Command::new(compiler.program())
                .arg("-B")
                .arg(self.folder.path())
                .args(&inputs)
                .arg("-o")
                .arg(self.path("out"))
                .env("RECORDED_ARGUMENTS", &recorded),
        );
        let text = std::fs::read_to_string(recorded).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The same program linked by the system's linker.
    pub(crate) fn reference(&self, compiler: Compiler, arguments: &[&str]) -> PathBuf {
        let program = self.path("reference");
        done(
            Command::new(compiler.program())
                .args(arguments)
                .arg("-o")
                .arg(&program),
        );
        program
    }

    /// Compiles C text and returns the object's path.
    pub(crate) fn compile(&self, compiler: Compiler, name: &str, text: &str) -> String {
        let (source, object) = (
            self.path(&format!("{name}.c")),
            self.path(&format!("{name}.o")),
        );
        std::fs::write(&source, text).unwrap();
        done(
            Command::new(compiler.program())
                .args(["-O2", "-c"])
                .arg(&source)
                .arg("-o")
                .arg(&object),
        );
        object.display().to_string()
    }

    pub(crate) fn archive(&self, name: &str, objects: &[&str]) -> String {
        let archive = self.path(name);
        let _ = std::fs::remove_file(&archive);
        done(Command::new("ar").arg("rcs").arg(&archive).args(objects));
        archive.display().to_string()
    }

    /// Compiles the sources around `features.c` and links them with the system's linker.
    pub(crate) fn features(&self, compiler: Compiler, number: usize, options: &str) -> PathBuf {
        let folder = self.path(&format!("features-{compiler:?}-{number}"));
        std::fs::create_dir(&folder).unwrap();
        let object = |name: &str| folder.join(format!("{name}.o")).display().to_string();
        for name in [
            "features",
            "features-lib",
            "features-set",
            "features-unneeded",
        ] {
            let mut command = Command::new(compiler.program());
            command.args(options.split(' '));
            if compiler == Compiler::Gnu {
                command.arg("-DHAVE_IFUNC");
            }
            let source = source(&format!("{name}.c"));
            done(command.arg("-c").arg(source).arg("-o").arg(object(name)));
        }
        let archive = folder.join("libfeatures.a");
        let members = ["features-lib", "features-unneeded", "features-set"].map(object);
        done(Command::new("ar").arg("rcs").arg(&archive).args(members));
        done(
            Command::new(compiler.program())
                .arg("-static")
                .arg(object("features"))
                .arg(&archive)
                .arg("-o")
                .arg(folder.join("reference")),
        );
        folder
    }

    /// Writes an executable and returns its path.
    pub(crate) fn install(&self, name: &str, linked: &Linked) -> PathBuf {
        let program = self.path(&format!("{name}.elf"));
        let _ = std::fs::remove_file(&program);
        std::fs::write(&program, &linked.elf).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }
}
