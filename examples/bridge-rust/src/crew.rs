//! Python functions in worker processes, from safe Rust: pycrew.h with owners, lifetimes and results.
//!
//! ```
//! use bridge::crew::{Crew, Options};
//!
//! let crew = Crew::open(Options::default())?;
//! let ways: i64 = crew.run("math:comb", (10, 4))?;
//! assert_eq!(ways, 210);
//!
//! let later = crew.start::<f64, _>("math:hypot", (3, 4))?; // runs while this thread does something else
//! assert_eq!(later.wait()?, 5.0);
//! # Ok::<(), bridge::crew::Error>(())
//! ```

use crate::sys;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::raw::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::time::Duration;
use std::{error, fmt, slice};

pub use crate::value::{Arguments, Builder, Bytes, FromPython, ToPython, Value};

pub type Result<T> = std::result::Result<T, Error>;

// ---- errors ----

/// What went wrong, with texts of its own: those of the library live only until this thread's next call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: i32,
    pub exception: Option<String>, // "json.decoder.JSONDecodeError"; None: it was none
    pub message: String,
    pub traceback: Option<String>,
    pub signal: i32, // that killed the worker, else 0
    pub exit_status: i32,
    pub may_have_run: bool, // false: the function was certainly never entered
}

impl Error {
    pub fn new(code: i32, message: impl Into<String>) -> Error {
        Error {
            code,
            exception: None,
            message: message.into(),
            traceback: None,
            signal: 0,
            exit_status: 0,
            may_have_run: false,
        }
    }

    /// Of this thread's last function that failed: to be asked for before it calls another.
    fn last() -> Error {
        // SAFETY: never NULL, and it and its texts live until this thread's next pycrew function.
        unsafe {
            let error = &*sys::pycrew_last_error();
            Error {
                code: error.code,
                exception: text(error.r#type),
                message: text(error.message).unwrap_or_default(),
                traceback: text(error.traceback),
                signal: error.signal,
                exit_status: error.exit_status,
                may_have_run: error.may_have_run,
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exception {
            Some(exception) => write!(f, "{exception}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl error::Error for Error {}

/// SAFETY: `at` is NULL or a C string.
unsafe fn text(at: *const c_char) -> Option<String> {
    // SAFETY: as the caller said.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}

pub(crate) fn check(code: c_int) -> Result<c_int> {
    if code < 0 {
        Err(Error::last())
    } else {
        Ok(code)
    }
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(-sys::EINVAL, format!("a NUL inside of {text:?}")))
}

// ---- the crew ----

/// Called with a level (PYCREW_LOG_...) and a line, by the crew's threads: hence Send and Sync.
pub type Log = Box<dyn Fn(i32, &str) + Send + Sync>;

/// Those of pycrew_options that this example needs; 0, empty and None are the defaults.
#[derive(Default)]
pub struct Options {
    pub workers: u32,
    pub path: Vec<String>,
    pub preload: Vec<String>,
    pub calls: u32,
    pub timeout: Option<Duration>,
    pub log: Option<Log>,
}

/// Workers, until it is dropped.
///
/// A call cannot outlive its crew:
/// ```compile_fail,E0505
/// # use bridge::crew::{Crew, Options};
/// let crew = Crew::open(Options::default()).unwrap();
/// let call = crew.start::<i64, _>("math:comb", (10, 4)).unwrap();
/// drop(crew);
/// call.wait().unwrap();
/// ```
/// nor be returned from where its crew ends:
/// ```compile_fail,E0515
/// # use bridge::crew::{Call, Crew, Options};
/// fn start() -> Call<'static, i64> {
///     let crew = Crew::open(Options::default()).unwrap();
///     crew.start("math:comb", (10, 4)).unwrap()
/// }
/// ```
/// In this order it compiles:
/// ```
/// # use bridge::crew::{Crew, Options};
/// let crew = Crew::open(Options::default()).unwrap();
/// let call = crew.start::<i64, _>("math:comb", (10, 4)).unwrap();
/// call.wait().unwrap();
/// drop(crew);
/// ```
pub struct Crew {
    raw: NonNull<sys::pycrew_crew>,
    _log: Option<Box<Log>>, // the library has its address until pycrew_close
}

// SAFETY: "Everything is thread-safe" but single calls, batches and queues (pycrew.h, Threads), and nothing in
// a crew belongs to the thread that opened it. The log is Send and Sync by its type.
unsafe impl Send for Crew {}
unsafe impl Sync for Crew {}

/// The texts of an option, and the list that ends with NULL.
struct List {
    _texts: Vec<CString>, // what `pointers` point to
    pointers: Vec<*const c_char>,
}

impl List {
    fn new(texts: &[String]) -> Result<List> {
        let texts = texts.iter().map(|text| c_string(text)).collect::<Result<Vec<_>>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(List { _texts: texts, pointers })
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// SAFETY: data is the Log that was given to pycrew_open, and line a C string.
unsafe extern "C" fn log_line(data: *mut c_void, level: c_int, line: *const c_char) {
    // SAFETY: as the library promises, see above.
    let (log, line) = unsafe { (&*(data as *const Log), CStr::from_ptr(line).to_string_lossy()) };

    // It may not unwind into C. What panicked has said so on stderr.
    let _ = catch_unwind(AssertUnwindSafe(|| log(level, &line)));
}

impl Crew {
    pub fn open(options: Options) -> Result<Crew> {
        let (path, preload) = (List::new(&options.path)?, List::new(&options.preload)?);
        let log = options.log.map(Box::new);
        let mut raw = ptr::null_mut();

        // SAFETY: zeros are PYCREW_OPTIONS_INIT but for the size. pycrew_open copies all but the log's data,
        // which lives in this crew, on the heap, until behind pycrew_close.
        unsafe {
            let mut c: sys::pycrew_options = MaybeUninit::zeroed().assume_init();
            c.size = std::mem::size_of_val(&c);
            c.workers = options.workers;
            c.path = path.pointers.as_ptr();
            c.preload = preload.pointers.as_ptr();
            c.calls = options.calls;
            c.timeout_ns = options.timeout.map_or(0, nanoseconds);
            if let Some(log) = &log {
                c.log = Some(log_line);
                c.log_data = &**log as *const Log as *mut c_void;
            }
            check(sys::pycrew_open(&mut raw, &c))?;
        }
        Ok(Crew { raw: NonNull::new(raw).expect("pycrew_open returned 0"), _log: log })
    }

    /// One call, start to finish: `crew.run::<i64, _>("math:comb", (10, 4))`.
    pub fn run<R: FromPython, A: Arguments>(&self, function: &str, arguments: A) -> Result<R> {
        self.start(function, arguments)?.wait()
    }

    /// A call that runs while the caller goes on.
    pub fn start<R: FromPython, A: Arguments>(&self, function: &str, arguments: A) -> Result<Call<'_, R>> {
        let call = self.prepare(function)?;

        // SAFETY: the call lives, and is this thread's alone.
        arguments.add(unsafe { &mut Builder::of(call.raw) })?;
        check(unsafe { sys::pycrew_submit(call.raw.as_ptr()) })?;
        Ok(call)
    }

    fn prepare<R: FromPython>(&self, function: &str) -> Result<Call<'_, R>> {
        let name = c_string(function)?;
        let mut function = ptr::null();
        let mut call = ptr::null_mut();

        // SAFETY: the crew is open as long as &self is; name is copied; the function's handle lives as long
        // as the crew.
        unsafe {
            check(sys::pycrew_function_get(self.raw.as_ptr(), name.as_ptr(), &mut function))?;
            check(sys::pycrew_prepare(self.raw.as_ptr(), function, sys::PYCREW_FOREVER, &mut call))?;
        }
        Ok(Call {
            raw: NonNull::new(call).expect("pycrew_prepare returned 0"),
            crew: PhantomData,
            result: PhantomData,
        })
    }

    /// Workers that have a call at this moment.
    pub fn busy(&self) -> Result<u32> {
        // SAFETY: zeros are PYCREW_STATS_INIT but for the sizes; worker is NULL, which stands for no list.
        unsafe {
            let mut stats: sys::pycrew_stats = MaybeUninit::zeroed().assume_init();
            stats.size = std::mem::size_of_val(&stats);
            stats.worker_size = std::mem::size_of::<sys::pycrew_worker_stats>();
            check(sys::pycrew_stats_get(self.raw.as_ptr(), &mut stats))?;
            Ok(stats.busy)
        }
    }
}

impl Drop for Crew {
    /// Running calls are interrupted, and after the grace killed.
    fn drop(&mut self) {
        // SAFETY: whatever borrows the crew, calls and threads that are in it, has ended.
        unsafe { sys::pycrew_close(self.raw.as_ptr()) }
    }
}

// ---- calls ----

/// A submitted call whose result will be an R. Dropped before its end, it is cancelled.
///
/// One thread may start it and another one wait for it, but not two use it at once:
/// ```compile_fail,E0277
/// # use bridge::crew::{Crew, Options};
/// let crew = Crew::open(Options::default()).unwrap();
/// let call = crew.start::<i64, _>("math:comb", (10, 4)).unwrap();
/// std::thread::scope(|scope| {
///     let call = &call;
///     scope.spawn(move || call.cancel());
/// });
/// ```
/// As its new owner:
/// ```
/// # use bridge::crew::{Crew, Options};
/// let crew = Crew::open(Options::default()).unwrap();
/// let call = crew.start::<i64, _>("math:comb", (10, 4)).unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || call.cancel());
/// });
/// ```
pub struct Call<'crew, R> {
    raw: NonNull<sys::pycrew_call>,
    crew: PhantomData<&'crew Crew>,
    result: PhantomData<fn() -> R>, // it has none yet, so R's own threads do not matter
}

// SAFETY: "one call is used by one thread at a time", and it need not be the one that prepared it. It is not
// Sync, which NonNull sees to: pycrew_wait in two threads is two at a time.
unsafe impl<R> Send for Call<'_, R> {}

impl<R: FromPython> Call<'_, R> {
    /// Waits for its end.
    pub fn wait(self) -> Result<R> {
        // SAFETY: it was submitted, and is released by drop.
        check(unsafe { sys::pycrew_wait(self.raw.as_ptr(), sys::PYCREW_FOREVER) })?;
        self.result()
    }

    /// The same, but no longer than so: None, and the call goes on.
    pub fn wait_for(&mut self, time: Duration) -> Result<Option<R>> {
        // SAFETY: as in wait.
        match unsafe { sys::pycrew_wait(self.raw.as_ptr(), nanoseconds(time)) } {
            code if code == -sys::ETIME => Ok(None),
            code => check(code).and_then(|_| self.result()).map(Some),
        }
    }

    fn result(&self) -> Result<R> {
        // SAFETY: the call has ended with 0, and lives as long as the value, which borrows it.
        R::from_python(unsafe { Value::of(self, sys::pycrew_result_value(self.raw.as_ptr())) })
    }
}

impl<R> Call<'_, R> {
    /// Asks for its end; wait has an error of -ECANCELED then. False: it has ended already.
    pub fn cancel(&self) -> bool {
        // SAFETY: the call lives, and is this thread's.
        unsafe { sys::pycrew_cancel(self.raw.as_ptr()) == 0 }
    }
}

impl<R> Drop for Call<'_, R> {
    fn drop(&mut self) {
        // SAFETY: nobody has it any more. It need not have ended, nor even been submitted.
        unsafe { sys::pycrew_release(self.raw.as_ptr()) }
    }
}

/// SAFETY: size bytes at `at`, or none at all.
pub(crate) unsafe fn bytes<'a>(at: *const c_void, size: usize) -> &'a [u8] {
    if size == 0 {
        &[] // `at` may be NULL then, which no slice may be
    } else {
        // SAFETY: as the caller said.
        unsafe { slice::from_raw_parts(at.cast(), size) }
    }
}
