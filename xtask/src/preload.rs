//! `cargo xtask preload` and `cargo xtask run`: strategies in place of `malloc`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use heapwright_benches::registry::STRATEGIES;

use crate::cargo;

/// Which libraries to build.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The strategies, by name [default: all that serve any size]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// What to run, and on what.
#[derive(clap::Args)]
pub(crate) struct RunOptions {
    /// The strategy, by name
    #[arg(long, value_name = "NAME")]
    strategy: String,

    /// The command to run, behind `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn preload(options: &Options) -> Result<ExitCode> {
    let names: Vec<_> = if options.names.is_empty() {
        servants().into_iter().chain(DESIGNS).collect()
    } else {
        options.names.iter().map(|name| servant(name)).collect::<Result<_>>()?
    };
    for path in build(&names)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(options: &RunOptions) -> Result<ExitCode> {
    let library = build(&[servant(&options.strategy)?])?.remove(0).into_os_string();
    let others = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty());
    let preloaded = match others {
        Some(others) => [library, ":".into(), others].into_iter().collect(),
        None => library,
    };
    let program = &options.command[0];
    // What comes back is why it could not be run.
    let error =
        Command::new(program).args(&options.command[1..]).env("LD_PRELOAD", preloaded).exec();
    Err(error).with_context(|| format!("running {}", program.display()))
}

/// Libraries of a strategy's other designs, of which the registry measures none.
const DESIGNS: [&str; 1] = ["thread-cached-checked"];

/// The strategies that can stand in place of `malloc`: those that serve any size.
pub(crate) fn servants() -> Vec<&'static str> {
    let serves = |limits: usize| limits >= isize::MAX as usize >> 1;
    STRATEGIES
        .iter()
        .filter(|it| it.strategy.is_some_and(|strategy| serves(strategy.limits().max_size)))
        .map(|it| it.name)
        .collect()
}

/// The strategy, or design of one, of this name, if it can stand in place of `malloc`.
pub(crate) fn servant(name: &str) -> Result<&'static str> {
    let all: Vec<_> = servants().into_iter().chain(DESIGNS).collect();
    if let Some(found) = all.iter().find(|&&known| known == name) {
        return Ok(found);
    }
    match STRATEGIES.iter().find(|it| it.name == name) {
        Some(it) => bail!("{name} does not serve every size, as malloc must: {}", it.about),
        None => bail!("there is no strategy {name:?}; there are {}", all.join(", ")),
    }
}

/// Builds these strategies' libraries, and copies them to where they are found by name.
pub(crate) fn build(names: &[&str]) -> Result<Vec<PathBuf>> {
    let library = |name: &str| format!("heapwright_{}", name.replace('-', "_"));
    let libraries: Vec<String> = names.iter().map(|name| library(name)).collect();
    let mut arguments = vec!["--profile", "preload", "--package", "heapwright-preload"];
    for library in &libraries {
        arguments.extend(["--example", library]);
    }
    let built =
        cargo::build(&arguments)?.context("the libraries cannot be built; see the errors above")?;
    let mut paths = Vec::new();
    for library in &libraries {
        let made = cargo::find(&built, library, "so")?;
        // Cargo puts it into `examples` of the profile's directory.
        let folder = made.ancestors().nth(2).context("the library is in no target directory")?;
        let path = folder.join(format!("lib{library}.so"));
        // Whoever runs on the old one goes on to, so it is replaced, not overwritten.
        let fresh = folder.join(format!(".lib{library}.so.{}", std::process::id()));
        fs::copy(&made, &fresh).with_context(|| format!("writing {}", fresh.display()))?;
        fs::rename(&fresh, &path).with_context(|| format!("writing {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_for_every_size_has_a_library_and_others_say_why_not() {
        let manifest = include_str!("../../crates/preload/Cargo.toml");
        for name in servants().into_iter().chain(DESIGNS) {
            let library = format!("name = \"heapwright_{}\"", name.replace('-', "_"));
            assert!(manifest.contains(&library), "crates/preload has no {library}");
        }
        assert_eq!(servant("tlsf").unwrap(), "tlsf");
        assert!(servant("pool").unwrap_err().to_string().contains("does not serve every size"));
        assert!(servant("fool").unwrap_err().to_string().contains("there are"));
    }
}
