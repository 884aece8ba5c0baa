//! Adding a policy takes one file and one line, and the policy is in the table: tried on a copy of the workspace,
//! with the policy from the front page of `core`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "close-fit";
const LINE: &str = r#"    policy!("close-fit", "close_fit.rs", CloseFit, "the first block that fits within an eighth"),"#;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Copies the sources: all but what is built, wherever that is, and what git keeps.
fn copy(from: &Path, to: &Path, built: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "target" || name == ".git" || entry.path() == built {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name), built);
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// The policy of `core`'s front page, from its imports to the end of its last item.
fn policy_of_the_front_page() -> String {
    let page = fs::read_to_string(workspace().join("crates/core/src/lib.rs")).unwrap();
    let code: Vec<_> = page
        .lines()
        .skip_while(|line| !line.starts_with("//! use heapwright_core::{Broken"))
        .take_while(|line| !line.starts_with("//! use core::alloc::Layout"))
        .map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or(""))
        .collect();
    code.join("\n").replace("struct CloseFit", "pub struct CloseFit") + "\n"
}

#[test]
fn adding_a_policy_takes_one_file_and_one_line() {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(3).expect("the target directory, above PROFILE/deps/TEST");
    // Always in the same place, so that what is built for it takes the place of what was built before.
    let copied = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adding-a-policy");
    let _ = fs::remove_dir_all(&copied);
    copy(&workspace(), &copied, built);

    fs::write(copied.join("benches/src/close_fit.rs"), policy_of_the_front_page()).unwrap();
    let registry = copied.join("benches/src/registry.rs");
    let text = fs::read_to_string(&registry).unwrap();
    let (before, after) = text.split_once("STRATEGIES: &[Contender] = &[\n").unwrap();
    fs::write(&registry, format!("{before}STRATEGIES: &[Contender] = &[\n{LINE}\n{after}"))
        .unwrap();

    // Libraries of others that were built for the workspace serve the copy too. Its programs go elsewhere: there are
    // some of the same names.
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "heapwright-benches", "--"])
        .args(["--quick", "--only", "fixed-64,gcc", "--strategies", NAME])
        .current_dir(&copied)
        .env("CARGO_BUILD_BUILD_DIR", built)
        .env("CARGO_TARGET_DIR", copied.join("target"))
        .output()
        .unwrap();
    fs::remove_dir_all(&copied).unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row = table.lines().find(|line| line.contains(NAME));
    assert!(row.is_some_and(|row| row.contains(|c: char| c.is_ascii_digit())), "{table}");
}
