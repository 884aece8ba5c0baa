//! Tests that need a process of their own: those that may crash, and those that move the program break.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::{Complaint, Kept};

/// Names the test that a child process is to run.
const VARIABLE: &str = "HEAPWRIGHT_TESTKIT_CHILD";

/// What a child says when its test has come to its end: not found is not passed.
const DONE: &str = "heapwright-testkit: the child has come to its end";

/// The name of a test as the test runner knows it: without the crate, which leads a module's path.
fn test_name(module: &str, test: &str) -> String {
    let path = module.split_once("::").map_or("", |(_, path)| path);
    if path.is_empty() { test.to_owned() } else { format!("{path}::{test}") }
}

fn is_child(name: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == name)
}

/// Runs the named test of this program again, in a process of its own and with no other test beside it.
fn spawn(name: &str) -> Result<Output, Complaint> {
    let program = std::env::current_exe()
        .map_err(|error| Complaint::new(format!("this test's program cannot be found: {error}")))?;
    Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, name)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Complaint::new(format!("this test's program cannot be run: {error}")))
}

fn describe(output: &Output) -> String {
    format!(
        "{}\n--- its standard output:\n{}--- its standard error:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs `body`, the whole of the test `test` in `module`, in a process of its own. Without a module, in
/// this one.
///
/// # Errors
///
/// What `body` says, or that the process died.
pub(crate) fn in_child(module: &str, test: &str, body: impl FnOnce() -> Kept) -> Kept {
    run(module, test, false, body)
}

/// As [`in_child`], for what may also crash.
///
/// # Errors
///
/// What `body` says.
pub(crate) fn in_child_that_may_crash(
    module: &str,
    test: &str,
    body: impl FnOnce() -> Kept,
) -> Kept {
    run(module, test, true, body)
}

fn run(module: &str, test: &str, may_crash: bool, body: impl FnOnce() -> Kept) -> Kept {
    let name = test_name(module, test);
    if module.is_empty() {
        return body();
    }
    if is_child(&name) {
        body()?;
        let mut out = std::io::stdout();
        let said = writeln!(out, "{DONE}").and_then(|()| out.flush());
        return said.map_err(|error| Complaint::new(format!("nobody hears this test: {error}")));
    }
    let output = spawn(&name)?;
    let done = String::from_utf8_lossy(&output.stdout).contains(DONE);
    let crashed = may_crash && output.status.code().is_none();
    if crashed || (output.status.success() && done) {
        Ok(())
    } else {
        Err(Complaint::new(format!("in a process of its own: {}", describe(&output))))
    }
}

/// Runs `body`, which ends in an abort, in a process of its own, and verifies that it does and that it
/// says `message` on standard error.
///
/// # Errors
///
/// How the process ended instead.
pub(crate) fn aborts(module: &str, test: &str, message: &str, body: impl FnOnce() -> Kept) -> Kept {
    use std::os::unix::process::ExitStatusExt;

    let name = test_name(module, test);
    if is_child(&name) {
        return body();
    }
    let output = spawn(&name)?;
    let said = String::from_utf8_lossy(&output.stderr).contains(message);
    if output.status.signal() == Some(libc::SIGABRT) && said {
        Ok(())
    } else {
        Err(Complaint::new(format!(
            "a process should abort and say «{message}», and ended with {}",
            describe(&output)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = module_path!();

    #[test]
    fn a_test_is_known_by_its_path_within_the_crate() {
        assert_eq!(test_name("conformance", "x"), "x");
        assert_eq!(test_name("conformance::checked::tlsf", "x"), "checked::tlsf::x");
    }

    #[test]
    fn a_child_that_passes_passes() {
        let parent = std::process::id();
        in_child(MODULE, "a_child_that_passes_passes", || {
            let grandparent = std::os::unix::process::parent_id();
            assert!(!is_child("child::tests::a_child_that_passes_passes") || parent != grandparent);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_child_that_dies_is_a_complaint() {
        let kept = in_child(MODULE, "a_child_that_dies_is_a_complaint", || {
            // SAFETY: raising a signal has no preconditions.
            unsafe { libc::raise(libc::SIGKILL) };
            Ok(())
        });
        assert!(kept.unwrap_err().what().contains("signal: 9"));
    }

    #[test]
    fn a_child_without_a_test_is_a_complaint() {
        let kept = in_child(MODULE, "there_is_no_such_test", || Ok(()));
        assert!(kept.unwrap_err().what().contains("0 passed"));
    }

    #[test]
    fn an_abort_is_recognised() {
        aborts(MODULE, "an_abort_is_recognised", "last words", || {
            eprintln!("last words");
            std::process::abort()
        })
        .unwrap();
        let kept = aborts(MODULE, "an_abort_is_recognised", "other words", || Ok(()));
        assert!(kept.is_err());
    }
}
