//! How the libraries are linked.
//!
//! Each process that one is preloaded into maps it anew, so that each segment costs it a system call or two, a page
//! fault or two, and the time to take all down: `/bin/true` takes 1.07 of glibc's time in place of 1.10 with two segments
//! in place of four. (A library with nothing in it takes 1.06.)

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Code and what is only read beside it in one segment: GNU ld's flag, which lld ignores, and lld's, which GNU ld knows
/// from 2.43 on only.
const ONE_FOR_CODE: [&str; 2] = ["-Wl,-z,noseparate-code", "-Wl,--no-rosegment"];

/// What is written once and what is written always in one segment. It is so small that they share a page; making the
/// former unwritable would make two mappings of it after it was one.
const ONE_FOR_DATA: &str = "-Wl,-z,norelro";

/// Ours is initialised before the libraries that allocate in their constructors, and registers its fork handlers before
/// theirs.
const FIRST: &str = "-Wl,-z,initfirst";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Not only for examples: Cargo takes those for programs. Programs do not mind.
    let [by_gnu, by_lld] = ONE_FOR_CODE;
    for argument in [FIRST, by_gnu, ONE_FOR_DATA] {
        println!("cargo:rustc-link-arg={argument}");
    }
    if links_with(by_lld).unwrap_or(false) {
        println!("cargo:rustc-link-arg={by_lld}");
    }
}

/// Whether the linker that Cargo uses knows an argument: a library that does nothing is linked with it.
fn links_with(argument: &str) -> io::Result<bool> {
    const NOTHING: &[u8] =
        b"#![no_std] #[panic_handler] fn p(_: &core::panic::PanicInfo) -> ! { loop {} }";
    let variable = |name| env::var(name).unwrap_or_default();
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-type=cdylib", "-Cpanic=abort", "--target", &variable("TARGET"), "-"]);
    rustc.arg("-o").arg(Path::new(&variable("OUT_DIR")).join("nothing.so"));
    rustc.arg(format!("-Clink-arg={argument}"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.args(variable("CARGO_ENCODED_RUSTFLAGS").split('\x1f').filter(|flag| !flag.is_empty()));
    let mut linking =
        rustc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // The pipe ends here, and with it what is compiled.
    linking.stdin.take().map_or(Ok(()), |mut source| source.write_all(NOTHING))?;
    Ok(linking.wait()?.success())
}
