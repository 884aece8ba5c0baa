//! Programs whose requests are known, recorded.

mod common;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use common::{Recorded, aligned, compile, free, library, malloc};
use heapwright_trace::Op;
use heapwright_trace::record::{Findings, Options, Which, record};

#[test]
fn every_function_of_the_family_is_recorded_as_it_was_called() {
    let recorded = compile("family.c").record(&[]);
    assert_eq!(recorded.status.code(), Some(0));
    let [process] = &recorded.processes[..] else { panic!("one process") };
    let page = 4096;
    let expected = [
        malloc(0, 100),
        Op::Allocate { object: 1, size: 200, align: 16, zeroed: true },
        Op::Reallocate { object: 0, size: 300_000 },
        malloc(2, 5),
        malloc(3, 0),
        aligned(4, 128, 64),
        aligned(5, 10, 4096),
        aligned(6, 70_000, 32),
        aligned(7, 10, page),
        aligned(8, page, page),
        Op::Reallocate { object: 1, size: 63 },
        free(2),
        malloc(9, 5 << 30),
        free(9),
        free(0),
        free(3),
        free(4),
        free(5),
        free(6),
        free(7),
        free(8),
    ];
    assert_eq!(process.ops, expected);
    assert_eq!(process.written.findings, Findings::default());
}

#[test]
fn operator_new_is_recorded() {
    let recorded = compile("objects.cpp").record(&[]);
    assert!(recorded.status.success());
    let ops = &recorded.processes[0].ops;
    // The C++ library may have allocated before.
    let first =
        recorded.processes[0].sizes().iter().position(|&size| size == 4000).expect("the array");
    let first = first as u32;
    let start = ops.iter().position(|&op| op == malloc(first, 4000)).expect("the array");
    let expected = [malloc(first, 4000), aligned(first + 1, 64, 64), free(first), free(first + 1)];
    assert_eq!(ops[start..start + 4], expected);
}

#[test]
fn threads_that_hand_each_other_blocks_leave_a_consistent_trace() {
    // Without caches of their own, threads are given each other's addresses as soon as these are free.
    let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
    let recorded =
        compile("threads.c").record_in_shell(&format!("GLIBC_TUNABLES={tunables} exec $0"));
    assert!(recorded.status.success());
    let process = &recorded.processes[0];
    let summary = &process.written.summary;
    // That no block is freed before it is allocated, and none twice, `Trace::events` has checked; that no such event
    // had to be left out or made up is said here.
    assert_eq!(process.written.findings, Findings::default());
    assert_eq!(summary.threads, 5);
    assert!(summary.cross_thread > 1000, "{summary:?}");

    // Each thread's own requests are all there: its sizes tell which are its.
    let mut by_thread: HashMap<u32, Vec<usize>> = HashMap::new();
    for (op, thread) in process.ops.iter().zip(&process.threads) {
        if let Op::Allocate { size, .. } = op {
            by_thread.entry(*thread).or_default().push(*size);
        }
    }
    let workers: Vec<_> = by_thread.values().filter(|sizes| sizes.len() == 30_000).collect();
    assert_eq!(workers.len(), 4);
    for sizes in workers {
        assert!(sizes.iter().all(|size| size % 8 == sizes[0] % 8));
    }
}

#[test]
fn threads_that_come_and_go_share_chunks_and_are_recorded_to_their_last_words() {
    // 2 MiB of raw file are seven chunks. If each of the threads kept one, most events would be lost.
    let recorded = compile("newcomers.c").record_in_shell("ulimit -f 4096; exec $0 300");
    assert!(recorded.status.success());
    let process = &recorded.processes[0];
    assert_eq!(process.written.findings, Findings::default());
    let count = |wanted| process.sizes().iter().filter(|&&size| size == wanted).count();
    assert_eq!([count(11), count(33), count(77)], [300, 300, 300]);
    let live: Vec<_> = process.ops.iter().filter(|op| matches!(op, Op::Free { .. })).collect();
    assert!(live.len() >= 900);
    assert_eq!(process.written.summary.threads, 301);
}

#[test]
fn a_full_raw_file_is_reported_and_the_program_goes_on() {
    let recorded = compile("threads.c").record_in_shell("ulimit -f 2048; exec $0");
    assert!(recorded.status.success());
    let process = &recorded.processes[0];
    assert!(process.written.findings.lost > 1000, "{}", process.written.findings);
    assert!(!process.written.findings.is_clean());
}

#[test]
fn a_program_with_few_addresses_keeps_most_of_them() {
    // Of six gigabytes, the raw file takes at most an eighth; the program asks for five at once.
    let recorded = compile("family.c").record_in_shell("ulimit -v 6291456; exec $0");
    assert_eq!(recorded.status.code(), Some(0));
    assert_eq!(recorded.processes[0].written.findings, Findings::default());
}

/// The requests of `endings.c`.
fn endings() -> Vec<Op> {
    let allocations = (0..1000).map(|object| malloc(object, object as usize + 1));
    allocations.chain((0..1000).step_by(2).map(free)).collect()
}

#[test]
fn nothing_is_lost_however_the_program_ends() {
    let program = compile("endings.c");
    for way in ["return", "exit", "_exit", "kill", "abort", "crash"] {
        let Recorded { status, processes } = program.record(&[way]);
        let end = match way {
            "return" => (Some(5), None),
            "exit" => (Some(4), None),
            "_exit" => (Some(3), None),
            "kill" => (None, Some(libc::SIGKILL)),
            "abort" => (None, Some(libc::SIGABRT)),
            _ => (None, Some(libc::SIGSEGV)),
        };
        assert_eq!((status.code(), status.signal()), end, "{way}");
        assert_eq!(processes.len(), 1, "{way}");
        assert_eq!(processes[0].ops, endings(), "{way}");
        assert_eq!(processes[0].written.findings, Findings::default(), "{way}");
    }
}

#[test]
fn a_kill_in_the_middle_of_requests_costs_at_most_the_one_that_each_thread_was_in() {
    let recorded = compile("killed.c").record(&[]);
    assert_eq!(recorded.status.signal(), Some(libc::SIGKILL));
    let process = &recorded.processes[0];
    let findings = &process.written.findings;
    assert!(findings.missing <= 3, "{findings}");
    let mut others = findings.clone();
    others.missing = 0;
    assert_eq!(others, Findings::default());
    assert!(process.ops.len() > 1000);
}

#[test]
fn exec_begins_a_new_trace_and_keeps_the_old_one() {
    let recorded = compile("endings.c").record(&["exec"]);
    assert_eq!(recorded.status.code(), Some(4));
    let [before, after] = &recorded.processes[..] else { panic!("two programs") };
    assert_eq!(before.ops, endings());
    assert_eq!(after.ops, endings());
    assert_eq!(before.written.process.pid, after.written.process.pid);
    let mut images = [before.written.process.image, after.written.process.image];
    images.sort_unstable();
    assert_eq!(images, [0, 1]);
    assert!(after.written.process.forked_from.is_none());
}

#[test]
fn a_fork_begins_a_trace_with_the_blocks_that_the_child_goes_on_with() {
    let recorded = compile("family_tree.c").record(&[]);
    assert!(recorded.status.success());
    let find = |forked_from| {
        let is = |process: &&common::Process| process.written.process.forked_from == forked_from;
        recorded.processes.iter().find(is).expect("a process that was forked there")
    };
    let parent = find(None);
    let child = find(Some((parent.written.process.pid, 0)));
    let grandchild = find(Some((child.written.process.pid, 0)));
    let parent_ops = [
        malloc(0, 100),
        Op::Allocate { object: 1, size: 200, align: 16, zeroed: true },
        aligned(2, 320, 64),
        malloc(3, 400),
        malloc(4, 500),
        free(4),
        Op::Reallocate { object: 1, size: 220 },
        Op::Reallocate { object: 2, size: 330 },
        free(0),
        malloc(5, 600),
        free(5),
    ];
    assert_eq!(parent.ops, parent_ops);
    assert_eq!(parent.written.findings, Findings::default());

    // The child uses the first and the fourth block of its parent.
    let child_ops = [
        malloc(0, 100),
        malloc(1, 400),
        malloc(2, 1000),
        free(0),
        Op::Reallocate { object: 1, size: 4000 },
        free(2),
    ];
    assert_eq!(child.ops, child_ops);
    assert_eq!(child.written.findings.inherited, 2);
    assert!(child.written.findings.is_clean(), "{}", child.written.findings);

    // The grandchild uses one of its grandparent and two of its parent, which had resized one of them.
    let grandchild_ops = [
        Op::Allocate { object: 0, size: 220, align: 16, zeroed: true },
        malloc(1, 1000),
        malloc(2, 4000),
        free(1),
        free(0),
        free(2),
        malloc(3, 10_000),
        free(3),
    ];
    assert_eq!(grandchild.ops, grandchild_ops);
    assert_eq!(grandchild.written.findings.inherited, 3);
    assert!(grandchild.written.findings.is_clean(), "{}", grandchild.written.findings);
}

#[test]
fn children_that_share_memory_until_exec_leave_the_parents_trace_whole() {
    let recorded = compile("spawn.c").record(&[]);
    assert!(recorded.status.success());
    let mut all: Vec<_> = recorded.processes.iter().map(common::Process::sizes).collect();
    all.sort();
    assert_eq!(all, [vec![1111, 2222, 3333], vec![4242], vec![4242]]);
    for process in &recorded.processes {
        assert_eq!(process.written.findings, Findings::default());
        assert_eq!(process.written.summary.end_live_objects, 0);
    }
}

#[test]
fn a_program_that_closes_all_files_is_recorded_on() {
    let recorded = compile("closes.c").record(&[]);
    assert!(recorded.status.success());
    assert_eq!(recorded.processes[0].sizes().len(), 200_001);
    assert_eq!(recorded.processes[0].written.findings, Findings::default());
}

#[test]
fn a_process_that_outlives_the_command_is_recorded_so_far() {
    let recorded = compile("survivor.c").record(&[]);
    assert!(recorded.status.success());
    let expected: Vec<usize> = (1..=500).collect();
    assert_eq!(recorded.processes[0].sizes(), expected);
}

#[test]
fn other_preloads_are_kept() {
    // The other library is to be in this process's own environment, so the test starts itself once more with it. A
    // library whose `getpid` is not the true one, and a program that tells, show whether it was loaded.
    if env::var_os("LD_PRELOAD").is_some() {
        let recorded = compile("pid.c").record(&[]);
        assert_eq!(recorded.status.code(), Some(77));
        assert_eq!(recorded.processes[0].sizes(), [123]);
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = directory.path().join("other.c");
    let other = directory.path().join("other.so");
    fs::write(&source, "int getpid(void) { return 77; }").expect("a file");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&other, &source]).status();
    assert!(status.expect("a C compiler").success());
    let test = Command::new(env::current_exe().expect("the test's own path"))
        .args(["--exact", "other_preloads_are_kept"])
        .env("LD_PRELOAD", &other)
        .output()
        .expect("the test");
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
    assert!(String::from_utf8_lossy(&test.stdout).contains("1 passed"));
}

#[test]
fn interrupts_are_for_the_command() {
    // This process would end if they were for it.
    let recorded = compile("interrupts.c").record(&[]);
    assert!(recorded.status.success());
    assert_eq!(recorded.processes[0].sizes(), [1]);
}

#[test]
fn only_what_was_asked_for_is_written() {
    let program = compile("endings.c");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let command = [program.path().into(), "exec".into()];
    let recording = record(&command, &library(), &Options::default()).expect("a recording");
    assert_eq!(recording.processes().len(), 2);
    let file = directory.path().join("one.hwt");
    for (which, expected) in
        [(Which::Largest, 1), (Which::AtLeast(1501), 1), (Which::AtLeast(1500), 2), (Which::All, 2)]
    {
        let mut last = 0;
        let written = recording
            .write(&file, which, &mut |progress| {
                assert!(progress.done <= progress.process.events && progress.total_done >= last);
                last = progress.total_done;
            })
            .expect("traces");
        assert_eq!(written.len(), expected, "{which:?}");
        assert_eq!(last, 1500 * expected as u64);
        assert_eq!(written[0].path, file);
        if let Some(second) = written.get(1) {
            let name = format!("one.{}-{}.hwt", second.process.pid, second.process.image);
            assert_eq!(second.path, directory.path().join(name));
        }
    }
}

#[test]
fn what_cannot_be_recorded_says_why() {
    let message = |command: &[&str], library: &Path| {
        let command: Vec<_> = command.iter().map(Into::into).collect();
        record(&command, library, &Options::default()).expect_err("no recording").to_string()
    };
    let nowhere = Path::new("nowhere/libheapwright_recorder.so");
    assert!(message(&["true"], nowhere).contains("cargo build --release -p heapwright-recorder"));
    assert!(message(&[], &library()).contains("no command"));
    assert!(message(&["no-such-program-here"], &library()).contains("check the command's name"));

    // A program that never allocates.
    let idle = compile("idle.c");
    let recording =
        record(&[idle.path().into()], &library(), &Options::default()).expect("a recording");
    assert_eq!(recording.status().code(), Some(6));
    assert!(recording.processes().is_empty());
    let error =
        recording.write(Path::new("idle.hwt"), Which::All, &mut |_| {}).expect_err("no trace");
    assert!(error.to_string().contains("never allocates"), "{error}");
}
