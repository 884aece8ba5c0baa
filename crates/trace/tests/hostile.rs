//! Broken, cut and foreign files: a clear error, never a panic, never much memory.

mod common;

use common::{Choice, events};
use heapwright_trace::{Header, Problem, Trace, TraceError};
use proptest::prelude::*;

/// A small trace with everything in it.
fn small() -> Vec<u8> {
    let choices: Vec<_> = (0..60)
        .map(|index: usize| Choice {
            thread: (index % 3) as u8,
            what: (index * 7 % 5) as u8,
            which: index * 31,
            size: index * index * 100,
            log2_align: 4 + (index % 4) as u8,
            zeroed: index.is_multiple_of(3),
        })
        .collect();
    let header = Header { name: "small".into(), command: "made up".into(), note: String::new() };
    Trace::from_events(header, events(&choices)).expect("a trace").as_bytes().to_vec()
}

/// Reads all of it, and returns the first error.
fn read(bytes: Vec<u8>) -> Result<u64, TraceError> {
    let trace = Trace::from_bytes(bytes)?;
    let mut count = 0;
    for event in trace.events() {
        event?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn every_changed_byte_is_noticed() {
    let good = small();
    assert_eq!(read(good.clone()).expect("a good trace"), 60);
    for index in 0..good.len() {
        for change in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[index] ^= change;
            let error = read(bad).expect_err("a changed byte").to_string();
            assert!(
                error.contains("again")
                    || error.contains("not a trace")
                    || error.contains("version"),
                "{error}"
            );
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_noticed() {
    let good = small();
    for length in 1..good.len() {
        let error = read(good[..length].to_vec()).expect_err("a cut");
        assert!(matches!(error.problem(), Problem::Truncated { .. }), "at {length}: {error}");
    }
    assert!(matches!(read(Vec::new()).expect_err("an empty file").problem(), Problem::Foreign));
    for more in [&b"\0"[..], b"more", &good] {
        assert!(read([&good, more].concat()).is_err());
    }
}

#[test]
fn another_version_says_which() {
    let mut other = small();
    other[8] = 2;
    let error = read(other).expect_err("another version").to_string();
    assert!(error.contains("version 2") && error.contains("version 1"), "{error}");
}

#[test]
fn other_files_are_told_from_traces() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("some.file");
    for content in [
        &b""[..],
        b"#!/bin/sh\n",
        b"\x7fELF\x02\x01\x01",
        &[0; 5000],
        &[b'x'; 100_000],
        b"\x89PNG\r\n\x1a\n",
        b"PK",
    ] {
        std::fs::write(&path, content).expect("a file");
        for opened in [Trace::open(&path), Trace::load(&path)] {
            let error = opened.err().expect("not a trace");
            assert!(matches!(error.problem(), Problem::Foreign), "{error}");
            assert!(
                error.to_string().contains("some.file")
                    && error.to_string().contains("xtask record"),
                "{error}"
            );
        }
    }
    let error = Trace::load(directory.path().join("nothing.hwt")).err().expect("no file");
    assert!(
        error.to_string().contains("nothing.hwt") && error.to_string().contains("check the path"),
        "{error}"
    );
    assert!(Trace::load(directory.path()).is_err());
}

/// CRC-32 as the format has it, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), step))
}

/// Makes the head's checksum right again.
fn seal_head(bytes: &mut [u8]) {
    let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
    let end = length.clamp(20, bytes.len());
    let sum = crc(&[&bytes[..16], &bytes[20..end]].concat());
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// A file with one block, whose checksums are right whatever its numbers are.
fn file(head: &[u8], block: [u32; 5], packed: &[u8]) -> Vec<u8> {
    let mut block: Vec<u8> = block.iter().flat_map(|number| number.to_le_bytes()).collect();
    let sum = crc(&[&block, packed].concat());
    block.extend(sum.to_le_bytes());
    [head, &block, packed].concat()
}

fn head_length(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize
}

#[test]
fn lengths_that_lie_are_noticed_before_anything_is_reserved_for_them() {
    let good = small();
    let head_length = head_length(&good);
    // Every number of the head, made as large as it can be, under a right checksum.
    for offset in (8..112).step_by(4).chain([128]) {
        for value in [u32::MAX, 0x7fff_ffff, 0] {
            let mut bad = good.clone();
            bad[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            seal_head(&mut bad);
            // Some numbers nobody can check without counting: then the events are read as they are.
            let _ = read(bad);
        }
    }
    let (head, block) = good.split_at(head_length);
    let packed = &block[24..];
    let number =
        |index: usize| u32::from_le_bytes(block[index * 4..][..4].try_into().expect("four bytes"));
    let numbers = [0, 1, 2, 3, 4].map(number);
    assert!(read(file(head, numbers, packed)).is_ok());
    for index in 0..5 {
        for value in [0, 1, 61, 1 << 20, u32::MAX] {
            let mut numbers = numbers;
            if numbers[index] == value {
                continue;
            }
            numbers[index] = value;
            assert!(read(file(head, numbers, packed)).is_err(), "number {index} as {value}");
        }
    }
}

#[test]
fn a_block_that_unpacks_to_far_too_much_is_refused() {
    let good = small();
    let head = &good[..head_length(&good)];
    let bomb = zstd::bulk::compress(&vec![0; 1 << 28], 1).expect("zeros");
    assert!(bomb.len() < 1 << 20);
    for raw in [1 << 28, 1000, 0] {
        assert!(read(file(head, [60, 0, 0, raw, bomb.len() as u32], &bomb)).is_err());
    }
}

proptest! {
    /// Past the checksums: columns that nobody wrote.
    #[test]
    fn columns_of_anything_never_panic(
        columns in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 6),
        // Kinds that exist, so that the other columns are looked at.
        kinds in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), 0u8..32, any::<u8>()], 60),
    ) {
        let good = small();
        let head = &good[..head_length(&good)];
        let mut raw = Vec::new();
        let columns = [&[kinds], &columns[1..]].concat();
        raw.extend(columns.iter().flat_map(|column| (column.len() as u32).to_le_bytes()));
        raw.extend(columns.iter().flatten());
        let packed = zstd::bulk::compress(&raw, 1).expect("columns");
        let _ = read(file(head, [60, 0, 0, raw.len() as u32, packed.len() as u32], &packed));
    }

    #[test]
    fn bytes_of_anything_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let good = small();
        let _ = read(bytes.clone());
        let _ = read([&good[..8], &bytes].concat());
        let _ = read([&good[..head_length(&good)], &bytes].concat());
    }
}
