//! Results for machines: one JSON object a line.

use std::path::Path;

use anyhow::{Context, Result};

use crate::files::write_whole;
use crate::summary::Row;

/// Reads rows that [`write()`] wrote, now or earlier.
///
/// # Errors
///
/// When the file cannot be read, or a line of it is no row; the message says which.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let read = || {
        let text = std::fs::read_to_string(path)?;
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| {
                serde_json::from_str(line).with_context(|| {
                    format!("line {} is no result of `cargo xtask bench --json`", number + 1)
                })
            })
            .collect::<Result<Vec<Row>>>()
    };
    read().with_context(|| format!("reading the results in {}", path.display()))
}

/// Writes all rows to a file, whole or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(rows: &[Row], path: &Path) -> Result<()> {
    let write = || {
        write_whole(path, |file| {
            for row in rows {
                serde_json::to_writer(&mut *file, row)?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })
    };
    write().with_context(|| format!("writing the results to {}", path.display()))
}
