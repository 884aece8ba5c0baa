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
    let messages = messages(&["build", "--message-format=json-render-diagnostics"], arguments)?;
    Ok(messages.map(|messages| messages.iter().flat_map(artifacts).collect()))
}

/// Runs a command of cargo that ends in these arguments and prints messages in JSON. Returns these, or `None` when it
/// failed.
pub(crate) fn messages(command: &[&str], arguments: &[&str]) -> Result<Option<Vec<Value>>> {
    let output = cargo()
        .args(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    let rendered = messages.iter().filter(|it| it["message"]["level"] != "note");
    for text in rendered.filter_map(|it| it["message"]["rendered"].as_str()) {
        eprint!("{text}");
    }
    Ok(output.status.success().then_some(messages))
}

/// The files in one of cargo's messages.
pub(crate) fn artifacts(message: &Value) -> Vec<Artifact> {
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_program_is_found_among_what_cargo_says() {
        let messages = [
            json!({"reason": "compiler-artifact", "target": {"name": "tool"}, "filenames": ["/t/libtool.rlib"]}),
            json!({"reason": "compiler-artifact", "target": {"name": "tool"}, "filenames": ["/t/tool"]}),
            json!({"reason": "build-finished", "success": true}),
            Value::Null,
        ];
        let artifacts: Vec<_> = messages.iter().flat_map(artifacts).collect();
        assert_eq!(find(&artifacts, "tool", "").unwrap(), PathBuf::from("/t/tool"));
        assert_eq!(find(&artifacts, "tool", "rlib").unwrap(), PathBuf::from("/t/libtool.rlib"));
        assert!(find(&artifacts, "other", "").is_err());
    }
}
