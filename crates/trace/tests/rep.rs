//! The CS:APP text format.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use heapwright_trace::{Event, Op, Problem, Trace, TraceError};
use proptest::prelude::*;
use tempfile::TempDir;

/// Loads a file with this content.
fn load(content: &[u8]) -> Result<Trace, TraceError> {
    let (_directory, path) = file("some.trace.rep", content);
    Trace::load(path)
}

fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("a file");
    (directory, path)
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

fn ops(trace: &Trace) -> Vec<Op> {
    trace
        .events()
        .map(|event| match event.unwrap_or_else(|error| panic!("{error}")) {
            Event { thread: 0, op } => op,
            other => panic!("{other:?} in a format without threads"),
        })
        .collect()
}

fn allocate(object: u32, size: usize) -> Op {
    Op::Allocate { object, size, align: 16, zeroed: false }
}

const SAMPLE: &str = "20000\n3\n8\n1\na 0 512\na 7 128\nr 0 640\nf 7\nr 9 10\na 7 0\nf 0\nf -1\n";

fn sample_ops() -> Vec<Op> {
    vec![
        allocate(0, 512),
        allocate(1, 128),
        Op::Reallocate { object: 0, size: 640 },
        Op::Free { object: 1 },
        allocate(2, 10),
        allocate(3, 0),
        Op::Free { object: 0 },
    ]
}

#[test]
fn operations_become_events() {
    let trace = load(SAMPLE.as_bytes()).expect("a trace");
    assert_eq!(ops(&trace), sample_ops());
    assert_eq!(trace.summary().name, "some.trace");
    assert_eq!((trace.summary().events, trace.summary().objects), (7, 4));
}

#[test]
fn line_ends_blank_lines_and_spaces_do_not_matter() {
    let crlf = SAMPLE.replace('\n', "\r\n");
    let airy = format!("\n\n{}", SAMPLE.replace('\n', " \n\n").replace("a 0 512", "  a\t0  512"));
    let open = SAMPLE.trim_end();
    for text in [&crlf, &airy, open] {
        assert_eq!(ops(&load(text.as_bytes()).expect("a trace")), sample_ops());
    }
}

#[test]
fn gzip_is_known_by_its_content_not_by_its_name() {
    // Also in several parts, as `cat a.gz b.gz` and parallel compressors make it.
    let (first, second) = SAMPLE.as_bytes().split_at(30);
    for content in [packed(SAMPLE.as_bytes()), [packed(first), packed(second)].concat()] {
        assert_eq!(ops(&load(&content).expect("a trace")), sample_ops());
    }
    let (_directory, path) = file("clang.rep.gz", SAMPLE.as_bytes());
    let trace = Trace::load(&path).expect("a trace");
    assert_eq!((ops(&trace), trace.summary().name.as_str()), (sample_ops(), "clang"));
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    for (line, why) in [
        ("f 1", "id 1 is freed, but is not allocated"),
        ("a 0 5", "id 0 is allocated, and was not freed before"),
        ("a 5", "no size"),
        ("a", "no id"),
        ("a x 5", "`x` is not an id"),
        ("a -1 5", "`-1` is not an id"),
        ("f -2", "`-2` is not an id"),
        ("a 1 -5", "`-5` is not a size"),
        ("a 1 99999999999999999999", "is not a size"),
        ("a 1 9223372036854775807", "cannot be asked for"),
        ("a 1 5 5", "`5` is too much"),
        ("x 1 5", "is no operation"),
        ("a\u{e9} 1 5", "is no operation"),
    ] {
        let text = format!("1\n1\n3\n1\n\na 0 1\n{line}\nf 0\n");
        let error = load(text.as_bytes()).err().expect(line);
        assert!(matches!(error.problem(), Problem::Line { line: 7, .. }), "{line}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("some.trace.rep: line 7: ") && message.contains(why),
            "{message} should say: {why}"
        );
    }
    let latin1 = [b"1\n1\n3\n1\na 0 1\n".as_slice(), b"\xe9\n"].concat();
    assert!(load(&latin1).err().expect("no text").to_string().contains("line 6: it is not text"));
    let long = format!("1\n1\n3\n1\na 0 1\na 1 {}\n", "1".repeat(1000));
    assert!(
        load(long.as_bytes())
            .err()
            .expect("a long line")
            .to_string()
            .contains("line 6: it is longer")
    );
}

#[test]
fn a_wrong_head_or_a_wrong_count_is_an_error() {
    let message = |text: &str| load(text.as_bytes()).err().expect(text).to_string();
    assert!(
        message("20000\n3\na 0 512\n")
            .contains("line 3: there are 2 lines of numbers where 4 are expected")
    );
    assert!(message("20000\n3\n").contains("the end of the head is missing"));
    assert!(
        message("1\n1\n3\n1\na 0 1\n")
            .contains("ends after 1 operations, and its third line says 3")
    );
    assert!(
        message("1\n1\n1\n1\na 0 1\nf 0\n").contains("has 2 operations, and its third line says 1")
    );
}

#[test]
fn every_cut_and_every_change_of_a_compressed_file_is_noticed() {
    let whole = packed(SAMPLE.as_bytes());
    for length in 2..whole.len() {
        let error = load(&whole[..length]).err().expect("a cut file").to_string();
        assert!(error.contains("again") || error.contains("not a trace"), "{error}");
    }
    let mut harmless = 0;
    for index in 10..whole.len() {
        let mut bad = whole.clone();
        bad[index] ^= 0x10;
        if let Ok(trace) = load(&bad) {
            // The last byte of the compressed data has bits that mean nothing.
            assert_eq!(ops(&trace), sample_ops(), "byte {index}");
            harmless += 1;
        }
    }
    assert!(harmless <= 1);
}

proptest! {
    #[test]
    fn text_of_anything_never_panics(text in "[arf0-9 \\-\n\r]{0,200}", head in any::<bool>()) {
        let text = if head { format!("1\n2\n3\n4\n{text}") } else { text };
        let _ = load(text.as_bytes());
    }
}
