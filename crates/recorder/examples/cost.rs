//! What recording costs: runs a program with and without the recorder in turn, and compares.
//!
//! ```text
//! cargo build --release -p heapwright-recorder
//! cargo run --release -p heapwright-recorder --example cost -- target/release/libheapwright_recorder.so [COMMAND…]
//! ```
//!
//! Without a command it compiles and runs `heavy.c`, which does little but allocate and free.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use heapwright_raw::DIRECTORY_VARIABLE;

const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let library = arguments.next().ok_or("usage: cost LIBRARY [COMMAND…]")?;
    let library = PathBuf::from(library).canonicalize()?;
    let mut command: Vec<OsString> = arguments.collect();
    let directory = tempfile::tempdir()?;
    if command.is_empty() {
        let program = directory.path().join("heavy");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/heavy.c");
        let compiled = Command::new("cc")
            .args(["-O2", "-fno-builtin", "-o"])
            .args([&program, &source])
            .status()?;
        assert!(compiled.success(), "{} does not compile", source.display());
        command.push(program.into());
    }

    let run = |recorded: Option<&Path>| -> Result<Duration, Box<dyn Error>> {
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]).stdout(Stdio::null());
        if let Some(raw) = recorded {
            program.env("LD_PRELOAD", &library).env(DIRECTORY_VARIABLE, raw);
        }
        let start = Instant::now();
        let status = program.status()?;
        let elapsed = start.elapsed();
        if status.success() {
            Ok(elapsed)
        } else {
            Err(format!("the program ended with {status}").into())
        }
    };
    let (mut plain, mut recorded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(run(None)?);
        let raw = tempfile::tempdir_in(directory.path())?;
        recorded.push(run(Some(raw.path()))?);
    }
    plain.sort();
    recorded.sort();
    let (plain, recorded) = (plain[ROUNDS / 2], recorded[ROUNDS / 2]);
    let ratio = recorded.as_secs_f64() / plain.as_secs_f64();
    println!(
        "{plain:.1?} without, {recorded:.1?} with the recorder: {ratio:.2} times (medians of {ROUNDS} runs)"
    );
    Ok(())
}
