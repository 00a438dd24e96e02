//! Loads compilers' plugins (`liblto_plugin.so`, `LLVMgold.so`) into this process, and has them work.
//!
//! A plugin has one state a process, and so has this: one link at a time has plugins, and none after it where they cannot
//! be unloaded.

use std::ffi::{CString, c_int, c_void};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::{self, InputFile, OnLoad, Transfer, Value, tag};
use super::answers::Answer;
use super::host::{self, Host, Made, Shown, clean, host};
use crate::link::args::{LinkRequest, Plugin};
use crate::link::error::LinkError;
use crate::link::intermediate::CodeSymbol;
use crate::link::source::Source;

static USED: AtomicBool = AtomicBool::new(false);
/// The plugins of this link. Their temporary files are gone with it.
#[derive(Debug)]
pub(super) struct Plugins<'r> {
    request: &'r LinkRequest,
    named: String,
    loaded: Vec<Library>,
}

/// A shared library, as the loader knows it.
#[derive(Debug)]
struct Library(*mut c_void);

impl<'r> Plugins<'r> {
    /// Loads what the command line names.
    pub(super) fn load(request: &'r LinkRequest) -> Result<Self, LinkError> {
        let named: Vec<String> = request
            .plugins
            .iter()
            .map(|plugin| plugin.path.display().to_string())
            .collect();
        let fault =
            |problem: &str| LinkError::option(format!("-plugin {}", named.join(", ")), problem);
        if USED.swap(true, Ordering::SeqCst) {
            return Err(fault(
                "another link of this process uses it, or did and cannot unload it: start another process",
            ));
        }
        let mut plugins = Self {
            request,
            named: named.join(", "),
            loaded: Vec::new(),
        };
        let wrapped = request.wrapped.iter();
        host().wrapped = wrapped
            .filter_map(|name| CString::new(name.as_str()).ok())
            .collect();
        plugins.load_all()?;
        Ok(plugins)
    }

    fn load_all(&mut self) -> Result<(), LinkError> {
        for plugin in &self.request.plugins {
            self.loaded.push(load(plugin, &self.request.output)?);
        }
        self.check()
    }

    /// Starts anew, so that what was claimed is not: a plugin may compile all that it claimed, whether it is in the
    /// program or not (GCC's before version 13). False where the plugin stays, which LLVM's does, and which leaves out
    /// what is not.
    pub(super) fn forget(&mut self) -> Result<bool, LinkError> {
        // Of several, one could stay.
        let [plugin] = self.request.plugins.as_slice() else {
            return Ok(false);
        };
        let Some(library) = self.loaded.pop() else {
            return Ok(false);
        };
        if let Some(library) = library.unload(&plugin.path) {
            self.loaded.push(library);
            return Ok(false);
        }
        let wrapped = std::mem::take(&mut host().wrapped);
        // Its functions are gone.
        *host() = Host {
            wrapped,
            ..Host::new()
        };
        self.load_all()?;
        Ok(true)
    }

    /// Shows a file to the plugins. If one of them takes it, the file's handle and symbols.
    pub(super) fn claim(
        &self,
        source: &Source,
    ) -> Result<Option<(usize, Vec<CodeSymbol>)>, LinkError> {
        let Ok(name) = CString::new(source.path.as_os_str().as_bytes()) else {
            return Ok(None);
        };
        let file = source.open()?;
        let (handle, claims, shown_name) = {
            let mut host = host();
            let shown_name = name.as_ptr();
            host.files.push(Shown {
                source: source.clone(),
                name,
                symbols: Vec::new(),
                answers: None,
                contents: None,
                open: None,
            });
            (host.files.len(), host.claims.clone(), shown_name)
        };
        let shown = InputFile {
            name: shown_name,
            descriptor: file.as_raw_fd(),
            offset: source.offset as i64,
            size: source.size as i64,
            handle: std::ptr::without_provenance_mut(handle),
        };
        let mut claimed = 0;
        for claim in claims {
            // SAFETY: the plugin gave the function for this; `shown` and `claimed` outlive the call, the name is of the
            // host's and stays, and the host is not locked.
            let status = unsafe { claim(&raw const shown, &raw mut claimed) };
            self.check()?;
            if status != abi::OK {
                return Err(self.fault(format!("fails to read {}", source.path.display())));
            }
            if claimed != 0 {
                break;
            }
        }
        let symbols = host()
            .file(shown.handle)
            .map(|file| std::mem::take(&mut file.symbols));
        Ok(symbols
            .filter(|_| claimed != 0)
            .map(|symbols| (handle - 1, symbols)))
    }

    /// Has intermediate code compiled. `answers` are by handle: what each symbol of a file is in the program, none for
    /// a file that is not in it.
    pub(super) fn compile(&self, answers: Vec<Option<Vec<Answer>>>) -> Result<Made, LinkError> {
        let readers = {
            let mut host = host();
            for (file, answers) in host.files.iter_mut().zip(answers) {
                file.answers = answers;
            }
            host.readers.clone()
        };
        for read in readers {
            // SAFETY: the plugin gave the function for this, and the host is not locked.
            let status = unsafe { read() };
            self.check()?;
            if status != abi::OK {
                return Err(self.fault("fails to compile the intermediate code"));
            }
        }
        Ok(std::mem::take(&mut host().made))
    }

    /// What the plugins called an error is one.
    fn check(&self) -> Result<(), LinkError> {
        let errors = std::mem::take(&mut host().errors);
        if errors.is_empty() {
            return Ok(());
        }
        Err(self.fault(format!("says: {}", errors.join("; "))))
    }

    fn fault(&self, problem: impl Into<String>) -> LinkError {
        LinkError::option(format!("-plugin {}", self.named), problem)
    }
}

impl Drop for Plugins<'_> {
    fn drop(&mut self) {
        clean();
        let all = self.loaded.drain(..).zip(&self.request.plugins);
        let kept = all.filter_map(|(library, plugin)| library.unload(&plugin.path));
        if kept.count() == 0 {
            *host() = Host::new();
            USED.store(false, Ordering::SeqCst);
        }
    }
}

impl Library {
    /// Unloads it, if nothing else keeps it: then it has no state any more. Otherwise it is as it was.
    fn unload(self, path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: it was opened, and if it goes, nothing of it is used again: see `forget`.
        unsafe { libc::dlclose(self.0) };
        // SAFETY: `path` is a string, and nothing is loaded that is not there.
        let still = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        (!still.is_null()).then_some(Self(still))
    }
}

fn load(plugin: &Plugin, output: &Path) -> Result<Library, LinkError> {
    let fault =
        |problem: String| LinkError::option(format!("-plugin {}", plugin.path.display()), problem);
    let string = |text: &[u8]| match CString::new(text) {
        // The plugin may keep it.
        Ok(text) => Ok(text.into_raw().cast_const()),
        Err(_) => Err(fault("a zero byte in its options".to_owned())),
    };
    let path = string(plugin.path.as_os_str().as_bytes())?;
    let mut transfers = vec![
        number(tag::API_VERSION, abi::API_VERSION),
        number(tag::GNU_LD_VERSION, abi::AS_GNU_LD),
        number(tag::LINKER_OUTPUT, abi::EXECUTABLE),
        pointer(
            tag::OUTPUT_NAME,
            string(output.as_os_str().as_bytes())?.cast(),
        ),
    ];
    for option in &plugin.options {
        transfers.push(pointer(tag::OPTION, string(option.as_bytes())?.cast()));
    }
    for (tag, function) in host::callbacks() {
        transfers.push(pointer(tag, function));
    }
    transfers.push(number(tag::END, 0));

    // SAFETY: `path` is a string. What a plugin does when it is loaded is the compiler's, as with every linker; it is
    // named by whoever links.
    let library = unsafe { libc::dlopen(path, libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(fault(format!(
            "cannot be loaded: {}; it is the compiler's, and named by it when it links",
            loading_error()
        )));
    }
    // SAFETY: `library` was opened.
    let found = unsafe { libc::dlsym(library, c"onload".as_ptr()) };
    if found.is_null() {
        return Err(fault(
            "is no linker plugin: it has no function onload".to_owned(),
        ));
    }
    // SAFETY: a linker plugin's `onload` is of this type, and a function pointer is as large as any other.
    let onload = unsafe { std::mem::transmute::<*mut c_void, OnLoad>(found) };
    // SAFETY: the vector ends with its end's tag, each entry has what its tag says, and the host is not locked.
    let status = unsafe { onload(transfers.as_mut_ptr()) };
    if status != abi::OK {
        return Err(fault("does not work with this linker".to_owned()));
    }
    Ok(Library(library))
}

fn number(tag: c_int, number: c_int) -> Transfer {
    let mut value = Value {
        pointer: std::ptr::null(),
    };
    value.number = number;
    Transfer { tag, value }
}

fn pointer(tag: c_int, pointer: *const c_void) -> Transfer {
    Transfer {
        tag,
        value: Value { pointer },
    }
}

fn loading_error() -> String {
    // SAFETY: the string is copied before anything else is loaded.
    unsafe { host::text(libc::dlerror()) }.unwrap_or_default()
}
