//! The report: one file of HTML that needs nothing else, made from a list of rows.
//!
//! | file | what it does |
//! |---|---|
//! | [`verdict`] | what the rows say in sentences: fastest, leanest, the Pareto front, what it costs to be leaner |
//! | [`criterion`] | what `cargo bench` found out about policies |
//! | [`export`] | the same rows as CSV and as Markdown |
//! | `page.html`, `style.css`, `report.js` | the page: its frame and sentences, its looks, its tables and plots |
//! | `vendor/` | the plotting library |
//!
//! Sentences are computed and tested here; the page's own script filters, sorts and plots. Small figures go into the
//! page as JSON, long ones (distributions, timelines, heap maps) as compressed JSON, a piece for each workload, so
//! that a full report stays at a few megabytes and opens at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde_json::{Map, Value, json};

use crate::files::write_whole;
use crate::registry::{self, REFERENCE};
use crate::summary::{Row, caution, unique};

pub mod criterion;
pub mod export;
pub mod verdict;

/// Fields of a record that hold long lists. They travel compressed.
const LONG: [&str; 3] = ["latency", "timeline", "heap_map"];

/// Writes the report to `path`, whole or not at all, and makes the folder if need be.
///
/// `criterion` is the folder where criterion leaves its results, mostly `target/criterion`; where there is none, the
/// page says how to get them.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(records: &[Row], criterion: Option<&Path>, path: &Path) -> Result<()> {
    let write = || {
        let page = render(records, criterion)?;
        write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))
    };
    write().with_context(|| format!("writing the report to {}", path.display()))
}

/// The page's text.
///
/// # Errors
///
/// When the template and what it is given disagree, which a test excludes.
pub fn render(records: &[Row], criterion: Option<&Path>) -> Result<String> {
    let verdicts = verdict::verdicts(records);
    let contenders = unique(records.iter().map(|record| record.contender.as_str()));
    let about: Vec<(String, &str)> = contenders
        .iter()
        .filter_map(|&name| Some((name.to_owned(), registry::contender(name)?.about)))
        .collect();
    let data = json!({
        "reference": REFERENCE,
        "records": records.iter().map(short).collect::<Result<Vec<_>>>()?,
        "means": verdicts.means,
        "fronts": verdicts.fronts,
        "policies": criterion.map(criterion::read).unwrap_or_default(),
    });
    let environment = records.iter().find_map(|record| record.environment.as_ref());
    let environment = serde_json::to_value(environment)?;
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.add_template("page.html", include_str!("page.html"))?;
    let page = templates.get_template("page.html")?.render(context! {
        style => include_str!("style.css"),
        script => include_str!("report.js"),
        library => include_str!("vendor/echarts.min.js"),
        data => inside_script(&serde_json::to_string(&data)?),
        series => series(records)?,
        overall => Serde(&verdicts.overall),
        workloads => Serde(&verdicts.workloads),
        untested => verdicts.untested,
        missing => Serde(verdict::missing(records)),
        environment => facts(&environment),
        caution => caution(records),
        about => about,
        reference => REFERENCE,
        seed => records.first().map(|record| record.seed),
    })?;
    Ok(page)
}

/// A record without its long lists; of a distribution, the percentiles stay.
fn short(record: &Row) -> Result<Value> {
    let mut value = serde_json::to_value(record)?;
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
        for name in ["timeline", "heap_map", "environment"] {
            fields.remove(name);
        }
        if let Some(Value::Object(latency)) = fields.get_mut("latency") {
            for distribution in latency.values_mut().filter_map(Value::as_object_mut) {
                distribution.remove("buckets");
            }
        }
    }
    Ok(value)
}

/// For each workload the long lists of its records by contender: JSON, compressed, as text.
fn series(records: &[Row]) -> Result<Vec<(String, String)>> {
    let mut workloads: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for record in records {
        let Value::Object(mut fields) = serde_json::to_value(record)? else { continue };
        fields.retain(|name, value| LONG.contains(&name.as_str()) && !value.is_null());
        if !fields.is_empty() {
            workloads
                .entry(&record.workload)
                .or_default()
                .insert(record.contender.clone(), fields.into());
        }
    }
    let encode = |(name, lists): (&str, Map<String, Value>)| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        serde_json::to_writer(&mut encoder, &lists)?;
        let text = base64::engine::general_purpose::STANDARD.encode(encoder.finish()?);
        Ok((name.to_owned(), text))
    };
    workloads.into_iter().map(encode).collect()
}

/// JSON that cannot end the element it stands in, whatever names it holds.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// The environment as lines of a table; nested ones in one line.
fn facts(environment: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match value {
                Value::String(text) => format!("{name} {text}"),
                other => format!("{name} {other}"),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => {
            let part = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
            values.iter().map(part).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let fields = environment.as_object().into_iter().flatten();
    fields
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_end_its_element() {
        assert_eq!(inside_script(r#"["</script><!--"]"#), r#"["\u003c/script>\u003c!--"]"#);
        let value: Value = serde_json::from_str(&inside_script("\"<\u{2028}\"")).unwrap();
        assert_eq!(value, json!("<\u{2028}"));
    }

    #[test]
    fn an_environment_is_lines_of_text() {
        let environment = json!({"machine": "x", "seed": 1, "flags": ["--quick", "--seed"], "none": null, "versions": {"glibc": "2.36"}});
        let lines = facts(&environment);
        let line = |name: &str| lines.iter().find(|(key, _)| key == name).map(|(_, text)| &**text);
        assert_eq!((line("machine"), line("seed"), line("none")), (Some("x"), Some("1"), None));
        assert_eq!(line("flags"), Some("--quick --seed"));
        assert_eq!(line("versions"), Some("glibc 2.36"));
    }
}
