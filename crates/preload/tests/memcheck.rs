//! The conformance program, and programs with many threads, under valgrind's memcheck on every strategy: no byte is
//! read or written that is not there, no jump depends on what was never written, and no system call is passed either.
//!
//! memcheck is told to leave `malloc` alone, so it sees a strategy at work in its memory, and not a replacement. It
//! also runs threads one at a time and gives programs a small break, so they do less than elsewhere.

#[allow(dead_code, reason = "each test uses its part")]
mod common;

use std::process::ExitCode;
use std::time::Duration;

use common::{Heap, STRATEGIES, Strategy, compile, needing, run};
use libtest_mimic::Failed;

const LIMIT: Duration = Duration::from_secs(170);

fn main() -> ExitCode {
    let programs: [(&str, &str, &[&str]); 4] = [
        ("family", "conformance.c", &["--quick"]),
        ("hand_over", "hand_over.c", &["--few"]),
        ("cancel", "cancel.c", &["--few"]),
        ("thread_local", "thread_local.cpp", &[]),
    ];
    let mut tests = Vec::new();
    for (title, source, arguments) in programs {
        let compiler = if source.ends_with(".cpp") { "c++" } else { "cc" };
        for strategy in &STRATEGIES {
            let name = format!("{title}::{}", strategy.name);
            let test = move || passes(Heap::Ours(strategy), source, arguments);
            tests.push(needing(&["valgrind", compiler], name, test));
        }
    }
    common::main(tests)
}

fn passes(heap: Heap, source: &str, arguments: &[&str]) -> Result<(), Failed> {
    let program = compile(source, &["-ldl"])?;
    let mut command = heap.command(common::find("valgrind").ok_or("valgrind is gone")?);
    command.args(["-q", "--soname-synonyms=somalloc=nouserintercepts", "--leak-check=no"]);
    command.args(["--error-exitcode=9", "--num-callers=20", "--fair-sched=yes"]);
    // memcheck takes new memory under the break for undefined, though the kernel has zeroed it and `calloc` may rely on
    // that.
    if matches!(heap, Heap::Ours(Strategy { on_break: true, .. })) {
        command.arg("--undef-value-errors=no");
    }
    command.arg(program).args(arguments);
    if !heap.frees() {
        command.arg("--never-frees");
    }
    let outcome = run(command, b"", LIMIT)?.exits(0)?;
    outcome.require(outcome.stdout().contains("0 failures\n"), "it did not come to its end")
}
