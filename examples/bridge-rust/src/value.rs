//! What Rust's types are in Python, and back: bool, integers, floats, text, bytes, Option (None), Vec and slices
//! (list), tuples, and () for None and for "whatever it is".

use crate::crew::{bytes, c_string, check, Error, Result};
use crate::sys;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};

/// Python's bytes; a Vec<u8> is a list of ints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

// ---- to Python ----

/// Where a call's arguments are added.
pub struct Builder<'call> {
    raw: *mut sys::pycrew_call,
    call: PhantomData<&'call mut sys::pycrew_call>,
}

pub trait ToPython {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()>;
}

/// A tuple: each of its items is an argument.
pub trait Arguments {
    fn add(&self, to: &mut Builder<'_>) -> Result<()>;
}

impl Builder<'_> {
    /// SAFETY: the call is a prepared one that nobody else uses meanwhile.
    pub(crate) unsafe fn of<'call>(call: NonNull<sys::pycrew_call>) -> Builder<'call> {
        Builder { raw: call.as_ptr(), call: PhantomData }
    }

    // SAFETY of all: the call is prepared, and ours alone; values and texts are copied before they return.

    pub fn none(&mut self) -> Result<()> {
        check(unsafe { sys::pycrew_add_none(self.raw) }).map(drop)
    }

    pub fn bool(&mut self, value: bool) -> Result<()> {
        check(unsafe { sys::pycrew_add_bool(self.raw, value) }).map(drop)
    }

    pub fn i64(&mut self, value: i64) -> Result<()> {
        check(unsafe { sys::pycrew_add_i64(self.raw, value) }).map(drop)
    }

    pub fn u64(&mut self, value: u64) -> Result<()> {
        check(unsafe { sys::pycrew_add_u64(self.raw, value) }).map(drop)
    }

    pub fn f64(&mut self, value: f64) -> Result<()> {
        check(unsafe { sys::pycrew_add_f64(self.raw, value) }).map(drop)
    }

    pub fn str(&mut self, text: &str) -> Result<()> {
        let at = text.as_ptr().cast::<c_char>();
        check(unsafe { sys::pycrew_add_str(self.raw, at, text.len()) }).map(drop)
    }

    pub fn bytes(&mut self, data: &[u8]) -> Result<()> {
        let at = data.as_ptr().cast::<c_void>();
        check(unsafe { sys::pycrew_add_bytes(self.raw, at, data.len()) }).map(drop)
    }

    /// The next value is this keyword argument.
    pub fn name(&mut self, keyword: &str) -> Result<()> {
        let keyword = c_string(keyword)?;
        check(unsafe { sys::pycrew_add_name(self.raw, keyword.as_ptr()) }).map(drop)
    }

    pub fn list<T: ToPython>(&mut self, items: &[T]) -> Result<()> {
        self.container(sys::PYCREW_LIST, |to| items.iter().try_for_each(|item| item.to_python(to)))
    }

    pub fn container(&mut self, kind: c_int, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        check(unsafe { sys::pycrew_add_open(self.raw, kind) })?;
        fill(self)?;
        check(unsafe { sys::pycrew_add_close(self.raw) }).map(drop)
    }
}

// ---- from Python ----

/// A place in a result, as long as its call lives.
#[derive(Clone, Copy)]
pub struct Value<'call> {
    raw: sys::pycrew_value,
    call: PhantomData<&'call sys::pycrew_call>,
}

pub trait FromPython: Sized {
    fn from_python(value: Value<'_>) -> Result<Self>;
}

impl<'call> Value<'call> {
    /// SAFETY: raw belongs to what `owner` keeps alive.
    pub(crate) unsafe fn of<T>(_owner: &'call T, raw: sys::pycrew_value) -> Value<'call> {
        Value { raw, call: PhantomData }
    }

    /// PYCREW_TYPE_...
    pub fn kind(self) -> c_int {
        unsafe { sys::pycrew_value_type(self.raw) } // SAFETY of all: 'call says that its call lives
    }

    fn read<T>(self, read: unsafe extern "C" fn(sys::pycrew_value, *mut T) -> c_int) -> Result<T> {
        let mut value = MaybeUninit::uninit();
        check(unsafe { read(self.raw, value.as_mut_ptr()) })?;
        Ok(unsafe { value.assume_init() }) // it returned 0
    }

    pub fn bool(self) -> Result<bool> {
        self.read(sys::pycrew_value_bool)
    }

    pub fn i64(self) -> Result<i64> {
        self.read(sys::pycrew_value_i64)
    }

    pub fn u64(self) -> Result<u64> {
        self.read(sys::pycrew_value_u64)
    }

    pub fn f64(self) -> Result<f64> {
        self.read(sys::pycrew_value_f64)
    }

    /// The library has checked that it is UTF-8. But where it stands in shared memory a worker gone astray could
    /// write to it later, so it is copied first, and the copy looked at.
    pub fn string(self) -> Result<String> {
        let (mut at, mut size) = (ptr::null(), 0);
        check(unsafe { sys::pycrew_value_str(self.raw, &mut at, &mut size) })?;
        let copy = copy(at.cast(), size);
        String::from_utf8(copy).map_err(|_| Error::new(sys::PYCREW_ETYPE, "the text is not UTF-8"))
    }

    pub fn bytes(self) -> Result<Vec<u8>> {
        let (mut at, mut size) = (ptr::null(), 0);
        check(unsafe { sys::pycrew_value_bytes(self.raw, &mut at, &mut size) })?;
        Ok(copy(at, size))
    }

    /// A list's or tuple's items.
    pub fn items(self) -> Result<Vec<Value<'call>>> {
        if self.kind() != sys::PYCREW_TYPE_LIST && self.kind() != sys::PYCREW_TYPE_TUPLE {
            return Err(Error::new(sys::PYCREW_ETYPE, "the result is neither a list nor a tuple"));
        }
        let count = unsafe { sys::pycrew_value_count(self.raw) };
        let mut next = unsafe { sys::pycrew_value_item(self.raw, 0) };
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(Value { raw: next, call: PhantomData });
            next = unsafe { sys::pycrew_value_next(next) };
        }
        Ok(items)
    }
}

fn copy(at: *const c_void, size: usize) -> Vec<u8> {
    // SAFETY: both are of one value, whose call lives.
    unsafe { bytes(at, size) }.to_vec()
}

// ---- Rust's types ----

macro_rules! integers {
    ($wide:ident: $($narrow:ident)*) => {$(
        impl ToPython for $narrow {
            fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
                to.$wide($wide::from(*self))
            }
        }

        impl FromPython for $narrow {
            fn from_python(value: Value<'_>) -> Result<Self> {
                let wide = value.$wide()?;
                $narrow::try_from(wide)
                    .map_err(|_| Error::new(-sys::ERANGE, format!("{wide} is no {}", stringify!($narrow))))
            }
        }
    )*};
}

integers!(i64: i8 i16 i32 i64);
integers!(u64: u8 u16 u32 u64);

macro_rules! plain {
    ($($name:ident)*) => {$(
        impl ToPython for $name {
            fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
                to.$name(*self)
            }
        }

        impl FromPython for $name {
            fn from_python(value: Value<'_>) -> Result<Self> {
                value.$name()
            }
        }
    )*};
}

plain!(bool f64);

impl ToPython for str {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.str(self)
    }
}

impl ToPython for String {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.str(self)
    }
}

impl FromPython for String {
    fn from_python(value: Value<'_>) -> Result<Self> {
        value.string()
    }
}

impl ToPython for Bytes {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.bytes(&self.0)
    }
}

impl FromPython for Bytes {
    fn from_python(value: Value<'_>) -> Result<Self> {
        value.bytes().map(Bytes)
    }
}

impl ToPython for () {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.none()
    }
}

impl FromPython for () {
    fn from_python(_: Value<'_>) -> Result<Self> {
        Ok(())
    }
}

impl<T: ToPython + ?Sized> ToPython for &T {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        (**self).to_python(to)
    }
}

impl<T: ToPython> ToPython for Option<T> {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        match self {
            Some(value) => value.to_python(to),
            None => to.none(),
        }
    }
}

impl<T: FromPython> FromPython for Option<T> {
    fn from_python(value: Value<'_>) -> Result<Self> {
        if value.kind() == sys::PYCREW_TYPE_NONE {
            return Ok(None);
        }
        T::from_python(value).map(Some)
    }
}

impl<T: ToPython> ToPython for [T] {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.list(self)
    }
}

impl<T: ToPython> ToPython for Vec<T> {
    fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
        to.list(self)
    }
}

impl<T: FromPython> FromPython for Vec<T> {
    fn from_python(value: Value<'_>) -> Result<Self> {
        value.items()?.into_iter().map(T::from_python).collect()
    }
}

impl Arguments for () {
    fn add(&self, _: &mut Builder<'_>) -> Result<()> {
        Ok(())
    }
}

macro_rules! tuples {
    ($($count:literal: $($item:ident)+;)+) => {$(
        #[allow(non_snake_case)]
        impl<$($item: ToPython),+> Arguments for ($($item,)+) {
            fn add(&self, to: &mut Builder<'_>) -> Result<()> {
                let ($($item,)+) = self;
                $($item.to_python(to)?;)+
                Ok(())
            }
        }

        impl<$($item: ToPython),+> ToPython for ($($item,)+) {
            fn to_python(&self, to: &mut Builder<'_>) -> Result<()> {
                to.container(sys::PYCREW_TUPLE, |to| self.add(to))
            }
        }

        impl<$($item: FromPython),+> FromPython for ($($item,)+) {
            fn from_python(value: Value<'_>) -> Result<Self> {
                let items = value.items()?;
                if items.len() != $count {
                    let text = format!("the result has {} items, not {}", items.len(), $count);
                    return Err(Error::new(sys::PYCREW_ETYPE, text));
                }
                let mut items = items.into_iter();
                Ok(($($item::from_python(items.next().expect("they were counted"))?,)+))
            }
        }
    )+};
}

tuples! {
    1: A;
    2: A B;
    3: A B C;
    4: A B C D;
    5: A B C D E;
    6: A B C D E F;
}
