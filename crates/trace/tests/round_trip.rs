//! What is written is what is read, and the summary tells the truth about it.

mod common;

use std::collections::HashMap;
use std::collections::HashSet;

use common::{Choice, events};
use heapwright_trace::{Event, Header, Op, Problem, Summary, Trace, Writer};
use proptest::prelude::*;

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let size = prop_oneof![4 => 0usize..300, 2 => 0usize..1 << 20, 1 => 0usize..1 << 45];
    let log2_align = prop_oneof![5 => Just(4u8), 1 => 0u8..31];
    let choice = (0u8..5, 0u8..5, any::<usize>(), size, log2_align, any::<bool>());
    let choice = choice.prop_map(|(thread, what, which, size, log2_align, zeroed)| Choice {
        thread,
        what,
        which,
        size,
        log2_align,
        zeroed,
    });
    proptest::collection::vec(choice, 0..400)
}

/// The summary, counted in the plainest way.
fn summary_of(header: &Header, events: &[Event]) -> Summary {
    let mut live: HashMap<u32, (usize, u32)> = HashMap::new();
    let mut summary = Summary {
        name: header.name.clone(),
        command: header.command.clone(),
        note: header.note.clone(),
        events: events.len() as u64,
        max_align: 16,
        ..Summary::default()
    };
    for &Event { thread, op } in events {
        let old = live.get(&op.object()).copied();
        summary.cross_thread += u64::from(old.is_some_and(|(_, owner)| owner != thread));
        match op {
            Op::Allocate { object, size, align, .. } => {
                live.insert(object, (size, thread));
                summary.objects += 1;
                summary.max_align = summary.max_align.max(align);
                summary.max_size = summary.max_size.max(size);
                summary.total_bytes += size as u64;
            }
            Op::Reallocate { object, size } => {
                let (old, owner) = old.expect("a live object");
                live.insert(object, (size, owner));
                summary.reallocations += 1;
                summary.max_size = summary.max_size.max(size);
                summary.total_bytes += size.saturating_sub(old) as u64;
            }
            Op::Free { object } => {
                live.remove(&object);
                summary.frees += 1;
            }
        }
        summary.end_live_objects = live.len() as u32;
        summary.end_live_bytes = live.values().map(|&(size, _)| size as u64).sum();
        summary.peak_live_objects = summary.peak_live_objects.max(summary.end_live_objects);
        summary.peak_live_bytes = summary.peak_live_bytes.max(summary.end_live_bytes);
    }
    summary.threads = events.iter().map(|event| event.thread).collect::<HashSet<_>>().len() as u32;
    summary
}

fn read(trace: &Trace) -> Vec<Event> {
    trace.events().map(|event| event.unwrap_or_else(|error| panic!("{error}"))).collect()
}

proptest! {
    #[test]
    fn every_trace_survives_the_way_through_a_file(
        choices in choices(), name in ".{0,20}", command in ".{0,200}", note in ".{0,20}",
    ) {
        let events = events(&choices);
        let header = Header { name, command, note };
        let expected = summary_of(&header, &events);

        let in_memory = Trace::from_events(header.clone(), events.iter().copied()).expect("a trace");
        prop_assert_eq!(in_memory.summary(), &expected);
        prop_assert_eq!(read(&in_memory), events.clone());

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("trace.hwt");
        let mut writer = Writer::create(&path, header).expect("a writer");
        for &event in &events {
            writer.push(event).expect("a valid event");
        }
        prop_assert_eq!(&writer.finish().expect("a file"), &expected);
        for trace in [Trace::open(&path), Trace::load(&path)] {
            let trace = trace.expect("a trace");
            prop_assert_eq!(trace.summary(), &expected);
            prop_assert_eq!(read(&trace), events.clone());
        }
    }
}

#[test]
fn a_trace_of_many_blocks_is_read_across_their_borders() {
    let mut random = 1u64;
    let mut next = || {
        random = random * 16807 % 2_147_483_647;
        random as usize
    };
    let choices: Vec<_> = (0..300_000)
        .map(|_| Choice {
            thread: (next() % 3) as u8,
            what: (next() % 3) as u8,
            which: next(),
            size: next() % 5000,
            log2_align: 4 + (next() % 50 == 0) as u8,
            zeroed: next() % 9 == 0,
        })
        .collect();
    let events = events(&choices);
    let trace = Trace::from_events(Header::named("long"), events.iter().copied()).expect("a trace");
    assert_eq!(read(&trace), events);
    assert_eq!(trace.summary().events, 300_000);
    // Taken from the bytes of one trace, another is the same.
    let again = Trace::from_bytes(trace.as_bytes().to_vec()).expect("a trace");
    assert_eq!(again.summary(), trace.summary());
}

#[test]
fn an_empty_trace_is_a_trace() {
    let trace = Trace::from_events(Header::default(), []).expect("a trace");
    assert_eq!(read(&trace), []);
    assert_eq!(*trace.summary(), Summary { max_align: 16, ..Summary::default() });
}

fn allocate(object: u32, size: usize) -> Event {
    Event { thread: 0, op: Op::Allocate { object, size, align: 16, zeroed: false } }
}

#[test]
fn events_that_cannot_be_are_refused_and_change_nothing() {
    let mut writer = Writer::in_memory(Header::named("strict")).expect("a writer");
    writer.push(allocate(0, 10)).expect("the first object");
    let free = |object| Event { thread: 0, op: Op::Free { object } };
    let aligned = |align, size| Event {
        thread: 0,
        op: Op::Allocate { object: 1, size, align, zeroed: false },
    };
    for (event, why) in [
        (allocate(0, 1), "object 0 is allocated where 1 is next"),
        (allocate(2, 1), "object 2 is allocated where 1 is next"),
        (aligned(3, 8), "alignment of 3"),
        (aligned(0, 8), "alignment of 0"),
        (aligned(32, isize::MAX as usize - 8), "cannot be asked for"),
        (free(1), "object 1 was never allocated"),
        (
            Event { thread: 0, op: Op::Reallocate { object: 7, size: 1 } },
            "object 7 was never allocated",
        ),
        (
            Event { thread: 0, op: Op::Reallocate { object: 0, size: usize::MAX } },
            "cannot be asked for",
        ),
        (Event { thread: 2, ..free(0) }, "thread 2 comes before thread 1"),
    ] {
        let error = writer.push(event).expect_err(why);
        assert!(error.to_string().contains(why), "{error} should say: {why}");
        assert!(matches!(error.problem(), Problem::Event { index: 1, .. }), "{error:?}");
    }
    writer.push(free(0)).expect("a live object");
    let error = writer.push(free(0)).expect_err("a double free");
    assert!(error.to_string().contains("object 0 was already freed"), "{error}");
    let trace = writer.finish_trace().expect("a trace");
    assert_eq!(read(&trace), [allocate(0, 10), free(0)]);
}

#[test]
fn sizes_that_add_up_to_more_than_can_be_counted_are_refused() {
    let mut writer = Writer::in_memory(Header::named("huge")).expect("a writer");
    let half = isize::MAX as usize - 15;
    writer.push(allocate(0, half)).expect("half of it");
    writer.push(allocate(1, half)).expect("nearly all of it");
    let error = writer.push(allocate(2, half)).expect_err("too much");
    assert!(matches!(error.problem(), Problem::Full { .. }), "{error:?}");
    writer.push(Event { thread: 0, op: Op::Free { object: 0 } }).expect("a live object");
    assert_eq!(read(&writer.finish_trace().expect("a trace")).len(), 3);
}

#[test]
fn a_file_has_its_name_only_when_it_is_finished() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("trace.hwt");
    let list = || {
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    };
    let mut writer = Writer::create(&path, Header::named("first")).expect("a writer");
    writer.push(allocate(0, 1)).expect("an event");
    assert_eq!(list(), ["trace.hwt.part"]);
    let error =
        Trace::open(directory.path().join("trace.hwt.part")).err().expect("not yet a trace");
    assert!(matches!(error.problem(), Problem::Unfinished), "{error:?}");
    drop(writer);
    assert_eq!(list(), Vec::<String>::new());

    let mut writer = Writer::create(&path, Header::named("first")).expect("a writer");
    writer.push(allocate(0, 1)).expect("an event");
    writer.finish().expect("a file");
    // Someone who reads the old file can go on while a new one takes its name.
    let old = Trace::open(&path).expect("a trace");
    Writer::create(&path, Header::named("second")).expect("a writer").finish().expect("a file");
    assert_eq!(read(&old), [allocate(0, 1)]);
    assert_eq!(Trace::open(&path).expect("a trace").summary().name, "second");
    assert_eq!(list(), ["trace.hwt"]);
}

#[test]
fn notes_can_be_added_until_the_end_and_no_longer_than_there_is_room() {
    let mut writer =
        Writer::in_memory(Header { note: "Made up.".into(), ..Header::named("notes") })
            .expect("a writer");
    writer.add_note("Öfter.");
    assert_eq!(writer.summary().note, "Made up. Öfter.");
    writer.add_note(&"ß".repeat(2000));
    writer.add_note("too late");
    let note = writer.summary().note.clone();
    assert!(note.len() <= "Made up.".len() + 1024 && note.len() >= 1024, "{}", note.len());
    assert_eq!(writer.finish_trace().expect("a trace").summary().note, note);
}

#[test]
fn texts_beyond_64_kib_are_cut() {
    let long = "é".repeat(100_000);
    let header = Header { name: long.clone(), command: long.clone(), note: long.clone() };
    let trace = Trace::from_events(header, []).expect("a trace");
    assert_eq!(trace.summary().command, long[..1 << 16]);
}
