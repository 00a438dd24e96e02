//! Speaks to a compiler's plugin (`liblto_plugin.so`, `LLVMgold.so`), which is loaded into this process.
//!
//! A plugin has one state a process, and so has this: one link at a time has plugins, and none after it where they cannot
//! be unloaded. All that is shared with one is in [`HOST`], which is never locked while a plugin runs, as it calls back.
//! Strings and files that a plugin is shown stay where they are as long as it is loaded, since nothing says how long it
//! looks at them.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::abi::{self, ClaimFile, Hook, InputFile, OnLoad, Status, Symbol, Transfer, Value, tag};
use super::{Answer, CodeSymbol, Source};
use crate::link::args::{LinkRequest, Plugin};
use crate::link::error::LinkError;

/// Most bytes of a message.
const MOST_SAID: usize = 4096;
/// Arguments of a message that are passed on: those that registers hold.
const MOST_ARGUMENTS: usize = 4;

static USED: AtomicBool = AtomicBool::new(false);
static HOST: Mutex<Host> = Mutex::new(Host::new());

/// What plugins said and were told.
struct Host {
    claims: Vec<ClaimFile>,
    readers: Vec<Hook>,
    cleaners: Vec<Hook>,
    /// By handle, which is one more than the place here: none is null.
    files: Vec<Shown>,
    /// `--wrap`.
    wrapped: Vec<CString>,
    made: Made,
    errors: Vec<String>,
}

impl Host {
    const fn new() -> Self {
        Self {
            claims: Vec::new(),
            readers: Vec::new(),
            cleaners: Vec::new(),
            files: Vec::new(),
            wrapped: Vec::new(),
            made: Made::new(),
            errors: Vec::new(),
        }
    }

    fn file(&mut self, handle: *const c_void) -> Option<&mut Shown> {
        self.files.get_mut(handle.addr().checked_sub(1)?)
    }
}

/// A file that a plugin was shown.
struct Shown {
    source: Source,
    name: CString,
    symbols: Vec<CodeSymbol>,
    /// None for a file that is not in the program.
    answers: Option<Vec<Answer>>,
    contents: Option<Vec<u8>>,
    open: Option<File>,
}

/// What a plugin made of intermediate code.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Objects, in order.
    pub(super) files: Vec<PathBuf>,
    /// Libraries that these need, without `-l`.
    pub(super) libraries: Vec<String>,
    /// What it said.
    pub(super) warnings: Vec<String>,
}

impl Made {
    const fn new() -> Self {
        Self {
            files: Vec::new(),
            libraries: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

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

fn clean() {
    let cleaners = std::mem::take(&mut host().cleaners);
    for clean in cleaners {
        // SAFETY: the plugin gave the function for this, it is called once, and the host is not locked.
        unsafe { clean() };
    }
}

fn host() -> MutexGuard<'static, Host> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
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
    for (tag, function) in [
        (tag::MESSAGE, message as *const c_void),
        (
            tag::REGISTER_CLAIM_FILE_HOOK,
            register_claim as *const c_void,
        ),
        (
            tag::REGISTER_ALL_SYMBOLS_READ_HOOK,
            register_reader as *const c_void,
        ),
        (
            tag::REGISTER_CLEANUP_HOOK,
            register_cleaner as *const c_void,
        ),
        (tag::ADD_SYMBOLS, add_symbols as *const c_void),
        (tag::ADD_SYMBOLS_V2, add_symbols as *const c_void),
        // They differ in answers that are not given here.
        (tag::GET_SYMBOLS, get_symbols as *const c_void),
        (tag::GET_SYMBOLS_V2, get_symbols as *const c_void),
        (tag::GET_SYMBOLS_V3, get_symbols as *const c_void),
        (tag::ADD_INPUT_FILE, add_file as *const c_void),
        (tag::ADD_INPUT_LIBRARY, add_library as *const c_void),
        (
            tag::SET_EXTRA_LIBRARY_PATH,
            set_library_path as *const c_void,
        ),
        (tag::GET_INPUT_FILE, get_file as *const c_void),
        (tag::RELEASE_INPUT_FILE, release_file as *const c_void),
        (tag::GET_VIEW, get_view as *const c_void),
        (tag::GET_WRAP_SYMBOLS, get_wrapped as *const c_void),
    ] {
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
    unsafe { text(libc::dlerror()) }.unwrap_or_default()
}

/// Copies a string.
///
/// # Safety
///
/// `from` is null or points at a string that ends.
unsafe fn text(from: *const c_char) -> Option<String> {
    if from.is_null() {
        return None;
    }
    // SAFETY: as said above.
    let text = unsafe { CStr::from_ptr(from) };
    Some(text.to_string_lossy().into_owned())
}

// What plugins call. None of these may panic: there is no way through C.

extern "C" fn register_claim(claim: ClaimFile) -> Status {
    host().claims.push(claim);
    abi::OK
}

extern "C" fn register_reader(reader: Hook) -> Status {
    host().readers.push(reader);
    abi::OK
}

extern "C" fn register_cleaner(cleaner: Hook) -> Status {
    host().cleaners.push(cleaner);
    abi::OK
}

extern "C" fn add_symbols(handle: *mut c_void, count: c_int, symbols: *const Symbol) -> Status {
    let count = usize::try_from(count).unwrap_or(0);
    if symbols.is_null() && count > 0 {
        return abi::FAILED;
    }
    let mut added = Vec::with_capacity(count);
    for at in 0..count {
        // SAFETY: the plugin says that there are `count` symbols, whose strings are null or end.
        let (symbol, name, key) = unsafe {
            let symbol = &*symbols.add(at);
            (symbol, text(symbol.name), text(symbol.comdat_key))
        };
        added.push(CodeSymbol::new(name.unwrap_or_default(), key, symbol));
    }
    match host().file(handle) {
        Some(file) => {
            file.symbols = added;
            abi::OK
        }
        None => abi::BAD_HANDLE,
    }
}

extern "C" fn get_symbols(handle: *const c_void, count: c_int, symbols: *mut Symbol) -> Status {
    let mut host = host();
    let Some(file) = host.file(handle) else {
        return abi::BAD_HANDLE;
    };
    let Some(answers) = &file.answers else {
        return abi::NO_SYMBOLS;
    };
    if usize::try_from(count) != Ok(answers.len()) {
        return abi::FAILED;
    }
    for (at, answer) in answers.iter().enumerate() {
        // SAFETY: the plugin has as many symbols as it asks for.
        unsafe { (*symbols.add(at)).resolution = *answer as c_int };
    }
    abi::OK
}

extern "C" fn add_file(path: *const c_char) -> Status {
    // SAFETY: the plugin gives a string.
    match unsafe { text(path) } {
        Some(path) => host().made.files.push(path.into()),
        None => return abi::FAILED,
    }
    abi::OK
}

extern "C" fn add_library(name: *const c_char) -> Status {
    // SAFETY: the plugin gives a string.
    match unsafe { text(name) } {
        Some(name) => host().made.libraries.push(name),
        None => return abi::FAILED,
    }
    abi::OK
}

/// The folders are the command line's.
extern "C" fn set_library_path(_: *const c_char) -> Status {
    abi::FAILED
}

extern "C" fn get_file(handle: *const c_void, file: *mut InputFile) -> Status {
    let mut host = host();
    let Some(shown) = host.file(handle) else {
        return abi::BAD_HANDLE;
    };
    let Ok(open) = shown.source.open() else {
        return abi::FAILED;
    };
    let found = InputFile {
        name: shown.name.as_ptr(),
        descriptor: open.as_raw_fd(),
        offset: shown.source.offset as i64,
        size: shown.source.size as i64,
        handle: handle.cast_mut(),
    };
    shown.open = Some(open);
    // SAFETY: the plugin has room for what it asks for.
    unsafe { file.write(found) };
    abi::OK
}

extern "C" fn release_file(handle: *const c_void) -> Status {
    match host().file(handle) {
        Some(shown) => {
            shown.open = None;
            abi::OK
        }
        None => abi::BAD_HANDLE,
    }
}

extern "C" fn get_view(handle: *const c_void, view: *mut *const c_void) -> Status {
    let mut host = host();
    let Some(shown) = host.file(handle) else {
        return abi::BAD_HANDLE;
    };
    if shown.contents.is_none() {
        shown.contents = shown.source.read();
    }
    let Some(contents) = &shown.contents else {
        return abi::FAILED;
    };
    // SAFETY: the plugin has room for a pointer. The contents are never changed, nor freed.
    unsafe { view.write(contents.as_ptr().cast()) };
    abi::OK
}

extern "C" fn get_wrapped(count: *mut u64, names: *mut *const *const c_char) -> Status {
    let host = host();
    let all: Vec<*const c_char> = host.wrapped.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the plugin has room for both. The names stay with the host, and the list is never freed.
    unsafe {
        count.write(all.len() as u64);
        names.write(all.leak().as_ptr());
    }
    abi::OK
}

/// `message(level, format, ...)`. Of its arguments those are taken that a variadic call has in registers, as it has those
/// of any other (System V ABI for x86-64, 3.2.3); more are not looked at.
extern "C" fn message(
    level: c_int,
    format: *const c_char,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
) -> Status {
    // SAFETY: the plugin gives a string.
    let Some(plain) = (unsafe { text(format) }) else {
        return abi::FAILED;
    };
    let text = if takes_words(&plain) {
        let mut said = [0u8; MOST_SAID];
        // SAFETY: the format is the plugin's own with the arguments it gave, which are as many as it names and are
        // integers and pointers; the text is cut to `said`.
        unsafe {
            libc::snprintf(
                said.as_mut_ptr().cast(),
                MOST_SAID,
                format,
                first,
                second,
                third,
                fourth,
            );
        }
        let said = CStr::from_bytes_until_nul(&said).unwrap_or_default();
        said.to_string_lossy().into_owned()
    } else {
        plain
    };
    match level {
        abi::FATAL => give_up(&text),
        abi::ERROR => host().errors.push(text),
        abi::WARNING => host().made.warnings.push(text),
        _ => {}
    }
    abi::OK
}

/// True for a format that no more than [`MOST_ARGUMENTS`] words go into.
fn takes_words(format: &str) -> bool {
    let plain = format.replace("%%", "");
    let each = plain.split('%').skip(1);
    let is_word = |rest: &str| {
        let end = rest.find(|c: char| c.is_ascii_alphabetic() && !"hlqjzt".contains(c));
        end.is_some_and(|end| {
            let is_number = rest[..end]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "#-+ .".contains(c));
            is_number && "diouxXcsp".contains(&rest[end..=end])
        })
    };
    plain.matches('%').count() <= MOST_ARGUMENTS && each.into_iter().all(is_word)
}

/// A plugin that says that it cannot go on does not expect to be asked to: nothing of it may run again but what removes
/// its files.
fn give_up(text: &str) -> ! {
    eprintln!("pool link: {text}");
    clean();
    std::process::exit(1);
}

impl Source {
    fn open(&self) -> Result<File, LinkError> {
        File::open(&self.path).map_err(|source| LinkError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn read(&self) -> Option<Vec<u8>> {
        let mut file = self.open().ok()?;
        file.seek(SeekFrom::Start(self.offset)).ok()?;
        let mut bytes = Vec::new();
        file.take(self.size).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == self.size).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::takes_words;

    #[test]
    fn formats_of_few_words_are_told() {
        for (format, expected) in [
            ("lto-wrapper failed", true),
            ("%s: %i of %lu, 100%%", true),
            ("%s%s%s%s", true),
            ("%s%s%s%s%s", false),
            ("%f", false),
            ("%*d", false),
            ("%n", false),
            ("%", false),
        ] {
            assert_eq!(takes_words(format), expected, "{format}");
        }
    }
}
