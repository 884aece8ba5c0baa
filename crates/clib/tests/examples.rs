//! The library as C programs use it: installed by `cargo xtask clib`, moved elsewhere, found by compilers.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use heapwright_benches::registry::STRATEGIES;
use tempfile::TempDir;

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    /// With the shared library.
    Shared,
    /// With `libheapwright.a` and the shared libraries of the system.
    Archive,
}

/// Where the library is: what cargo built, which cargo does only when it is asked to, moved from where it was put.
fn prefix() -> &'static Path {
    static PREFIX: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let test = env::current_exe().expect("the test's own path");
        let target =
            test.ancestors().nth(3).expect("the target directory, above PROFILE/deps/TEST");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let built = directory.path().join("built");
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "xtask", "--", "clib", "--prefix"])
            .arg(&built)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target)
            .output()
            .expect("cargo");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let moved = directory.path().join("moved");
        std::fs::rename(&built, &moved).expect("the installed library");
        (directory, moved)
    });
    &PREFIX.1
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a compiler, strictly, and returns the program.
fn compile(
    directory: &TempDir,
    compiler: &str,
    flags: &[&str],
    source: &str,
    linked: Linked,
) -> PathBuf {
    let prefix = prefix();
    let program = directory.path().join("program");
    let mut command = Command::new(compiler);
    command
        .args(["-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .args(flags)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .args(["-x", "none", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(prefix.join("include"));
    let lib = prefix.join("lib");
    match linked {
        Linked::Shared => command
            .arg("-L")
            .arg(&lib)
            .args(["-lheapwright", "-Xlinker", "-rpath", "-Xlinker"])
            .arg(&lib),
        Linked::Archive => command
            .arg(lib.join("libheapwright.a"))
            .args(pc("Libs.private").split(' ').filter(|library| !library.is_empty())),
    };
    succeeds(&mut command);
    program
}

/// A field of the installed heapwright.pc.
fn pc(field: &str) -> String {
    let file = prefix().join("lib/pkgconfig/heapwright.pc");
    let content = std::fs::read_to_string(file).expect("heapwright.pc");
    let line = content.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("heapwright.pc has no {field}")).to_owned()
}

/// What a command prints that must succeed.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Output { status, stdout, stderr } = output;
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// Numbers that begin with 0x are replaced, each by the same letter wherever it stands.
fn mask_addresses(output: &str) -> String {
    let mut addresses = Vec::new();
    let mut masked = String::new();
    let mut rest = output;
    while let Some(at) = rest.find("0x") {
        let end = rest[at + 2..]
            .find(|c: char| !c.is_ascii_hexdigit())
            .map_or(rest.len(), |n| at + 2 + n);
        let address = &rest[at..end];
        let index = addresses.iter().position(|known| *known == address).unwrap_or_else(|| {
            addresses.push(address);
            addresses.len() - 1
        });
        masked.push_str(rest[..at].trim_end_matches(' '));
        masked.push_str(" @");
        masked.push(char::from(b'A' + u8::try_from(index).expect("few addresses")));
        rest = &rest[end..];
    }
    masked + rest
}

/// Compiles an example in both ways, and holds its output to `expected`.
fn example_prints(source: &str, expected: &str) {
    for linked in [Linked::Shared, Linked::Archive] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program =
            compile(&directory, "cc", &["-std=c99"], &format!("examples/c/{source}"), linked);
        let printed = succeeds(&mut Command::new(program));
        assert_eq!(mask_addresses(&printed), expected, "{source}, {linked:?}");
    }
}

#[test]
fn int_array_prints_its_numbers() {
    let lines: Vec<_> = (0..10).map(|i| format!("numbers[{i}] = {}\n", i * i)).collect();
    example_prints("int_array.c", &lines.concat());
}

#[test]
fn zeroed_array_is_zero_where_memory_was_used() {
    example_prints(
        "zeroed_array.c",
        "\
before: -1 -1 -1 -1 -1 -1 -1 -1
after:  0 0 0 0 0 0 0 0
SIZE_MAX numbers are too many.
",
    );
}

#[test]
fn string_grown_keeps_its_words() {
    example_prints(
        "string_grown.c",
        " 2 bytes: A
 8 bytes: A block
14 bytes: A block grows
17 bytes: A block grows in
23 bytes: A block grows in place
29 bytes: A block grows in place while
35 bytes: A block grows in place while there
38 bytes: A block grows in place while there is
44 bytes: A block grows in place while there is room.
The copy is the same.
",
    );
}

#[test]
fn print_blocks_prints_the_list_and_the_sums() {
    example_prints(
        "print_blocks.c",
        "\
Allocated. In use: 3 (624 bytes); free: 1 (64800 bytes).
           address         size  state       next free
 @A          112  used
 @B          208  used
 @C          304  used
 @D        64800  wilderness

Freed. In use: 1 (304 bytes); free: 3 (65120 bytes).
           address         size  state       next free
 @A          112  free @B
 @B          208  free
 @C          304  used
 @D        64800  wilderness

Used again. In use: 2 (416 bytes); free: 2 (65008 bytes).
           address         size  state       next free
 @A          112  used
 @B          208  free
 @C          304  used
 @D        64800  wilderness

The heap is sound.
",
    );
}

/// What `by_name.c` prints: a line for each strategy that there is.
fn all_ok() -> String {
    let names = STRATEGIES.iter().map(|strategy| strategy.name.replace('-', "_"));
    names.chain(["helpers".to_owned()]).map(|name| format!("{name} ok\n")).collect()
}

#[test]
fn every_function_of_every_strategy_keeps_to_the_rules_of_c() {
    for linked in [Linked::Shared, Linked::Archive] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program =
            compile(&directory, "cc", &["-std=gnu99"], "tests/programs/by_name.c", linked);
        assert_eq!(succeeds(&mut Command::new(program)), all_ok(), "{linked:?}");
    }
}

#[test]
fn the_header_serves_cpp_programs() {
    for linked in [Linked::Shared, Linked::Archive] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let flags = ["-std=c++11", "-x", "c++"];
        let program = compile(&directory, "c++", &flags, "tests/programs/by_name.c", linked);
        assert_eq!(succeeds(&mut Command::new(program)), all_ok(), "{linked:?}");
    }
}

#[test]
fn each_strategy_of_the_registry_has_its_functions_and_each_function_a_comment() {
    let header = std::fs::read_to_string(prefix().join("include/heapwright.h")).expect("a header");
    for strategy in STRATEGIES {
        let name = strategy.name.replace('-', "_");
        for function in
            ["malloc", "calloc", "realloc", "free", "usable_size", "stats", "print", "check"]
        {
            let call = format!("hw_{name}_{function}(");
            assert!(header.contains(&call), "no {call}…): `build.rs` has no line for {name}?");
        }
    }
    let lines: Vec<_> = header.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].ends_with(");")) {
        assert!(pair[0].starts_with("// "), "without a comment: {}", pair[1]);
    }
    assert!(lines.iter().all(|line| line.len() <= 100 && !line.ends_with(' ')));
}

#[test]
fn nothing_but_functions_with_the_prefix_is_exported() {
    let library = prefix().join("lib/libheapwright.so");
    let symbols = succeeds(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(names.len(), STRATEGIES.len() * 8 + 2);
    assert!(names.iter().all(|name| name.starts_with("hw_")), "{names:?}");
}

/// Strategies that find misuse, as the header says of their `free`.
const CHECKED: [&str; 5] = ["lifo_mmap", "coalescing", "buddy", "kingsley", "pool"];

#[test]
fn misuse_that_is_found_ends_the_program_with_a_message() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let flags = ["-std=gnu99", "-Wno-unused-result"];
    let program = compile(&directory, "cc", &flags, "tests/programs/misuse.c", Linked::Shared);
    for name in CHECKED {
        for (misuse, message) in [
            ("double-free", "double free of "),
            ("realloc-freed", "double free of "),
            ("invalid-free", "invalid free of "),
        ] {
            let output = Command::new(&program).args([name, misuse]).output().expect("the program");
            let error = text(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{name}, {misuse}: {error}");
            let said = error.lines().last().unwrap_or_default();
            assert!(
                said.starts_with(&format!("heapwright: {message}0x")),
                "{name}, {misuse}: {error}"
            );
        }
    }
    let header = std::fs::read_to_string(prefix().join("include/heapwright.h")).expect("a header");
    let says = |name: &str| {
        let call = header.find(&format!("void hw_{name}_free(")).expect("the function");
        header[..call].ends_with("A double or invalid free ends the program with a message.\n")
    };
    for strategy in STRATEGIES {
        let name = strategy.name.replace('-', "_");
        assert_eq!(says(&name), CHECKED.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_thread_may_end_after_the_program_has_let_go_of_the_library() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let flags = ["-std=gnu99", "-pthread"];
    let program = compile(&directory, "cc", &flags, "tests/programs/unloaded.c", Linked::Archive);
    let library = prefix().join("lib/libheapwright.so");
    assert_eq!(succeeds(Command::new(program).arg(library)), "ended\n");
}

#[test]
fn a_broken_heap_is_said_to_be_broken_and_how() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let flags = ["-std=gnu99", "-Wno-unused-result"];
    let program = compile(&directory, "cc", &flags, "tests/programs/misuse.c", Linked::Shared);
    // Those with headers between the blocks.
    for name in [
        "first_fit_sbrk",
        "lifo_mmap",
        "coalescing",
        "segregated_fit",
        "tlsf",
        "best_fit",
        "first_fit",
    ] {
        let printed = succeeds(Command::new(&program).args([name, "overrun"]));
        let lines: Vec<_> = printed.lines().collect();
        let [returned, message, start] = lines[..] else { panic!("{name}: {printed}") };
        assert_eq!(returned, "-1 -1 -1", "{name}");
        assert!(message.starts_with("broken at 0x"), "{name}: {message}");
        assert_eq!(start, "broken ", "{name}: cut to eight bytes");
    }
}

#[test]
fn pkg_config_finds_the_library_where_it_was_moved_to() {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        skipped("pkg-config");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/c/int_array.c");
        shell.args(["-ec", script, "sh", source]).current_dir(directory.path());
        succeeds(shell.env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig")))
    };
    assert_eq!(shell("pkg-config --modversion heapwright").trim(), env!("CARGO_PKG_VERSION"));
    // As in the README of the examples.
    let shared = "cc $1 $(pkg-config --cflags --libs heapwright) \
                  -Wl,-rpath,$(pkg-config --variable=libdir heapwright)";
    let fixed = "cc -static $1 $(pkg-config --static --cflags --libs heapwright)";
    let mut compiles = vec![shared];
    if shell("cc -print-file-name=libc.a").starts_with('/') {
        compiles.push(fixed);
    } else {
        skipped("libc.a, the C library for programs that are linked statically,");
    }
    for compile in compiles {
        let printed = shell(&format!("{compile}; ./a.out"));
        assert!(printed.ends_with("numbers[9] = 81\n"), "{compile}: {printed}");
    }
}

/// Says on the terminal, which a test's own output does not reach, what could not be tried.
fn skipped(missing: &str) {
    use std::io::Write;
    let line = format!("SKIPPED: {missing} is not installed\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error");
}
