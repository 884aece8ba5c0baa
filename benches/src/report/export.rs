//! The same rows for spreadsheets and for documents.

use std::io;

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::passes::costs::Costs;
use crate::passes::latency::Distribution;
use crate::summary::{Row, Status};

/// A column: its name, and the figure of a record as text; empty where there is none.
type Column = (&'static str, fn(&Row) -> String);

/// The columns of both. Names carry their units; all memory is in bytes, all time in nanoseconds.
const COLUMNS: &[Column] = &[
    ("workload", |record| record.workload.clone()),
    ("workload_kind", |record| word(&record.workload_kind)),
    ("contender", |record| record.contender.clone()),
    ("kind", |record| word(&record.kind)),
    ("status", |record| word(&record.status)),
    ("reason", |record| text(&record.reason)),
    ("operations", |record| record.operations.to_string()),
    ("samples", |record| record.samples.to_string()),
    ("ns_per_op", |record| text(&record.ns_per_op)),
    ("ns_per_op_low", |record| end(record.ns_per_op_range, 0)),
    ("ns_per_op_high", |record| end(record.ns_per_op_range, 1)),
    ("relative_time", |record| text(&record.relative_time)),
    ("relative_time_low", |record| end(record.relative_time_interval, 0)),
    ("relative_time_high", |record| end(record.relative_time_interval, 1)),
    ("difference", |record| word(&record.difference)),
    ("peak_live_bytes", |record| record.peak_live.to_string()),
    ("peak_footprint_bytes", |record| text(&record.peak_footprint)),
    ("peak_footprint_error_bytes", |record| text(&record.peak_footprint_error)),
    ("footprint_ratio", |record| text(&record.footprint_ratio)),
    ("allocate_p50_ns", |record| call(record, "allocate", |call| call.p50)),
    ("allocate_p99_ns", |record| call(record, "allocate", |call| call.p99)),
    ("allocate_p999_ns", |record| call(record, "allocate", |call| call.p999)),
    ("allocate_max_ns", |record| call(record, "allocate", |call| call.max)),
    ("free_p50_ns", |record| call(record, "free", |call| call.p50)),
    ("free_p99_ns", |record| call(record, "free", |call| call.p99)),
    ("free_p999_ns", |record| call(record, "free", |call| call.p999)),
    ("free_max_ns", |record| call(record, "free", |call| call.max)),
    ("reallocate_p50_ns", |record| call(record, "reallocate", |call| call.p50)),
    ("reallocate_p99_ns", |record| call(record, "reallocate", |call| call.p99)),
    ("reallocate_p999_ns", |record| call(record, "reallocate", |call| call.p999)),
    ("reallocate_max_ns", |record| call(record, "reallocate", |call| call.max)),
    ("minor_faults", |record| text(&record.counts.as_ref().map(|counts| counts.minor_faults))),
    ("major_faults", |record| text(&record.counts.as_ref().map(|counts| counts.major_faults))),
    ("system_calls", |record| {
        let calls = record.counts.as_ref().and_then(|counts| counts.system_calls.as_ref());
        text(&calls.map(|calls| calls.values().sum::<u64>()))
    }),
    ("instructions", |record| text(&record.counts.as_ref().and_then(|counts| counts.instructions))),
    ("cache_misses", |record| text(&record.counts.as_ref().and_then(|counts| counts.cache_misses))),
    ("costs_operations", |record| cost(record, |costs| costs.operations)),
    ("costs_instructions", |record| cost(record, |costs| costs.instructions)),
    ("costs_data_misses", |record| cost(record, |costs| costs.data_misses)),
    ("costs_last_level_misses", |record| cost(record, |costs| costs.last_level_misses)),
    ("costs_atomics", |record| cost(record, |costs| costs.atomics)),
    ("costs_locks", |record| text(&record.costs.as_ref().and_then(|costs| costs.locks))),
    ("fragmentation_1", |record| text(&record.fragmentation.map(|numbers| numbers[0]))),
    ("fragmentation_2", |record| text(&record.fragmentation.map(|numbers| numbers[1]))),
    ("fragmentation_3", |record| text(&record.fragmentation.map(|numbers| numbers[2]))),
    ("fragmentation_4", |record| text(&record.fragmentation.map(|numbers| numbers[3]))),
    ("seed", |record| record.seed.to_string()),
];

/// Comma-separated values as of RFC 4180, one line a record, all scalar figures unrounded; long lists (distributions,
/// timelines, heap maps) stay in the JSON lines.
///
/// # Errors
///
/// When the writer fails.
pub fn csv(records: &[Row], writer: impl io::Write) -> Result<()> {
    let mut writer = csv::Writer::from_writer(writer);
    writer.write_record(COLUMNS.iter().map(|(name, _)| name))?;
    for record in records {
        writer.write_record(COLUMNS.iter().map(|(_, figure)| figure(record)))?;
    }
    writer.flush()?;
    Ok(())
}

/// A table in Markdown: the figures that people quote, rounded, with intervals; `≥` marks lower bounds.
#[must_use]
pub fn markdown(records: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "workload",
        "contender",
        "time / glibc",
        "95 % interval",
        "difference",
        "footprint / live",
        "malloc p50, ns",
        "p99",
        "p99.9",
        "max",
        "faults",
        "system calls",
        "note",
    ]);
    for record in records {
        let bound = if record.status == Status::Slow { "≥ " } else { "" };
        let figure =
            |value: Option<f64>| value.map_or(String::new(), |value| format!("{bound}{value:.2}"));
        let interval = record.relative_time_interval;
        let counts = record.counts.as_ref();
        let calls = counts.and_then(|counts| counts.system_calls.as_ref());
        let cells = [
            record.workload.clone(),
            record.contender.clone(),
            figure(record.relative_time),
            interval.map_or(String::new(), |[low, high]| format!("{low:.2} to {high:.2}")),
            word(&record.difference),
            figure(record.footprint_ratio),
            call(record, "allocate", |call| call.p50),
            call(record, "allocate", |call| call.p99),
            call(record, "allocate", |call| call.p999),
            call(record, "allocate", |call| call.max),
            text(&counts.map(|counts| counts.minor_faults + counts.major_faults)),
            text(&calls.map(|calls| calls.values().sum::<u64>())),
            match record.status {
                Status::Measured => String::new(),
                status => format!("{}: {}", word(&status), text(&record.reason)),
            },
        ];
        table.add_row(cells.map(|cell| plain(&cell)));
    }
    for column in table.column_iter_mut().skip(2).take(10) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Text that a Markdown table takes as text.
fn plain(cell: &str) -> String {
    let mut plain = String::with_capacity(cell.len());
    for character in cell.chars() {
        match character {
            '|' | '\\' | '<' | '>' | '*' | '`' | '[' | ']' => plain.extend(['\\', character]),
            '\n' | '\r' => plain.push(' '),
            other => plain.push(other),
        }
    }
    plain
}

/// As JSON has it.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn text<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or(String::new(), T::to_string)
}

fn end(interval: Option<[f64; 2]>, end: usize) -> String {
    text(&interval.map(|interval| interval[end]))
}

fn cost(record: &Row, figure: fn(&Costs) -> u64) -> String {
    text(&record.costs.as_ref().filter(|costs| costs.operations > 0).map(figure))
}

fn call(record: &Row, operation: &str, figure: fn(&Distribution) -> u64) -> String {
    let distribution = record.latency.as_ref().and_then(|latency| match operation {
        "allocate" => latency.allocate.as_ref(),
        "free" => latency.free.as_ref(),
        _ => latency.reallocate.as_ref(),
    });
    text(&distribution.map(figure))
}
