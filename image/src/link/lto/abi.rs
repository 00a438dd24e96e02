//! What a linker and a plugin have in common: the types of `plugin-api.h` (binutils and GCC, `include/`).

use std::ffi::{c_char, c_int, c_void};

/// `ld_plugin_status`.
pub(super) type Status = c_int;
pub(super) const OK: Status = 0;
/// The file is not in the program.
pub(super) const NO_SYMBOLS: Status = 1;
pub(super) const BAD_HANDLE: Status = 2;
pub(super) const FAILED: Status = 3;

/// Tags of a transfer vector's entries (`LDPT_*`).
pub(super) mod tag {
    use std::ffi::c_int;

    pub(in super::super) const END: c_int = 0;
    pub(in super::super) const API_VERSION: c_int = 1;
    pub(in super::super) const LINKER_OUTPUT: c_int = 3;
    pub(in super::super) const OPTION: c_int = 4;
    pub(in super::super) const REGISTER_CLAIM_FILE_HOOK: c_int = 5;
    pub(in super::super) const REGISTER_ALL_SYMBOLS_READ_HOOK: c_int = 6;
    pub(in super::super) const REGISTER_CLEANUP_HOOK: c_int = 7;
    pub(in super::super) const ADD_SYMBOLS: c_int = 8;
    pub(in super::super) const GET_SYMBOLS: c_int = 9;
    pub(in super::super) const ADD_INPUT_FILE: c_int = 10;
    pub(in super::super) const MESSAGE: c_int = 11;
    pub(in super::super) const GET_INPUT_FILE: c_int = 12;
    pub(in super::super) const RELEASE_INPUT_FILE: c_int = 13;
    pub(in super::super) const ADD_INPUT_LIBRARY: c_int = 14;
    pub(in super::super) const OUTPUT_NAME: c_int = 15;
    pub(in super::super) const SET_EXTRA_LIBRARY_PATH: c_int = 16;
    pub(in super::super) const GNU_LD_VERSION: c_int = 17;
    pub(in super::super) const GET_VIEW: c_int = 18;
    pub(in super::super) const GET_SYMBOLS_V2: c_int = 25;
    pub(in super::super) const GET_SYMBOLS_V3: c_int = 28;
    pub(in super::super) const GET_WRAP_SYMBOLS: c_int = 32;
    pub(in super::super) const ADD_SYMBOLS_V2: c_int = 33;
}

pub(super) const API_VERSION: c_int = 1;
/// `LDPO_EXEC`.
pub(super) const EXECUTABLE: c_int = 1;
/// 2.40, as that is whose ways are followed.
pub(super) const AS_GNU_LD: c_int = 240;

/// Levels of messages (`LDPL_*`).
pub(super) const WARNING: c_int = 1;
pub(super) const ERROR: c_int = 2;
pub(super) const FATAL: c_int = 3;

/// An entry of a transfer vector (`ld_plugin_tv`).
#[repr(C)]
pub(super) struct Transfer {
    pub(super) tag: c_int,
    pub(super) value: Value,
}

#[repr(C)]
pub(super) union Value {
    pub(super) number: c_int,
    pub(super) pointer: *const c_void,
}

/// `ld_plugin_input_file`.
#[repr(C)]
pub(super) struct InputFile {
    pub(super) name: *const c_char,
    pub(super) descriptor: c_int,
    pub(super) offset: i64,
    pub(super) size: i64,
    pub(super) handle: *mut c_void,
}

/// `ld_plugin_symbol`.
#[repr(C)]
pub(super) struct Symbol {
    pub(super) name: *mut c_char,
    pub(super) version: *mut c_char,
    /// `LDPK_*`.
    pub(super) kind: u8,
    /// `LDST_*`; zero from [`tag::ADD_SYMBOLS`].
    pub(super) of: u8,
    pub(super) section_kind: u8,
    pub(super) unused: u8,
    /// `LDPV_*`.
    pub(super) visibility: c_int,
    pub(super) size: u64,
    pub(super) comdat_key: *mut c_char,
    /// `LDPR_*`.
    pub(super) resolution: c_int,
}

pub(super) type ClaimFile = unsafe extern "C" fn(*const InputFile, *mut c_int) -> Status;
pub(super) type Hook = unsafe extern "C" fn() -> Status;
pub(super) type OnLoad = unsafe extern "C" fn(*mut Transfer) -> Status;
