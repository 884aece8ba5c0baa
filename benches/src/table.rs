//! The tables on the terminal: contenders down, workloads across.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};
use indicatif::HumanCount;

use crate::contender::Kind;
use crate::passes::costs;
use crate::registry::REFERENCE;
use crate::statistics::geometric_mean;
use crate::summary::{Row, Status, caution, unique};
use crate::workload;

/// The tables, and what there is to say about missing figures.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    let times = |row: &Row| row.relative_time;
    let _ = writeln!(text, "Time relative to {REFERENCE} (lower is better)\n");
    let _ = writeln!(text, "{}", table(rows, RATIO, times, &time_heads(rows)));
    if rows.iter().any(|row| row.footprint_ratio.is_some()) {
        let _ = writeln!(text, "\nPeak footprint over peak live bytes (lower is better)\n");
        let _ =
            writeln!(text, "{}", table(rows, RATIO, |row| row.footprint_ratio, &live_heads(rows)));
    }
    let programs: Vec<Row> =
        rows.iter().filter(|row| row.workload_kind == workload::Kind::Program).cloned().collect();
    if !programs.is_empty() {
        let _ = writeln!(text, "\nPeak resident memory of programs relative to {REFERENCE}\n");
        let footprints = |row: &Row| row.relative_footprint;
        let _ = writeln!(text, "{}", table(&programs, RATIO, footprints, &Heads::new()));
    }
    if rows.iter().any(|row| row.costs.is_some()) {
        text.push_str(&costs(rows));
    }
    text.push_str(&notes(rows));
    text
}

/// A kind of figures: how many decimals they have, and how they are summed up.
#[derive(Clone, Copy)]
struct Style {
    decimals: usize,
    mean: fn(&[f64]) -> Option<f64>,
}

const RATIO: Style = Style { decimals: 2, mean: geometric_mean };

fn arithmetic_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// What the processor and the kernel have to do for an operation.
fn costs(rows: &[Row]) -> String {
    type Figure = fn(&Row) -> Option<f64>;
    let tables: [(&str, usize, Figure); 6] = [
        ("Instructions for each operation", 1, |row| {
            row.costs.as_ref()?.each(|costs| costs.instructions)
        }),
        ("Misses of the first cache for data, for each operation", 2, |row| {
            row.costs.as_ref()?.each(|costs| costs.data_misses)
        }),
        ("Misses of the last cache for each operation", 3, |row| {
            row.costs.as_ref()?.each(|costs| costs.last_level_misses)
        }),
        ("Atomic operations for each operation", 4, |row| {
            row.costs.as_ref()?.each(|costs| costs.atomics)
        }),
        ("Locks taken for each operation", 4, |row| {
            let costs = row.costs.as_ref()?;
            costs.locks.and_then(|locks| costs.each(|_| locks))
        }),
        ("System calls for a million operations", 0, |row| {
            let calls: u64 = row.counts.as_ref()?.system_calls.as_ref()?.values().sum();
            (row.operations > 0).then(|| 1e6 * calls as f64 / row.operations as f64)
        }),
    ];
    let mut text = String::new();
    for (title, decimals, figure) in tables {
        let has_figures = |row: &&Row| {
            rows.iter().any(|other| other.contender == row.contender && figure(other).is_some())
        };
        let rows: Vec<Row> = rows.iter().filter(has_figures).cloned().collect();
        let floors = rows.iter().filter(|row| row.kind == Kind::Floor);
        let floors: BTreeMap<_, _> = floors
            .filter_map(|row| Some((row.workload.clone(), format!("{:.decimals$}", figure(row)?))))
            .collect();
        let heads =
            if floors.is_empty() { Heads::new() } else { vec![("the harness alone", floors)] };
        let style = Style { decimals, mean: arithmetic_mean };
        if !rows.is_empty() {
            let _ = writeln!(text, "\n{title}\n\n{}", table(&rows, style, figure, &heads));
        }
    }
    let costs = || rows.iter().filter_map(|row| row.costs.as_ref());
    let means = unique(costs().map(|costs| costs.means.as_str()).filter(|means| !means.is_empty()));
    if !means.is_empty() {
        let _ = writeln!(
            text,
            "\ncosts: by {}, of up to {} operations, the harness's own included; their means are arithmetic",
            means.join(", "),
            HumanCount(costs::MOST)
        );
    }
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for row in rows {
        if let Some(reason) = row.costs.as_ref().and_then(|costs| costs.unavailable.as_deref()) {
            reasons.entry((&row.contender, reason)).or_default().push(&row.workload);
        }
    }
    for ((contender, reason), workloads) in reasons {
        let _ = writeln!(text, "no costs of {contender} on {}: {reason}", workloads.join(", "));
    }
    text
}

/// Lines above the contenders: a label, and a value for each workload.
type Heads = Vec<(&'static str, BTreeMap<String, String>)>;

fn time_heads(rows: &[Row]) -> Heads {
    let thousands = |row: &Row| HumanCount((row.operations + 500) / 1000).to_string();
    let operations = rows.iter().map(|row| (row.workload.clone(), thousands(row)));
    let reference = rows.iter().filter(|row| row.contender == REFERENCE);
    let times =
        reference.filter_map(|row| Some((row.workload.clone(), format!("{:.1}", row.ns_per_op?))));
    let floors = rows.iter().filter(|row| row.kind == Kind::Floor);
    let floors =
        floors.filter_map(|row| Some((row.workload.clone(), format!("{:.2}", row.relative_time?))));
    vec![
        ("operations, thousands", operations.collect()),
        ("glibc, ns/operation", times.collect()),
        ("the harness alone", floors.collect()),
    ]
}

fn live_heads(rows: &[Row]) -> Heads {
    let mebibytes = |row: &Row| format!("{:.2}", row.peak_live as f64 / f64::from(1 << 20));
    let live = rows.iter().map(|row| (row.workload.clone(), mebibytes(row)));
    vec![("peak live, MiB", live.collect())]
}

fn table(
    rows: &[Row],
    Style { decimals, mean }: Style,
    figure: impl Fn(&Row) -> Option<f64>,
    heads: &Heads,
) -> Table {
    let workloads = unique(rows.iter().map(|row| row.workload.as_str()));
    let contenders = unique(rows.iter().map(|row| (row.kind, row.contender.as_str())));
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    // Long names in two lines or more, so that columns are as narrow as their figures.
    let heads_of_columns = workloads.iter().map(|workload| workload.replace('-', "-\n"));
    table.set_header([String::new(), "mean".to_owned()].into_iter().chain(heads_of_columns));
    for (label, values) in heads {
        let values =
            workloads.iter().map(|&workload| values.get(workload).map_or("", String::as_str));
        table.add_row([*label, ""].into_iter().chain(values));
    }
    for kind in [Kind::Strategy, Kind::Peer] {
        let of_kind = contenders.iter().filter(|contender| contender.0 == kind);
        let mut lines: Vec<_> = of_kind
            .map(|(_, contender)| {
                let cells: Vec<&Row> =
                    rows.iter().filter(|row| row.contender == *contender).collect();
                let figures: Vec<f64> = cells.iter().filter_map(|row| figure(row)).collect();
                (figures.len() < workloads.len(), mean(&figures), *contender, cells)
            })
            .collect();
        // The best first; those that did not run everything last, for their means compare with nobody's.
        lines.sort_by(|one, other| {
            let key = |line: &(bool, Option<f64>, _, _)| (line.0, line.1.unwrap_or(f64::INFINITY));
            let (one, other) = (key(one), key(other));
            one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
        });
        if !lines.is_empty() {
            table.add_row([heading(kind)]);
        }
        for (incomplete, mean, contender, cells) in lines {
            let slow = cells.iter().any(|row| row.status == Status::Slow);
            let mean = match mean {
                Some(mean) => {
                    format!(
                        "{}{mean:.decimals$}{}",
                        if slow { ">" } else { "" },
                        if incomplete { "*" } else { "" }
                    )
                }
                None => String::new(),
            };
            let cell = |workload: &&str| {
                let row = cells.iter().find(|row| row.workload == *workload);
                row.map_or_else(String::new, |row| cell(row, figure(row), decimals))
            };
            table.add_row(
                [format!("  {contender}"), mean].into_iter().chain(workloads.iter().map(cell)),
            );
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((1, 0));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn heading(kind: Kind) -> &'static str {
    match kind {
        Kind::Strategy => "strategies",
        Kind::Peer => "peers",
        Kind::Floor => "floor",
    }
}

fn cell(row: &Row, figure: Option<f64>, decimals: usize) -> String {
    match (row.status, figure) {
        (Status::Failed, _) => "FAILED".to_owned(),
        (Status::Slow, Some(figure)) => format!(">{figure:.decimals$}"),
        (_, Some(figure)) => format!("{figure:.decimals$}"),
        (_, None) => "-".to_owned(),
    }
}

/// What is missing, and why; what failed comes last, where it is seen.
fn notes(rows: &[Row]) -> String {
    let mut text = String::new();
    let incomplete = rows.iter().any(|row| row.ns_per_op.is_none());
    text.push_str("\nmean: geometric, over all workloads");
    if incomplete {
        text.push_str("; *: over those that it ran, which compares with nobody else's");
    }
    if rows.iter().any(|row| row.status == Status::Slow) {
        text.push_str("; >: at least");
    }
    text.push('\n');
    if let Some(caution) = caution(rows) {
        let _ = writeln!(text, "\n{caution}");
    }
    let headings = [
        (Status::Skipped, "Not run:"),
        (Status::Unfit, "Cannot run:"),
        (Status::Slow, "Cut off at the time limit, so the figures are lower bounds:"),
        (Status::Failed, "FAILED:"),
    ];
    for (status, heading) in headings {
        let mut reasons: Vec<((&str, &str), Vec<&str>)> = Vec::new();
        for row in rows.iter().filter(|row| row.status == status) {
            let reason = row.reason.as_deref().unwrap_or("unknown");
            // How far each came differs, and is in the JSON.
            let key = (row.contender.as_str(), if status == Status::Slow { "" } else { reason });
            match reasons.iter_mut().find(|(known, _)| *known == key) {
                Some((_, workloads)) => workloads.push(&row.workload),
                None => reasons.push((key, vec![&row.workload])),
            }
        }
        if !reasons.is_empty() {
            let _ = writeln!(text, "\n{heading}");
        }
        for ((contender, reason), workloads) in reasons {
            let _ = match status {
                Status::Skipped => writeln!(text, "  {contender}: {reason}"),
                Status::Slow => writeln!(text, "  {contender} on {}", workloads.join(", ")),
                _ => writeln!(text, "  {contender} on {}: {reason}", workloads.join(", ")),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::passes::costs::Costs;

    fn row(
        workload: &str,
        contender: &'static str,
        kind: Kind,
        status: Status,
        figure: Option<f64>,
    ) -> Row {
        Row {
            status,
            ok: status != Status::Failed,
            reason: (status != Status::Measured).then(|| format!("because {contender} is so")),
            operations: 123_456,
            ns_per_op: figure,
            samples: 1,
            relative_time: figure,
            peak_live: 1 << 20,
            footprint_ratio: figure,
            ..Row::empty(workload, workload::Kind::Recorded, contender, kind)
        }
    }

    #[test]
    fn the_best_comes_first_and_what_is_missing_is_explained() {
        let rows = [
            row("gcc", "slowish", Kind::Strategy, Status::Measured, Some(4.0)),
            row("gcc", "quick", Kind::Strategy, Status::Measured, Some(0.5)),
            row("gcc", "pool", Kind::Strategy, Status::Unfit, None),
            row("gcc", "list", Kind::Strategy, Status::Slow, Some(99.0)),
            row("gcc", "glibc", Kind::Peer, Status::Measured, Some(1.0)),
            row("gcc", "broken", Kind::Peer, Status::Failed, None),
            row("git", "slowish", Kind::Strategy, Status::Measured, Some(4.0)),
            row("git", "quick", Kind::Strategy, Status::Measured, Some(2.0)),
            row("git", "pool", Kind::Strategy, Status::Measured, Some(0.1)),
            row("git", "list", Kind::Strategy, Status::Measured, Some(1.0)),
            row("git", "glibc", Kind::Peer, Status::Measured, Some(1.0)),
            row("git", "broken", Kind::Peer, Status::Failed, None),
        ];
        let text = render(&rows);
        let place =
            |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part:?} in\n{text}"));
        assert!(place("quick ") < place("slowish ") && place("slowish ") < place("list "));
        assert!(place("list ") < place("pool "), "{text}");
        assert!(
            text.contains("1.00") && text.contains("0.10*") && text.contains(">99.00"),
            "{text}"
        );
        assert!(place("Cannot run:\n  pool on gcc: because pool is so") > place("glibc"));
        assert!(
            place("FAILED:\n  broken on gcc, git: because broken is so") > place("Cut off at the")
        );
        assert!(text.contains(" 123 ") && text.contains("peak live, MiB"), "{text}");
    }

    #[test]
    fn footprints_under_huge_pages_for_all_come_with_a_caution() {
        let of_kind = |kind, huge_pages: &str| Row {
            peak_footprint: Some(1 << 20),
            workload_kind: kind,
            environment: Some(Environment { huge_pages: huge_pages.into(), ..Default::default() }),
            ..row("gcc", "quick", Kind::Strategy, Status::Measured, Some(0.5))
        };
        let warns = |row: Row| notes(&[row]).contains("huge pages to all");
        assert!(warns(of_kind(workload::Kind::Recorded, "always")));
        assert!(!warns(of_kind(workload::Kind::Recorded, "madvise")));
        assert!(!warns(of_kind(workload::Kind::Program, "always")));
    }

    #[test]
    fn costs_are_shown_where_they_were_counted() {
        let mut rows = [
            row("gcc", "quick", Kind::Strategy, Status::Measured, Some(0.5)),
            row("gcc", "glibc", Kind::Peer, Status::Measured, Some(1.0)),
            row("gcc", "floor", Kind::Floor, Status::Measured, Some(0.1)),
        ];
        assert!(!render(&rows).contains("Atomic"));
        let costs = |atomics| Costs {
            means: "callgrind 3.19.0".to_owned(),
            operations: 2000,
            instructions: 200_200,
            atomics,
            locks: Some(atomics / 5).filter(|&locks| locks > 0),
            ..Costs::default()
        };
        rows[0].costs = Some(costs(5));
        rows[1].costs = Some(Costs { unavailable: Some("it fled".to_owned()), ..Costs::default() });
        rows[2].costs = Some(costs(0));
        let text = render(&rows);
        let (_, text) = text.split_once("Instructions for each operation").unwrap();
        let (instructions, text) = text.split_once("Atomic operations").unwrap();
        assert!(instructions.contains(" 100.1\n"), "{instructions}");
        assert!(text.contains("0.0025 0.0025\n") && text.contains("0.0000\n"), "{text}");
        let (_, locks) = text.split_once("Locks").unwrap();
        assert!(locks.contains("0.0005 0.0005\n") && !locks.contains("alone"), "{text}");
        assert!(text.contains("by callgrind 3.19.0,"), "{text}");
        assert!(text.contains("no costs of glibc on gcc: it fled"), "{text}");
    }

    #[test]
    fn a_full_table_fits_on_a_wide_terminal() {
        let names: Vec<String> = (10..26).map(|number| format!("work-{number}")).collect();
        let rows: Vec<_> = names
            .iter()
            .map(|name| {
                row(name, "linked_list_allocator", Kind::Peer, Status::Measured, Some(123.45))
            })
            .collect();
        let widest = render(&rows).lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 145, "{widest}");
    }
}
