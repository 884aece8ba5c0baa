//! The report: what it says of made-up rows of every shape, and that it works in a browser.
//!
//! The browser is Chromium, without a window. Where none is installed these tests are skipped, and say so; in CI they fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use heapwright_benches::registry;
use heapwright_benches::report::{self, export};
use heapwright_benches::summary::Row;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// A name that would be markup, would end its script, or would run one, if it were not escaped.
const HOSTILE: &str = "<img src=x onerror=\"console.error('injected')\">'\"&</script><script>console.error('ran')</script>";

/// Rows of every shape: all fields, none of the new ones, slow, failed, unfit, skipped, a hostile name.
fn rows() -> Vec<Row> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut rows = Vec::new();
    let mut names: Vec<&str> = registry::contenders().map(|contender| contender.name).collect();
    names.push(HOSTILE);
    for (number, workload) in ["gcc", "perl", "redis", "pareto", HOSTILE].into_iter().enumerate() {
        for (place, contender) in names.iter().enumerate() {
            let ours = registry::contender(contender).is_some_and(|known| known.strategy.is_some());
            let spread = random.random_range(0.8..1.25);
            let time = if *contender == "glibc" {
                1.0
            } else {
                (0.5 + (place as f64 / 9.0).powi(2)) * spread
            };
            let footprint = (1.05 + 2.0 / (1.0 + place as f64)) * spread;
            let peak_live = 3_000_000_u64;
            let status = match (*contender, number) {
                ("pool", 0..=3) => "unfit",
                ("linked_list_allocator", 1) => "slow",
                ("snmalloc", _) => "skipped",
                ("rlsf", 2) => "failed",
                _ => "measured",
            };
            let figures = matches!(status, "measured" | "slow");
            let mut row = json!({
                "workload": workload, "workload_kind": if number < 3 { "recorded" } else { "generated" },
                "contender": contender, "kind": if ours { "strategy" } else { "peer" },
                "status": status, "ok": status != "failed",
                "reason": match status {
                    "unfit" => Some("objects up to 132,704 bytes; pool serves 64"),
                    "slow" => Some("cut off at the time limit, with 71.3 % done"),
                    "skipped" => Some("no C++ compiler"),
                    "failed" => Some("killed by signal 11 (Segmentation fault), | with <b> & \"quotes\""),
                    _ => None,
                },
                "operations": 370_000, "samples": if figures { 9 } else { 0 }, "peak_live": peak_live, "seed": 1,
            });
            if figures {
                let interval = [time * 0.96, time * 1.05];
                row["ns_per_op"] = json!(time * 22.6);
                row["ns_per_op_range"] = json!([time * 21.0, time * 30.0]);
                row["relative_time"] = json!(time);
                row["peak_footprint"] = json!((footprint * peak_live as f64) as u64);
                row["peak_footprint_error"] = json!(15_000);
                row["footprint_ratio"] = json!(footprint);
                // The fourth workload has the fields of old rows alone.
                if number != 3 {
                    if *contender != "glibc" {
                        row["relative_time_interval"] = json!(interval);
                        row["difference"] = json!(match interval {
                            [_, high] if high < 1.0 => "faster",
                            [low, _] if low > 1.0 => "slower",
                            _ => "none shown",
                        });
                    }
                    row["latency"] = latency(time * 20.0, &mut random);
                    row["timeline"] = timeline(footprint, ours, &mut random);
                    row["counts"] = counts(place);
                    row["costs"] = costs(place);
                    row["fragmentation"] =
                        json!([footprint * 1.2, footprint, footprint * 1.1, footprint * 1.05]);
                    if ours {
                        row["heap_map"] = heap_map(&mut random, place);
                    }
                }
            }
            if number == 0 {
                row["environment"] = json!({
                    "machine": "a machine", "processors": 2, "kernel": "Linux 6.1", "libc": "glibc 2.36",
                    "compiler": "rustc 1.95.0", "commit": "490b2f8", "version": "0.1.0",
                    "versions": {"mimalloc": "0.1.52"}, "flags": ["--seed", "1"], "seed": 1, "time": "2026-01-01T00:00:00Z",
                });
            }
            rows.push(row);
        }
    }
    rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect()
}

fn latency(middle: f64, random: &mut Xoshiro256PlusPlus) -> Value {
    let mut distribution = |middle: f64| {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut times: Vec<u64> = (0..20_000)
            .map(|_| {
                let tail: f64 = random.random_range(0.0001..1.0);
                (middle * (0.7 + 0.3 * tail.powf(-0.8))) as u64
            })
            .collect();
        times.sort_unstable();
        for time in &times {
            // Two significant binary digits or so, as a histogram of the harness.
            let step = (time.next_power_of_two() / 16).max(1);
            *counts.entry(time.div_ceil(step) * step).or_default() += 1;
        }
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let buckets: Vec<[u64; 2]> =
            counts.into_iter().map(|(bound, count)| [bound, count]).collect();
        json!({"count": times.len(), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0), "buckets": buckets})
    };
    json!({"timer_ns": 21.5, "allocate": distribution(middle), "free": distribution(middle * 0.6), "reallocate": null})
}

fn timeline(footprint: f64, ours: bool, random: &mut Xoshiro256PlusPlus) -> Value {
    let operations: Vec<u64> = (1..=200).map(|sample| sample * 1850).collect();
    let live: Vec<u64> = (0..200)
        .map(|sample| {
            let phase = f64::from(sample) / 30.0;
            (1.5e6
                + 1.2e6 * (f64::from(sample) / 200.0)
                + 4e5 * phase.sin()
                + random.random_range(0.0..1e5)) as u64
        })
        .collect();
    let mut most = 0;
    let resident: Vec<u64> = live
        .iter()
        .map(|live| {
            most = most.max((*live as f64 * footprint) as u64);
            most
        })
        .collect();
    let mut timeline = json!({"operations": operations, "live": live, "resident": resident, "held": null, "parts": null});
    if ours {
        let share = |share: f64| -> Vec<u64> {
            live.iter().map(|live| (*live as f64 * share) as u64).collect()
        };
        let (internal, headers, cached) = (share(0.05), share(0.08), share(0.02));
        let free: Vec<u64> = live
            .iter()
            .zip(&resident)
            .map(|(live, held)| held.saturating_sub(live + live * 15 / 100))
            .collect();
        let by_size: Vec<Vec<u64>> = free
            .iter()
            .map(|free| {
                (0..24)
                    .map(|size| if (5..=16).contains(&size) { free / 12 * (size % 4) } else { 0 })
                    .collect()
            })
            .collect();
        timeline["held"] = json!(resident.iter().map(|held| held + 100_000).collect::<Vec<_>>());
        timeline["parts"] = json!({
            "internal": internal, "headers": headers, "cached": cached,
            "dirty_free": free.iter().map(|free| free / 2).collect::<Vec<_>>(),
            "largest_free": free.iter().map(|free| free / 3).collect::<Vec<_>>(),
            "free": free, "free_by_size": by_size,
        });
    }
    timeline
}

fn heap_map(random: &mut Xoshiro256PlusPlus, place: usize) -> Value {
    let rows = 60 + place;
    let cells: Vec<Vec<i16>> = (0..120)
        .map(|column| {
            let top = rows * (40 + column) / 160;
            let cell = |row: usize| match row {
                row if row >= top => -1,
                row if row % 7 == place % 7 && column > 30 => 0,
                row => (100 - (row * 40 / rows) as i16 - random.random_range(0..30)).max(0),
            };
            (0..rows).map(cell).collect()
        })
        .collect();
    let operations: Vec<u64> = (1..=120).map(|column| column * 3083).collect();
    json!({"operations": operations, "bytes_per_row": 65_536, "rows": rows, "cells": cells})
}

fn counts(place: usize) -> Value {
    json!({
        "minor_faults": 700 + 40 * place, "major_faults": 0,
        "system_calls": if place == 3 { Value::Null } else { json!({"mmap": 3 + place, "brk": 120, "munmap": 1, "madvise": 9}) },
        "instructions": null, "cache_misses": null,
        "unavailable": ["instructions, cache misses: the processor's counters are not to be had here"],
    })
}

fn costs(place: usize) -> Value {
    if place == 2 {
        return json!({
            "means": "", "operations": 0, "instructions": 0, "data_misses": 0, "last_level_misses": 0, "atomics": 0,
            "unavailable": "under callgrind, the replay ended with signal: 6 (SIGABRT)",
        });
    }
    json!({
        "means": "callgrind 3.19.0", "operations": 370_000, "instructions": 37_000_000 + 1_000_000 * place,
        "data_misses": 740_000, "last_level_misses": 111_000, "atomics": 185_000 * place, "locks": 92_500 * place,
    })
}

/// Results as criterion writes them.
fn criterion(folder: &Path) {
    for operation in ["find", "insert", "remove"] {
        for (number, policy) in ["first-fit-lifo", "best-fit-tree", "tlsf"].iter().enumerate() {
            for count in [10_u32, 100, 1_000, 10_000] {
                let growth = [f64::from(count), f64::from(count).log2(), 1.0][number];
                let folder =
                    folder.join(operation).join(policy).join(count.to_string()).join("new");
                fs::create_dir_all(&folder).unwrap();
                let ns = 3.0 * growth;
                let benchmark = json!({"group_id": operation, "function_id": policy, "value_str": count.to_string()});
                let mean = json!({"confidence_interval": {"confidence_level": 0.95, "lower_bound": ns * 0.9, "upper_bound": ns * 1.1}, "point_estimate": ns});
                fs::write(folder.join("benchmark.json"), benchmark.to_string()).unwrap();
                fs::write(folder.join("estimates.json"), json!({"mean": mean}).to_string())
                    .unwrap();
            }
        }
    }
}

/// Writes a report of all the made-up rows, in a folder of this name, and returns its path.
fn written(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    criterion(&folder.join("criterion"));
    let path = folder.join("report/index.html");
    report::write(&rows(), Some(&folder.join("criterion")), &path).unwrap();
    path
}

#[test]
fn the_page_is_one_file_that_loads_nothing() {
    let page = fs::read_to_string(written("one-file")).unwrap();
    let library = include_str!("../src/report/vendor/echarts.min.js");
    let (before, after) = page.split_once(library).expect("the library is embedded as it is");
    for part in [before, after] {
        for reference in
            ["src=\"", "src='", "<link", "@import", "url(", "http://", "https://", "import("]
        {
            assert!(!part.contains(reference), "the page refers to something by {reference}");
        }
    }
    assert!(page.len() < 8 << 20, "a report of {} bytes is too large to send", page.len());
}

#[test]
fn answers_stand_in_the_page_without_any_script() {
    let page = fs::read_to_string(written("answers")).unwrap();
    let answers = page.split_once("<noscript>").unwrap().0;
    assert!(answers.contains("is fastest, "), "{answers}");
    assert!(answers.contains("no difference shown"));
    assert!(answers.contains("✗ Failed:") && answers.contains("rlsf on redis"));
    assert!(answers.contains("Some of these rows have no intervals"));
    assert!(page.contains("objects up to 132,704 bytes; pool serves 64"));
    assert!(page.contains("<td>rustc 1.95.0</td>"), "the environment is there");
}

#[test]
fn names_are_text_wherever_they_stand() {
    let page = fs::read_to_string(written("names")).unwrap();
    assert!(!page.contains("<img src=x"), "a name became markup");
    assert!(!page.contains("ran')</script>"), "a name ended a script");
    assert!(page.contains("&lt;img src=x"), "the name is shown");
}

#[test]
fn a_report_of_nothing_is_still_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.html");
    report::write(&[], None, &path).unwrap();
    fs::write(folder.path().join("other"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions();
    assert_eq!(mode(&path), mode(&folder.path().join("other")), "readable as any other file");
    assert!(fs::read_to_string(path).unwrap().contains("No contender was measured to the end"));
}

#[test]
fn csv_has_every_row_and_figures_as_they_are() {
    let rows = rows();
    let mut text = Vec::new();
    export::csv(&rows, &mut text).unwrap();
    let mut reader = csv::Reader::from_reader(&text[..]);
    let heads = reader.headers().unwrap().clone();
    let at = |name: &str| heads.iter().position(|head| head == name).unwrap();
    let lines: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(lines.len(), rows.len());
    for (line, row) in lines.iter().zip(&rows) {
        assert_eq!(&line[at("contender")], row.contender);
        assert_eq!(line[at("relative_time")].parse().ok(), row.relative_time);
        let p99 = row.latency.as_ref().and_then(|latency| Some(latency.allocate.as_ref()?.p99));
        assert_eq!(line[at("allocate_p99_ns")].parse().ok(), p99);
        assert_eq!(&line[at("reason")], row.reason.as_deref().unwrap_or_default());
    }
}

#[test]
fn markdown_is_a_table_of_every_row() {
    let rows = rows();
    let text = export::markdown(&rows);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), rows.len() + 2, "a head, a rule and a line each");
    assert!(lines[1].chars().all(|character| "|-: ".contains(character)), "{}", lines[1]);
    // Bars in cells are escaped, so each line has as many cells as the head.
    let cells = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
    assert!(lines.iter().all(|line| cells(line) == cells(lines[0])));
    assert!(text.contains("≥ ") && text.contains("failed: killed by signal 11"));
    assert!(text.contains("<img") && !text.replace("\\<", "").contains('<'), "markup stays text");
}

/// Chromium, if it is installed. Says so if it is not, and fails in CI, where it must be.
fn chromium() -> Option<&'static str> {
    let known = ["chromium", "chromium-browser", "google-chrome"];
    let runs = |name: &&&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = known.iter().find(runs).copied();
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "chromium is not installed");
        eprintln!("SKIPPED: the report in a browser, for want of chromium");
    }
    found
}

/// Opens the page with `script` at its end, which fills in `outcome`; returns that, and what the console said.
fn outcome(chromium: &str, page: &Path, script: &str) -> (Value, String) {
    let text = fs::read_to_string(page).unwrap();
    let (before, after) = text.rsplit_once("</body>").unwrap();
    let tried = page.with_file_name("tried.html");
    // What goes wrong is written down from the first element on.
    let watch = "<script>window.wrongs = [];\
        addEventListener('error', (event) => wrongs.push(String(event.message)));\
        addEventListener('unhandledrejection', (event) => wrongs.push(String(event.reason)));\
        addEventListener('securitypolicyviolation', (event) => wrongs.push(event.violatedDirective));\
        console.error = console.warn = (...words) => wrongs.push(words.join(' '));</script>";
    let before = before.replacen("<style>", &format!("{watch}<style>"), 1);
    fs::write(
        &tried,
        format!("{before}<pre id=\"outcome\"></pre><script>{script}</script></body>{after}"),
    )
    .unwrap();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--enable-logging=stderr",
            "--window-size=1200,900",
            "--virtual-time-budget=60000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", tried.display()))
        .output()
        .unwrap();
    let (dom, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found =
        dom.rsplit_once("<pre id=\"outcome\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (json, _) = found.unwrap_or_else(|| panic!("no page came back: {log}"));
    let json = json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json:?}; {log}"));
    let console =
        log.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    (value, console)
}

/// What the script of every test begins with: waiting until all is drawn, and reading the page.
const TOOLS: &str = r#"
const settled = async () => {
  // Timers of this browser fast-forward when nothing seems to happen; messages do not.
  for (let look = 0; look < 1e6 && +document.documentElement.dataset.drawn !== drawn; look++)
    await new Promise((resolve) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = resolve; port2.postMessage(0); });
};
const column = (table, title) => {
  const heads = [...document.querySelectorAll(`#${table} thead th`)];
  const index = heads.findIndex((head) => head.textContent.startsWith(title));
  return { button: heads[index]?.querySelector("button"), sort: heads[index]?.ariaSort, cells: [...document.querySelectorAll(`#${table} tbody tr`)].map((row) => row.children[index].textContent) };
};
const colours = (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Map();
  for (let pixel = 0; pixel < data.length; pixel += 4)
    if (data[pixel + 3]) { const colour = data.slice(pixel, pixel + 3).join(); seen.set(colour, (seen.get(colour) || 0) + 1); }
  return [...seen.values()].filter((pixels) => pixels >= 10).length;
};
const report = (value) => { $("outcome").textContent = JSON.stringify({ ...value, wrongs }); };
"#;

/// Runs a script in the page and returns what it reported, having seen that nothing went wrong on the way.
fn tried(name: &str, script: &str) -> Option<Value> {
    let chromium = chromium()?;
    let page = written(name);
    let script = format!(
        "{TOOLS}(async () => {{ try {{ await settled(); {script} }} catch (error) {{ wrongs.push(String(error.stack)); report({{}}); }} }})();"
    );
    let (value, console) = outcome(chromium, &page, &script);
    assert_eq!(value["wrongs"], json!([]), "the page reported errors");
    assert!(!console.contains("rror"), "{console}");
    Some(value)
}

#[test]
fn in_a_browser_every_picture_is_drawn() {
    let script = r##"
      await new Promise((resolve) => setTimeout(resolve, 500)); // heat maps are painted in several frames
      const pictures = {};
      for (const plot of document.querySelectorAll(".plot")) {
        const name = plot.id || "map " + plot.previousSibling.querySelector("b").textContent;
        const canvases = [...plot.querySelectorAll("canvas")];
        pictures[name] = canvases.length ? canvases.map(colours) : plot.textContent;
      }
      report({ pictures });
    "##;
    let Some(value) = tried("pictures", script) else { return };
    let pictures = value["pictures"].as_object().unwrap();
    let expected = [
        "trade",
        "times",
        "footprints",
        "latencies",
        "memory",
        "parts",
        "sizes",
        "policies",
        "map tlsf",
        "map best-fit",
    ];
    for name in expected {
        assert!(pictures.contains_key(name), "no picture {name} among {:?}", pictures.keys());
    }
    for (name, layers) in pictures {
        let drawn = |colours: &Value| colours.as_u64().is_some_and(|colours| colours >= 5);
        let all_drawn = layers.as_array().is_some_and(|layers| layers.iter().all(drawn));
        assert!(all_drawn, "{name} is blank, or a layer of it: {layers}");
        // The cells of a heat map have a layer of their own, between axes and labels.
        let heat = name == "sizes" || name.starts_with("map ");
        assert!(!heat || layers[1].is_u64(), "{name} has no cells: {layers}");
    }
}

#[test]
fn in_a_browser_tables_sort_both_ways_and_filters_hide_rows() {
    let script = r##"
      const before = column("t-time", "footprint").cells;
      column("t-time", "footprint").button.click();
      const up = column("t-time", "footprint");
      up.button.click();
      const down = column("t-time", "footprint");
      column("t-time", "contender").button.click();
      const names = column("t-time", "contender").cells;
      document.querySelector("[data-choose=peer]").click();
      await settled();
      const peers = column("t-time", "contender").cells;
      [...$("contenders").querySelectorAll("input")].find((box) => box.value === "glibc").click();
      await settled();
      const without = column("t-time", "contender").cells;
      $("workload").value = "redis";
      $("workload").dispatchEvent(new Event("change"));
      await settled();
      const where = document.querySelector(".where").textContent;
      const failed = [...document.querySelectorAll("#t-time tbody tr")].find((row) => row.firstChild.textContent === "rlsf").textContent;
      document.querySelector("[data-choose=none]").click();
      await settled();
      report({ before, up: up.cells, down: down.cells, sorts: [up.sort, down.sort], names, peers, without, where, failed, none: $("t-time").textContent, trade: $("trade").textContent });
    "##;
    let Some(value) = tried("tables", script) else { return };
    let texts =
        |name: &str| -> Vec<String> { serde_json::from_value(value[name].clone()).unwrap() };
    let figures = |name: &str| -> Vec<f64> {
        // "≥ 1.23 1.20 to 1.26": the first number.
        let first = |text: &String| {
            text.trim_start_matches("≥ ").split(' ').next().and_then(|word| word.parse().ok())
        };
        texts(name).iter().filter_map(first).collect()
    };
    let (before, up, down) = (figures("before"), figures("up"), figures("down"));
    assert!(up.len() > 15 && up.len() == before.len() && up.len() == down.len());
    assert!(!before.is_sorted() && up.is_sorted() && down.iter().rev().is_sorted());
    assert_eq!(value["sorts"], json!(["ascending", "descending"]));
    assert!(texts("names").contains(&HOSTILE.to_owned()), "the name is shown as it is");
    assert!(
        texts("peers").contains(&"glibc".to_owned())
            && !texts("peers").contains(&"tlsf".to_owned())
    );
    assert_eq!(texts("without").len() + 1, texts("peers").len());
    assert_eq!(value["where"], "on redis");
    let failed = value["failed"].as_str().unwrap();
    assert!(failed.contains("✗ failed") && failed.contains("signal 11"), "{failed}");
    assert_eq!(value["none"], "Nothing was measured here.");
    assert!(value["trade"].as_str().unwrap().starts_with("Nothing to compare"));
}

#[test]
fn in_a_browser_legends_colours_and_choices_do_what_they_say() {
    let script = r##"
      const chart = () => charts.get($("latencies"));
      const shown = () => Object.entries(chart().getOption().legend[0].selected).filter(([, on]) => on).map(([name]) => name);
      const first = shown();
      chart().dispatchAction({ type: "legendToggleSelect", name: "tlsf" });
      const second = shown();
      const paper = () => getComputedStyle(document.body).backgroundColor;
      const papers = [];
      for (let turn = 0; turn < 3; turn++) { $("theme").click(); await settled(); papers.push($("theme").textContent + paper()); }
      const lines = chart().getOption().series.map((series) => series.itemStyle.color + series.symbol + series.lineStyle.type);
      $("call").value = "reallocate"; $("call").dispatchEvent(new Event("change")); await settled();
      const none = $("latencies").textContent;
      $("strategy").value = "tlsf"; $("strategy").dispatchEvent(new Event("change")); await settled();
      const strategy = charts.get($("parts")).getOption().yAxis[0].name;
      const button = [...document.querySelectorAll(".choose")].find((button) => button.textContent === "pareto");
      button.click(); await settled();
      report({ first, second, papers, lines, none, strategy, chosen: $("workload").value, old: $("maps").textContent, focus: document.activeElement.id });
    "##;
    let Some(value) = tried("choices", script) else { return };
    let (first, second) = (value["first"].as_array().unwrap(), value["second"].as_array().unwrap());
    assert!(first.contains(&json!("glibc")), "the reference is shown at first: {first:?}");
    assert_eq!(
        first.contains(&json!("tlsf")),
        !second.contains(&json!("tlsf")),
        "the legend toggles"
    );
    let papers = value["papers"].as_array().unwrap();
    assert_eq!(papers[0], "○ Colours: lightrgb(255, 255, 255)");
    assert_eq!(papers[1], "● Colours: darkrgb(20, 23, 26)");
    let mut lines: Vec<_> =
        value["lines"].as_array().unwrap().iter().map(Value::to_string).collect();
    let all = lines.len();
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), all, "no two contenders look the same");
    assert_eq!(value["none"], "No latencies were measured here.");
    assert_eq!((&value["strategy"], &value["chosen"]), (&json!("tlsf"), &json!("pareto")));
    assert_eq!(value["old"], "No heap maps were made here.", "old rows have none");
    assert_eq!(value["focus"], "workload", "the keyboard goes where the eyes go");
}

#[test]
fn in_a_browser_a_choice_made_while_maps_are_painted_breaks_nothing() {
    // Where time flies a heat map takes a frame for each cell, so that each is painted yet when the next choice comes.
    let script = r##"
      const now = Date.now;
      let flown = 0;
      Date.now = () => now() + (flown += 100);
      const cells = [];
      for (const name of ["redis", "gcc", "perl"]) {
        $("workload").value = name;
        $("workload").dispatchEvent(new Event("change"));
        await settled();
        await new Promise((resolve) => setTimeout(resolve, 50));
        cells.push(colours(document.querySelectorAll("#maps .plot canvas")[1]));
      }
      document.querySelector("[data-choose=none]").click();
      await settled();
      await new Promise((resolve) => setTimeout(resolve, 200));
      report({ cells, none: $("maps").textContent });
    "##;
    let Some(value) = tried("interrupted", script) else { return };
    let cells = value["cells"].as_array().unwrap();
    let few = |cells: &Value| cells.as_u64().is_some_and(|colours| colours < 200);
    assert!(cells.len() == 3 && cells.iter().all(few), "not in the midst of painting: {cells:?}");
    assert_eq!(value["none"], "No heap maps were made here.");
}

#[test]
fn in_a_browser_a_phone_scrolls_down_and_not_sideways() {
    let Some(chromium) = chromium() else { return };
    let page = written("phone");
    // A frame as wide as a phone, for windows have a least width of their own. It tells the page around it how it is.
    let tell = "<script>(async () => { \
        while (+document.documentElement.dataset.drawn !== drawn) await new Promise((go) => { const { port1, port2 } = new MessageChannel(); \
            port1.onmessage = go; port2.postMessage(0); }); \
        const { clientWidth, scrollWidth } = document.documentElement; \
        parent.postMessage({ inside: clientWidth, needed: scrollWidth }, '*'); })();</script></body>";
    let text = fs::read_to_string(&page).unwrap();
    let (before, after) = text.rsplit_once("</body>").unwrap();
    fs::write(page.with_file_name("inner.html"), format!("{before}{tell}{after}")).unwrap();
    let frame = page.with_file_name("frame.html");
    let body = "<iframe src=\"inner.html\" width=\"390\" height=\"800\"></iframe>";
    fs::write(&frame, format!("<html><head><style></style></head><body>{body}</body></html>"))
        .unwrap();
    let script = "onmessage = (event) => { document.getElementById('outcome').textContent = \
        JSON.stringify({ ...event.data, wrongs }); };";
    let (value, _) = outcome(chromium, &frame, script);
    assert_eq!(value["wrongs"], json!([]));
    assert!(value["inside"].as_u64().unwrap() <= 390);
    assert!(value["needed"].as_u64() <= value["inside"].as_u64(), "wider than the screen: {value}");
}
