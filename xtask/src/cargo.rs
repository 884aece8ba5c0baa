//! Running cargo.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A cargo command in the workspace, with the toolchain that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}

/// A file that cargo made.
pub(crate) struct Artifact {
    /// The target's name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Runs `cargo build` with these arguments; progress and errors are seen as ever. Returns programs and libraries that
/// came of it, or `None` when the build failed.
pub(crate) fn build(arguments: &[&str]) -> Result<Option<Vec<Artifact>>> {
    let output = cargo()
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then(|| lines.lines().flat_map(artifacts).collect()))
}

/// The files in one line of cargo's messages.
fn artifacts(line: &str) -> Vec<Artifact> {
    let message: Value = serde_json::from_str(line).unwrap_or_default();
    let name = message["target"]["name"].as_str().unwrap_or_default();
    let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    files.map(|path| Artifact { name: name.to_owned(), path: path.into() }).collect()
}

/// The artifact of this name and extension.
pub(crate) fn find(artifacts: &[Artifact], name: &str, extension: &str) -> Result<PathBuf> {
    let is_it = |artifact: &&Artifact| {
        artifact.name == name && artifact.path.extension().unwrap_or_default() == extension
    };
    match artifacts.iter().find(is_it) {
        Some(artifact) => Ok(artifact.path.clone()),
        None => bail!("cargo built no {name}; is its target still called so?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_among_what_cargo_says() {
        let lines = [
            r#"{"reason":"compiler-artifact","target":{"name":"tool"},"filenames":["/t/libtool.rlib"]}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"tool"},"filenames":["/t/tool"]}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "not JSON",
        ];
        let artifacts: Vec<_> = lines.into_iter().flat_map(artifacts).collect();
        assert_eq!(find(&artifacts, "tool", "").unwrap(), PathBuf::from("/t/tool"));
        assert_eq!(find(&artifacts, "tool", "rlib").unwrap(), PathBuf::from("/t/libtool.rlib"));
        assert!(find(&artifacts, "other", "").is_err());
    }
}
