//! What a plugin and the linker know of each other, and what a plugin calls.
//!
//! All that is shared is in [`HOST`], which is never locked while a plugin runs, as it calls back. Strings and files that a
//! plugin is shown stay where they are as long as it is loaded, since nothing says how long it looks at them.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use goblin::elf::sym::{STT_FUNC, STT_NOTYPE, STT_OBJECT};
use goblin::elf::sym::{STV_DEFAULT, STV_HIDDEN, STV_INTERNAL, STV_PROTECTED};

use super::abi::{self, ClaimFile, Hook, InputFile, Status, Symbol, tag};
use super::answers::Answer;
use crate::link::intermediate::{CodeSymbol, Kind};
use crate::link::source::Source;

/// Most bytes of a message.
const MOST_SAID: usize = 4096;
/// Arguments of a message that are passed on: those that registers hold.
const MOST_ARGUMENTS: usize = 4;

static HOST: Mutex<Host> = Mutex::new(Host::new());

/// What plugins said and were told.
pub(super) struct Host {
    pub(super) claims: Vec<ClaimFile>,
    pub(super) readers: Vec<Hook>,
    pub(super) cleaners: Vec<Hook>,
    /// By handle, which is one more than the place here: none is null.
    pub(super) files: Vec<Shown>,
    /// `--wrap`.
    pub(super) wrapped: Vec<CString>,
    pub(super) made: Made,
    pub(super) errors: Vec<String>,
}

impl Host {
    pub(super) const fn new() -> Self {
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

    pub(super) fn file(&mut self, handle: *const c_void) -> Option<&mut Shown> {
        self.files.get_mut(handle.addr().checked_sub(1)?)
    }
}

/// A file that a plugin was shown.
pub(super) struct Shown {
    pub(super) source: Source,
    pub(super) name: CString,
    pub(super) symbols: Vec<CodeSymbol>,
    /// None for a file that is not in the program.
    pub(super) answers: Option<Vec<Answer>>,
    pub(super) contents: Option<Vec<u8>>,
    pub(super) open: Option<File>,
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

pub(super) fn clean() {
    let cleaners = std::mem::take(&mut host().cleaners);
    for clean in cleaners {
        // SAFETY: the plugin gave the function for this, it is called once, and the host is not locked.
        unsafe { clean() };
    }
}

pub(super) fn host() -> MutexGuard<'static, Host> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a plugin is told that it can call, each with its tag.
pub(super) fn callbacks() -> Vec<(c_int, *const c_void)> {
    vec![
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
    ]
}

/// Copies a string.
///
/// # Safety
///
/// `from` is null or points at a string that ends.
pub(super) unsafe fn text(from: *const c_char) -> Option<String> {
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
        added.push(code_symbol(name.unwrap_or_default(), key, symbol));
    }
    match host().file(handle) {
        Some(file) => {
            file.symbols = added;
            abi::OK
        }
        None => abi::BAD_HANDLE,
    }
}

/// A symbol as a plugin tells it.
pub(super) fn code_symbol(name: String, comdat_key: Option<String>, from: &Symbol) -> CodeSymbol {
    let kind = match from.kind {
        0 => Kind::Defined,
        1 => Kind::WeaklyDefined,
        3 => Kind::WeaklyUndefined,
        4 => Kind::Common,
        _ => Kind::Undefined,
    };
    CodeSymbol {
        name,
        kind,
        of: match from.of {
            1 => STT_FUNC,
            2 => STT_OBJECT,
            _ => STT_NOTYPE,
        },
        visibility: match from.visibility {
            1 => STV_PROTECTED,
            2 => STV_INTERNAL,
            3 => STV_HIDDEN,
            _ => STV_DEFAULT,
        },
        size: from.size,
        comdat_key: comdat_key.filter(|key| !key.is_empty()),
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
