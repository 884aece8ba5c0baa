//! The traces of real programs that come with the project.

use std::fs;
use std::path::{Path, PathBuf};

use heapwright_trace::{Header, Trace};

fn traces() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/traces");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the folder of traces")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hwt"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn each_is_whole_small_and_costs_at_most_four_bytes_an_event() {
    let mut threaded = 0;
    let paths = traces();
    assert!(paths.len() >= 7, "{paths:?}");
    for path in &paths {
        let trace = Trace::open(path).unwrap_or_else(|error| panic!("{error}"));
        let summary = trace.summary();
        let bytes = fs::metadata(path).expect("a file").len();
        let each = bytes as f64 / summary.events as f64;
        println!(
            "{}: {} events, {bytes} bytes, {each:.2} bytes an event",
            summary.name, summary.events
        );
        assert!(each <= 4.0, "{}: {each} bytes an event", path.display());
        assert!(bytes < 1_500_000, "{}: {bytes} bytes", path.display());
        assert_eq!(Some(summary.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        // A command line with a path of someone's machine could not be repeated elsewhere.
        assert!(!summary.command.is_empty());
        assert!(
            !["/tmp", "/home", "/root"].iter().any(|place| summary.command.contains(place)),
            "{summary:?}"
        );

        // Counted once more, the events give the same summary.
        let header = Header {
            name: summary.name.clone(),
            command: summary.command.clone(),
            note: summary.note.clone(),
        };
        let events = trace.events().map(|event| event.unwrap_or_else(|error| panic!("{error}")));
        let again = Trace::from_events(header, events).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.summary(), summary);

        threaded += usize::from(summary.threads > 1 && summary.cross_thread > 100);
    }
    assert!(threaded >= 2, "{threaded} traces of programs with threads");
}
