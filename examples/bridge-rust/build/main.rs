//! Makes the crate's types from the headers, so that none is written down a second time:
//!
//!   pycrew.rs   what pycrew.h declares, and errno's numbers
//!   bridge.rs   a function for each one of bridge.h: its types are C's, its body calls math_ops.py
//!   layout.rs   for a test: places and constants as Rust has them, and a C program that prints C's
//!
//! In the environment: PYCREW_INCLUDE and PYCREW_LIB, where pycrew.h and libpycrew.so are (else pkg-config
//! says it), BRIDGE_INCLUDE, where bridge.h is (else ../bridge; several folders stand between colons), and CC.

mod header;
mod write;

use header::Header;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// The Python module whose functions bridge.h has, as python_NAME.
const MODULE: &str = "math_ops";

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_string()
}

fn compiler() -> String {
    println!("cargo:rerun-if-env-changed=CC");
    env::var("CC").unwrap_or_else(|_| "cc".into())
}

/// A folder, by the environment or else by pkg-config's variable.
fn folder(name: &str, variable: &str) -> String {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).unwrap_or_else(|_| {
        output_of(Command::new("pkg-config").args([&format!("--variable={variable}"), "pycrew"]))
    })
}

/// The header after the C preprocessor, with line markers and macros.
fn preprocess(file: &str, folders: &[String]) -> String {
    let words = compiler();
    let mut words = words.split_whitespace(); // as in CC="ccache gcc"
    let source = PathBuf::from(env::var("OUT_DIR").unwrap()).join("header.c");

    fs::write(&source, format!("#include <{file}>\n")).unwrap();
    let mut command = Command::new(words.next().expect("CC"));
    command.args(words).args(["-E", "-dD"]);
    for folder in folders {
        command.arg(format!("-I{folder}"));
        println!("cargo:rerun-if-changed={folder}/{file}");
    }
    output_of(command.arg(source))
}

fn write(name: &str, text: &str) {
    let path = PathBuf::from(env::var("OUT_DIR").unwrap()).join(name);
    fs::write(path, text).unwrap();
}

fn main() {
    let include = folder("PYCREW_INCLUDE", "includedir");
    let library = folder("PYCREW_LIB", "libdir");
    println!("cargo:rerun-if-env-changed=BRIDGE_INCLUDE");
    let bridge = env::var("BRIDGE_INCLUDE").unwrap_or_else(|_| "../bridge".into());
    let bridge: Vec<String> = bridge.split(':').map(String::from).collect();
    let all = [&bridge[..], &[include.clone()]].concat();

    let pycrew = Header::read(&preprocess("pycrew.h", &[include]), |path| path.ends_with("/pycrew.h"));
    let errno = write::errno(&preprocess("errno.h", &[]));
    // What stands in files beside bridge.h that it includes is part of it.
    let bridge_h = Header::read(&preprocess("bridge.h", &all), |path| {
        bridge.iter().any(|folder| path.starts_with(folder))
    });

    write("pycrew.rs", &(write::declarations(&pycrew) + &errno));
    write("bridge.rs", &(write::structs(&bridge_h) + &write::exports(&bridge_h, MODULE)));
    write("layout.rs", &write::layout(&[("pycrew.h", &pycrew), ("bridge.h", &bridge_h)]));

    // rerun-if-changed of any file ends the default, which is all files of the package.
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rustc-env=LAYOUT_FOLDERS={}", all.join(":"));
    println!("cargo:rustc-env=LAYOUT_CC={}", compiler());
    println!("cargo:rustc-link-search=native={library}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{library}");
}
