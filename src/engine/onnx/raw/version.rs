//! The exact version of a library, which ort keeps to itself.

use ort::sys::OrtApiBase;
use std::ffi::CStr;
use std::path::Path;

/// The version of a library that ort has opened already, e.g. `1.31.1`.
pub(in super::super) fn library_version(path: &Path) -> Option<String> {
    // SAFETY: ort opened the same library before and keeps it, so this runs no code of the library's start again.
    let library = unsafe { libloading::Library::new(path) }.ok()?;
    // SAFETY: the type is the one of ONNX Runtime's C header for this name.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") }.ok()?;
    // SAFETY: the function takes nothing and gives a table that lives as long as the library, or null.
    let table = unsafe { base().as_ref() }?;
    // SAFETY: the string is a constant of the library, ended by NUL.
    let version = unsafe { CStr::from_ptr((table.GetVersionString)()) };
    Some(version.to_string_lossy().into_owned())
}
