//! The C ABI of bridge.h, in Rust on top of libpycrew: what examples/bridge/bridge.c is in C.
//!
//! The functions of math_ops.py, python_add and its kin, are not to be seen here: build/main.rs makes them
//! from bridge.h, which has their types. What they do stands in `answer`.
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(clippy::missing_safety_doc)]

pub mod crew;
pub mod sys;
mod value;

#[cfg(test)]
mod tests;

use crew::{Crew, Error, FromPython, Options, Result};
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{PoisonError, RwLock};

#[allow(non_camel_case_types)]
mod exports {
    use super::{answer, python_close, python_last_error, python_open};
    #[allow(unused_imports)]
    use std::os::raw::*;

    include!(concat!(env!("OUT_DIR"), "/bridge.rs"));
}
pub use exports::*;

/// Who calls Python reads it, so python_close waits until they have come back.
static CREW: RwLock<Option<Crew>> = RwLock::new(None);

// ---- the last error ----

struct Last {
    error: python_error,
    _texts: Vec<CString>, // what `error` points to
}

const NOTHING: python_error = python_error {
    code: 0,
    r#type: ptr::null(),
    message: b"\0".as_ptr().cast(),
    traceback: ptr::null(),
    signal: 0,
    may_have_run: 0,
};

struct Constant(python_error);
// SAFETY: nobody writes to it, and what it points to is a literal.
unsafe impl Sync for Constant {}
static NO_ERROR: Constant = Constant(NOTHING);

thread_local! {
    static LAST: UnsafeCell<Last> = const { UnsafeCell::new(Last { error: NOTHING, _texts: Vec::new() }) };
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// Keeps it for python_last_error; its code.
fn note(error: Error) -> c_int {
    let text = |text: String| CString::new(text.replace('\0', "?")).unwrap_or_default();
    let (exception, traceback) = (error.exception.map(text), error.traceback.map(text));
    let message = text(error.message);
    let c = python_error {
        code: error.code,
        r#type: pointer(&exception),
        message: message.as_ptr(),
        traceback: pointer(&traceback),
        signal: error.signal,
        may_have_run: error.may_have_run.into(),
    };
    let texts = [Some(message), exception, traceback].into_iter().flatten().collect();

    // SAFETY: no reference to it outlives a function of ours, and C has its pointer until here. A thread that
    // is at its end has no last error any more.
    let _ = LAST.try_with(|last| unsafe { *last.get() = Last { error: c, _texts: texts } });
    error.code
}

#[no_mangle]
pub extern "C" fn python_last_error() -> *const python_error {
    LAST.try_with(|last| last.get() as *const Last)
        // SAFETY: the address of a field of something that is there.
        .map_or(&NO_ERROR.0, |last| unsafe { ptr::addr_of!((*last).error) })
}

// ---- from C and back ----

/// Nothing may unwind into C: a panic is an error like others. (It has said so on stderr.)
fn guard(work: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => note(error),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            note(Error::new(-sys::ENOTRECOVERABLE, format!("a panic: {}", text.unwrap_or("of some kind"))))
        }
    }
}

/// Stores what `call` returns.
///
/// SAFETY: ret is NULL or has room for one.
unsafe fn answer<T: FromPython>(ret: *mut T, call: impl FnOnce(&Crew) -> Result<T>) -> c_int {
    guard(|| {
        if ret.is_null() {
            return Err(Error::new(-sys::EINVAL, "ret must not be NULL"));
        }
        let crew = CREW.read().unwrap_or_else(PoisonError::into_inner);
        let crew =
            crew.as_ref().ok_or_else(|| Error::new(-sys::ENOTCONN, "python_open has not been called"))?;
        let value = call(crew)?;
        // SAFETY: as the caller said.
        unsafe { ret.write(value) };
        Ok(())
    })
}

/// # Safety
/// folder is a C string.
#[no_mangle]
pub unsafe extern "C" fn python_open(folder: *const c_char) -> c_int {
    guard(|| {
        if folder.is_null() {
            return Err(Error::new(-sys::EINVAL, "folder must not be NULL"));
        }
        // SAFETY: it is a C string.
        let folder = unsafe { CStr::from_ptr(folder) };
        let folder =
            folder.to_str().map_err(|_| Error::new(-sys::EINVAL, "the folder's name is not UTF-8"))?;
        let mut crew = CREW.write().unwrap_or_else(PoisonError::into_inner);
        if crew.is_some() {
            return Err(Error::new(-sys::EALREADY, "python_open has been called before"));
        }
        *crew = Some(Crew::open(Options { path: vec![folder.into()], ..Options::default() })?);
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn python_close() {
    guard(|| {
        let crew = CREW.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(crew);
        Ok(())
    });
}
