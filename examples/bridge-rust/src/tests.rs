use crate as bridge;
use crate::crew::*;
use crate::{guard, sys};
use std::ffi::{CStr, CString};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, ptr, thread};

fn open(workers: u32) -> Crew {
    Crew::open(Options { workers, ..Options::default() }).unwrap()
}

/// Looks until it holds; half a minute at most.
fn await_that(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

// ---- pycrew.h as Rust has it ----

mod layout {
    use crate::{python_error, sys::*};
    use std::os::raw::*;
    include!(concat!(env!("OUT_DIR"), "/layout.rs"));
}

#[test]
fn layouts_and_constants_are_those_of_c() {
    let (source, program) = (concat!(env!("OUT_DIR"), "/layout.c"), concat!(env!("OUT_DIR"), "/layout"));
    fs::write(source, layout::LAYOUT_C).unwrap();
    let mut compiler = env!("LAYOUT_CC").split_whitespace();
    let status = Command::new(compiler.next().unwrap())
        .args(compiler)
        .args(env!("LAYOUT_FOLDERS").split(':').map(|folder| format!("-I{folder}")))
        .args([source, "-o", program])
        .status();
    assert!(status.unwrap().success());
    let c = String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap();
    let mut rust: Vec<String> =
        layout::layout().into_iter().map(|(name, number)| format!("{name} {number}")).collect();
    let mut c: Vec<String> = c.lines().map(String::from).collect();
    rust.sort();
    c.sort();
    assert!(rust.len() > 200, "{} of them", rust.len());
    assert_eq!(rust, c);
}

#[test]
fn nothing_of_the_header_is_left_out() {
    let text = include_str!(concat!(env!("OUT_DIR"), "/pycrew.rs"));
    assert!(text.contains("pub fn pycrew_open("));
    let left_out: Vec<&str> = text.lines().filter(|line| line.starts_with("// left out")).collect();
    assert!(left_out.is_empty(), "{left_out:#?}");
}

// ---- which threads may have what: looked at by the compiler ----

/// Does not compile if $type is $trait: then there are two `check` to choose from.
macro_rules! assert_not {
    ($type:ty: $trait:path) => {
        const _: fn() = || {
            trait Check<A> {
                fn check() {}
            }
            impl<T: ?Sized> Check<()> for T {}
            impl<T: ?Sized + $trait> Check<u8> for T {}
            let _ = <$type as Check<_>>::check;
        };
    };
}

assert_not!(Call<'static, i64>: Sync);
assert_not!(Builder<'static>: Send);
assert_not!(Builder<'static>: Sync);
assert_not!(Value<'static>: Send);
assert_not!(Value<'static>: Sync);

#[test]
fn a_crew_is_for_all_threads_and_a_call_for_any_one() {
    fn send_and_sync<T: Send + Sync>() {}
    fn send<T: Send>() {}
    send_and_sync::<Crew>();
    send_and_sync::<Error>();
    send::<Call<'static, std::rc::Rc<()>>>(); // it has no Rc yet
}

// ---- values ----

/// Python gives back what it is given.
fn goes<T: ToPython + FromPython + PartialEq + std::fmt::Debug>(crew: &Crew, value: T) {
    assert_eq!(crew.run("copy:copy", (&value,)), Ok(value));
}

#[test]
fn values_come_back_as_they_went() {
    let crew = open(1);

    goes(&crew, true);
    goes(&crew, false);
    goes(&crew, (i8::MIN, i16::MAX, i32::MIN, i64::MIN, i64::MAX));
    goes(&crew, (u8::MAX, u16::MAX, u32::MAX, u64::MAX));
    goes(&crew, (0.5, f64::MIN_POSITIVE, f64::INFINITY));
    goes(&crew, String::new());
    goes(&crew, String::from("grün\0☃"));
    goes(&crew, Bytes(vec![]));
    goes(&crew, Bytes(vec![0, 255, 1]));
    goes(&crew, Some(7i32));
    goes(&crew, None::<i32>);
    goes(&crew, ());
    goes(&crew, Vec::<i64>::new());
    goes(&crew, vec![vec![1i64], vec![], vec![2, 3]]);
    goes(&crew, ((1u8,), (2u16, (String::from("three"), vec![Some(true), None]))));
    let kept: Vec<i64> = crew.run("builtins:list", ("abc".as_bytes(),)).unwrap(); // a slice is a list of ints
    assert_eq!(kept, [97, 98, 99]);
}

#[test]
fn a_result_of_another_type_is_an_error_that_says_so() {
    let crew = open(1);

    assert_eq!(crew.run::<i32, _>("copy:copy", ("8",)).unwrap_err().code, sys::PYCREW_ETYPE);
    assert_eq!(crew.run::<String, _>("copy:copy", (8,)).unwrap_err().code, sys::PYCREW_ETYPE);
    assert_eq!(crew.run::<u8, _>("copy:copy", (256,)).unwrap_err().code, -sys::ERANGE);
    assert_eq!(crew.run::<u64, _>("copy:copy", (-1,)).unwrap_err().code, -sys::ERANGE);
    assert_eq!(crew.run::<(i32, i32), _>("copy:copy", ((1, 2, 3),)).unwrap_err().code, sys::PYCREW_ETYPE);
    assert_eq!(crew.run::<i32, _>("ma\0th:sqrt", (1,)).unwrap_err().code, -sys::EINVAL);
}

// ---- errors ----

#[test]
fn an_exception_is_an_error_with_its_texts() {
    let crew = open(1);
    let error = crew.run::<(), _>("json:loads", ("{",)).unwrap_err();

    assert_eq!(error.code, sys::PYCREW_ERAISED);
    assert_eq!(error.exception.as_deref(), Some("json.decoder.JSONDecodeError"));
    assert!(error.message.starts_with("Expecting property name"), "{error}");
    assert!(error.to_string().starts_with("json.decoder.JSONDecodeError: Expecting"), "{error}");
    assert!(error.traceback.as_ref().unwrap().contains("raw_decode"), "{error:?}");
    assert!(error.may_have_run && error.signal == 0);

    let first = error.clone();
    crew.run::<(), _>("json:loads", ("[",)).unwrap_err();
    assert_eq!(error, first, "an error is not changed by the next one");
}

#[test]
fn a_worker_that_dies_is_an_error_and_the_next_call_works() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = log.clone();
    let crew = Crew::open(Options {
        workers: 1,
        log: Some(Box::new(move |_, line| lines.lock().unwrap().push(line.to_string()))),
        ..Options::default()
    });
    let crew = crew.unwrap();
    let error = crew.run::<(), _>("signal:raise_signal", (9,)).unwrap_err();

    assert_eq!((error.code, error.signal), (sys::PYCREW_EDIED, 9));
    assert!(error.may_have_run);
    assert_eq!(crew.run("math:comb", (10, 4)), Ok(210));
    await_that("the log says it", || log.lock().unwrap().iter().any(|line| line.contains("signal 9")));
}

#[test]
fn a_log_that_panics_does_no_harm() {
    let crew = Crew::open(Options {
        workers: 1,
        log: Some(Box::new(|_, line| panic!("this one is meant: {line}"))),
        ..Options::default()
    });
    let crew = crew.unwrap();

    crew.run::<(), _>("signal:raise_signal", (9,)).unwrap_err();
    assert_eq!(crew.run("math:comb", (10, 4)), Ok(210));
}

#[test]
fn a_crew_that_cannot_be_opened_says_why() {
    let options = Options { preload: vec!["no_such_module".into()], ..Options::default() };
    let error = Crew::open(options).err().unwrap();

    assert_eq!(error.code, sys::PYCREW_ESTART);
    assert!(error.to_string().contains("no_such_module"), "{error}");
    let options = Options { path: vec!["/a\0b".into()], ..Options::default() };
    assert_eq!(Crew::open(options).err().unwrap().code, -sys::EINVAL);
}

// ---- calls ----

#[test]
fn threads_share_a_crew() {
    let crew = open(2);

    thread::scope(|scope| {
        for t in 0..4i64 {
            let crew = &crew;
            scope.spawn(move || {
                for i in 0..250 {
                    assert_eq!(crew.run("operator:add", (t, i)), Ok(t + i));
                    let error = crew.run::<(), _>("operator:truediv", (t, 0)).unwrap_err();
                    assert_eq!(error.exception.as_deref(), Some("ZeroDivisionError"));
                }
            });
        }
    });
}

#[test]
fn a_call_is_waited_for_by_another_thread() {
    let crew = open(1);
    let call = crew.start::<i64, _>("math:comb", (10, 4)).unwrap();

    thread::scope(|scope| assert_eq!(scope.spawn(move || call.wait()).join().unwrap(), Ok(210)));
}

#[test]
fn a_call_that_is_dropped_while_it_runs_is_ended() {
    let crew = open(1);
    let call = crew.start::<(), _>("time:sleep", (3600,)).unwrap();

    await_that("it runs", || crew.busy() == Ok(1));
    drop(call);
    assert_eq!(crew.run("math:comb", (10, 4)), Ok(210)); // by the only worker
}

#[test]
fn a_crew_is_closed_whatever_runs() {
    let crew = open(1);
    let call = crew.start::<(), _>("time:sleep", (3600,)).unwrap();

    await_that("it runs", || crew.busy() == Ok(1));
    std::mem::forget(call); // never released: the crew's end takes it with it
    drop(crew);
}

#[test]
fn a_wait_that_ends_leaves_the_call_alone() {
    let crew = open(1);
    let mut call = crew.start::<(), _>("time:sleep", (3600,)).unwrap();

    assert_eq!(call.wait_for(Duration::from_millis(1)), Ok(None));
    assert!(call.cancel());
    assert_eq!(call.wait_for(Duration::from_secs(60)).unwrap_err().code, -sys::ECANCELED);
    assert!(!call.cancel());

    let crew =
        Crew::open(Options { timeout: Some(Duration::from_millis(20)), ..Options::default() }).unwrap();
    let error = crew.run::<(), _>("time:sleep", (3600,)).unwrap_err();
    assert_eq!(error.code, -sys::ETIMEDOUT);
}

#[test]
fn a_call_that_cannot_be_filled_is_given_back() {
    let crew = Crew::open(Options { workers: 1, calls: 1, ..Options::default() }).unwrap();

    struct Refuses;
    impl ToPython for Refuses {
        fn to_python(&self, _: &mut Builder<'_>) -> Result<()> {
            Err(Error::new(-1, "no"))
        }
    }
    for _ in 0..3 {
        assert_eq!(crew.run::<(), _>("copy:copy", (Refuses,)).unwrap_err().message, "no");
    }
    assert_eq!(crew.run("math:comb", (10, 4)), Ok(210)); // by the only one
}

// ---- the C ABI ----

fn last() -> (i32, String) {
    let error = unsafe { &*bridge::python_last_error() };
    let message = unsafe { CStr::from_ptr(error.message) };
    (error.code, message.to_str().unwrap().into())
}

#[test]
fn a_panic_does_not_reach_c() {
    assert_eq!(guard(|| panic!("this {} is meant", "one")), -sys::ENOTRECOVERABLE);
    assert_eq!(last(), (-sys::ENOTRECOVERABLE, "a panic: this one is meant".into()));
}

#[test]
fn a_thread_that_has_failed_in_nothing_has_no_last_error() {
    thread::spawn(|| assert_eq!(last(), (0, "".into()))).join().unwrap();
}

#[test]
fn the_c_functions_do_what_bridge_h_says() {
    let folder = CString::new(env::var("BRIDGE_MODULES").unwrap()).unwrap();
    let mut sum = -7;

    unsafe {
        assert_eq!(bridge::python_add(3, 5, &mut sum), -sys::ENOTCONN);
        assert_eq!(last(), (-sys::ENOTCONN, "python_open has not been called".into()));
        assert_eq!(bridge::python_open(ptr::null()), -sys::EINVAL);
        assert_eq!(bridge::python_open(folder.as_ptr()), 0);
        assert_eq!(bridge::python_open(folder.as_ptr()), -sys::EALREADY);
        assert_eq!(bridge::python_divide(1, 0, &mut sum), sys::PYCREW_ERAISED);
        assert_eq!(bridge::python_add(3, 5, ptr::null_mut()), -sys::EINVAL);
        assert_eq!(bridge::python_add(i32::MAX, 1, &mut sum), -sys::ERANGE);
        assert_eq!(sum, -7, "an output is as it was after a failure");
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut sum = 0;
                    assert_eq!((bridge::python_add(3, 5, &mut sum), sum), (0, 8));
                });
            }
        });
        assert_eq!(last().0, -sys::ERANGE, "each thread has its own");
        bridge::python_close();
        assert_eq!(bridge::python_add(3, 5, &mut sum), -sys::ENOTCONN);
    }
}
