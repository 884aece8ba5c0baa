//! The conformance suite through the C face: every function of the family from a C program and every operator from a
//! C++ program, on every strategy, and on the system's allocator, where the programs must find nothing wrong either.

#[allow(dead_code, reason = "each test uses its part")]
mod common;

use std::process::{Command, ExitCode};
use std::time::Duration;

use common::{Heap, STRATEGIES, compile, find, library, needing, run};
use libtest_mimic::Failed;

const LIMIT: Duration = Duration::from_secs(120);

/// What libstdc++ has of `new` and `delete`, as symbols (Itanium C++ ABI, 5.1.5).
const OPERATORS: [&str; 20] = [
    "_Znwm",
    "_Znam",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdaPvRKSt9nothrow_t",
    "_ZdlPvm",
    "_ZdaPvm",
    "_ZdlPvSt11align_val_t",
    "_ZdaPvSt11align_val_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t",
];

/// The C family.
const FAMILY: [&str; 20] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "free_sized",
    "free_aligned_sized",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "malloc_trim",
    "mallinfo",
    "mallinfo2",
    "malloc_stats",
    "malloc_info",
    "mallopt",
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for heap in Heap::all() {
        let name = heap.name();
        for (compiler, title, source, options) in [
            ("cc", "family", "conformance.c", &["-ldl"]),
            ("c++", "operators", "operators.cpp", &["-ldl"]),
        ] {
            let test = move || conforms(heap, source, options);
            tests.push(needing(&[compiler], format!("{title}::{name}"), test));
        }
    }
    for strategy in &STRATEGIES {
        let linked = move || is_linked_as_promised(library(strategy));
        tests.push(needing(&["readelf"], format!("linked::{}", strategy.name), linked));
        let symbols = move || exports(library(strategy), cfg!(target_arch = "x86_64"));
        tests.push(needing(&["nm"], format!("symbols::{}", strategy.name), symbols));
        if cfg!(target_arch = "x86_64") {
            let leaves = move || leaves_no_frame(library(strategy));
            tests.push(needing(&["objdump"], format!("frames::{}", strategy.name), leaves));
        }
    }
    common::main(tests)
}

fn conforms(heap: Heap, source: &str, options: &[&str]) -> Result<(), Failed> {
    let mut command = heap.command(compile(source, options)?);
    if let Heap::System = heap {
        command.arg("--system");
    }
    if !heap.frees() {
        command.arg("--never-frees");
    }
    if let Heap::Ours(_) = heap {
        command.env("HEAPWRIGHT_CHECK", "1");
    }
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    outcome.require(outcome.stdout().ends_with("0 failures\n"), "it did not come to its end")?;
    // `malloc_stats` writes into a file; nothing else has anything to say.
    outcome.require(outcome.stderr.is_empty(), "it says something on standard error")
}

/// A library defines the whole C family and all operators, and no name beside them that a program could stumble over.
fn exports(library: &std::path::Path, operators: bool) -> Result<(), Failed> {
    let mut command = Command::new(find("nm").ok_or("nm is gone")?);
    command.args(["-D", "--defined-only", "--format=posix"]).arg(library);
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    let text = outcome.stdout();
    let defined: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut expected = FAMILY.to_vec();
    if operators {
        expected.extend(OPERATORS);
    }
    for symbol in &expected {
        outcome.require(defined.contains(symbol), &format!("it does not export {symbol}"))?;
    }
    for symbol in &defined {
        outcome.require(expected.contains(symbol), &format!("it exports {symbol}"))?;
    }
    Ok(())
}

/// A library needs the C library alone, is initialised before all others, and finds its thread-local storage without
/// calls.
fn is_linked_as_promised(library: &std::path::Path) -> Result<(), Failed> {
    let mut command = Command::new(find("readelf").ok_or("readelf is gone")?);
    command.args(["--dynamic", "--dyn-syms", "--wide"]).arg(library);
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    let text = outcome.stdout();
    let mut needed = text.lines().filter(|line| line.contains("(NEEDED)"));
    let alone = needed.all(|line| line.contains("[libc.so"));
    outcome.require(alone, "it needs more than the C library")?;
    outcome.require(text.contains("INITFIRST"), "it is not initialised first")?;
    outcome.require(!text.contains("__tls_get_addr"), "it calls for thread-local storage")
}

/// An operator that finds no memory hands over to the C++ library's by a jump, with its own frame gone: exceptions must
/// not pass through frames of Rust.
fn leaves_no_frame(library: &std::path::Path) -> Result<(), Failed> {
    let objdump = |arguments: &[&str]| {
        let mut command = Command::new(find("objdump").ok_or("objdump is gone")?);
        command.args(arguments).arg(library);
        run(command, b"", LIMIT)?.exits(0)
    };
    let symbols = objdump(&["--syms"])?.stdout();
    let next: Vec<&str> = symbols
        .lines()
        .filter(|line| line.contains("8next_new") || line.contains("next_new_"))
        .filter(|line| !line.contains("4find"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    // They are reached through slots of the global offset table, which the dynamic linker fills in.
    let relocations = objdump(&["--dynamic-reloc"])?.stdout();
    let slots: Vec<&str> = relocations
        .lines()
        .filter(|line| next.iter().any(|address| line.ends_with(&format!("+0x{address}"))))
        .filter_map(|line| line.split_whitespace().next())
        .map(|slot| slot.trim_start_matches('0'))
        .collect();
    let outcome = objdump(&["--disassemble", "--no-show-raw-insn", "--section=.text"])?;
    let text = outcome.stdout();
    let to_next = |mnemonic: &str| {
        let uses = |line: &&str| slots.iter().any(|slot| line.contains(&format!("# {slot} <")));
        text.lines().filter(uses).filter(|line| line.contains(&format!("\t{mnemonic}"))).count()
    };
    let forms = OPERATORS.iter().filter(|symbol| symbol.starts_with("_Zn")).count();
    outcome.require(next.len() == forms, "not every form of new has a next one")?;
    outcome.require(to_next("jmp") >= forms, "not every form of new jumps to the next one")?;
    outcome.require(to_next("call") == 0, "a form of new calls the next one")
}
