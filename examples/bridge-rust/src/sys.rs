//! pycrew.h, and errno's numbers: made by build/main.rs from the headers.
#![allow(dead_code, non_camel_case_types)]

use std::marker::{PhantomData, PhantomPinned};
#[allow(unused_imports)]
use std::os::raw::*;

include!(concat!(env!("OUT_DIR"), "/pycrew.rs"));
