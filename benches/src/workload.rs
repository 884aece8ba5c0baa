//! Workloads: what is asked of an allocator, and where it comes from.

use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use heapwright_trace::Trace;
use serde::{Deserialize, Serialize};

use crate::generators::{GENERATORS, Generator};
use crate::script::{Facts, Script};

/// Where a workload comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A trace that comes with the project.
    Recorded,
    /// A trace that the user named.
    Given,
    /// Made by a generator.
    Generated,
    /// A whole program, run with each contender in place of its `malloc`.
    Program,
}

/// A workload that has a name, and is not loaded yet.
pub struct Workload {
    /// Its name in tables and on the command line.
    pub name: String,
    /// Where it comes from.
    pub kind: Kind,
    source: Source,
}

enum Source {
    File(PathBuf),
    /// A trace whose threads run at the same time.
    Threads(PathBuf),
    Generator(&'static Generator),
    Program(String),
}

/// How much of a generated workload is made.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The seed of the generators.
    pub seed: u64,
    /// About how many operations each makes.
    pub operations: usize,
}

/// A workload compiled into a file, for workers to map.
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub kind: Kind,
    /// What is known of it.
    pub facts: Facts,
    /// The compiled script; empty for a program.
    pub script: PathBuf,
    /// The command line of a program.
    pub program: Option<String>,
}

impl Workload {
    /// The traces that come with the project, by name; after each that has several threads, the same once more with its
    /// threads at the same time, as [`Workload::threads`] makes it.
    #[must_use]
    pub fn recorded() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
        let entries =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut traces: Vec<_> = entries
            .filter(|path| path.extension().is_some_and(|extension| extension == "hwt"))
            .map(|path| Self { kind: Kind::Recorded, ..Self::given(&path) })
            .collect();
        traces.sort_by(|one, other| one.name.cmp(&other.name));
        let with_threads = |trace: Self| {
            let threads = trace.threads();
            iter::once(trace).chain(threads)
        };
        traces.into_iter().flat_map(with_threads).collect()
    }

    /// The same trace with each of its threads in a thread of its own, all at the same time, named `NAME@threads`;
    /// `None` for what is no trace, or one of a single thread. [`Script::compile_concurrent`] says what of the recorded
    /// order is kept.
    #[must_use]
    pub fn threads(&self) -> Option<Self> {
        let Source::File(path) = &self.source else { return None };
        // One that cannot be read is reported where it is loaded.
        let trace = Trace::load(path).ok().filter(|trace| trace.summary().threads > 1)?;
        drop(trace);
        let name = format!("{}@threads", self.name);
        Some(Self { name, kind: self.kind, source: Source::Threads(path.clone()) })
    }

    /// The generators.
    #[must_use]
    pub fn generated() -> Vec<Self> {
        let workload = |generator: &'static Generator| Self {
            name: generator.name.to_owned(),
            kind: Kind::Generated,
            source: Source::Generator(generator),
        };
        GENERATORS.iter().map(workload).collect()
    }

    /// Whether it is run when nothing else is asked for: recorded traces in their recorded order, and a few generators
    /// that stand for the others.
    #[must_use]
    pub fn is_everyday(&self) -> bool {
        const GENERATED: [&str; 5] =
            ["fixed-64", "pareto", "vectors", "larson", "producer-consumer"];
        match &self.source {
            Source::Generator(_) => GENERATED.contains(&self.name.as_str()),
            Source::Threads(_) => false,
            Source::File(_) | Source::Program(_) => true,
        }
    }

    /// A trace somewhere; its name is the file's, up to the first dot.
    #[must_use]
    pub fn given(path: &Path) -> Self {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or("trace");
        Self { name: stem.to_owned(), kind: Kind::Given, source: Source::File(path.to_owned()) }
    }

    /// A whole program, by its command line for `sh`; it is called what it begins with.
    #[must_use]
    pub fn program(command: &str) -> Self {
        let first = command.split_whitespace().find(|word| !word.contains('=')).unwrap_or(command);
        let name = first.rsplit('/').next().unwrap_or(first).to_owned();
        Self { name, kind: Kind::Program, source: Source::Program(command.to_owned()) }
    }

    /// What it is, in one line.
    #[must_use]
    pub fn about(&self) -> String {
        match &self.source {
            Source::Generator(Generator { about, source, .. }) => format!("{about} ({source})"),
            Source::Program(command) => command.clone(),
            Source::File(path) => match Trace::load(path) {
                Ok(trace) => trace.summary().command.clone(),
                Err(error) => error.to_string(),
            },
            Source::Threads(path) => match Trace::load(path) {
                Ok(trace) => {
                    let summary = trace.summary();
                    format!("{}; its {} threads at the same time", summary.command, summary.threads)
                }
                Err(error) => error.to_string(),
            },
        }
    }

    /// Loads or generates it and compiles it.
    ///
    /// # Errors
    ///
    /// When the trace cannot be read or is damaged.
    pub fn load(&self, scale: Scale) -> Result<Script> {
        match &self.source {
            Source::File(path) => Script::compile(&Trace::load(path)?),
            Source::Threads(path) => Script::compile_concurrent(&Trace::load(path)?),
            Source::Generator(generator) => generator.generate(scale.seed, scale.operations),
            Source::Program(command) => bail!("{command:?} is a program, and has no script"),
        }
    }

    /// [Prepares](Self::prepare) several, each under its place.
    ///
    /// # Errors
    ///
    /// As [`Workload::prepare`].
    pub fn prepare_all(workloads: &[Self], scale: Scale, folder: &Path) -> Result<Vec<Prepared>> {
        let numbered = workloads.iter().enumerate();
        numbered.map(|(number, workload)| workload.prepare(scale, folder, number)).collect()
    }

    /// Loads and compiles it, and writes it into `folder` as a file named after `number`.
    ///
    /// # Errors
    ///
    /// As [`Workload::load`]; and when the file cannot be written.
    pub fn prepare(&self, scale: Scale, folder: &Path, number: usize) -> Result<Prepared> {
        let Self { name, kind, .. } = self;
        if let Source::Program(command) = &self.source {
            return Ok(Prepared {
                name: name.clone(),
                kind: *kind,
                facts: Facts { operations: 1, ..Facts::default() },
                script: PathBuf::new(),
                program: Some(command.clone()),
            });
        }
        let script = self.load(scale).with_context(|| format!("loading the workload {name}"))?;
        let path = folder.join(format!("{number}.script"));
        script.write(&path)?;
        Ok(Prepared {
            name: name.clone(),
            kind: *kind,
            facts: script.facts().clone(),
            script: path,
            program: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_after_its_file() {
        let name = |path: &str| Workload::given(Path::new(path)).name;
        assert_eq!(name("/a.b/grep.rep.gz"), "grep");
        assert_eq!(name("service.hwt"), "service");
        assert_eq!(name(".hidden"), "hidden");
    }

    #[test]
    fn a_program_is_named_after_its_first_word() {
        let name = |command: &str| Workload::program(command).name;
        assert_eq!(name("python3 -c 'print(1)'"), "python3");
        assert_eq!(name("LANG=C /usr/bin/gcc -O2 x.c"), "gcc");
    }

    #[test]
    fn a_broken_trace_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.hwt");
        std::fs::write(&path, "no trace").unwrap();
        let scale = Scale { seed: 0, operations: 0 };
        let error = Workload::given(&path).prepare(scale, folder.path(), 0).err().unwrap();
        assert!(format!("{error:#}").contains("broken.hwt"), "{error:#}");
    }

    #[test]
    fn a_recorded_trace_of_several_threads_is_there_twice() {
        let workloads = Workload::recorded();
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        assert!(names.contains(&"python-threads") && names.contains(&"python-threads@threads"));
        assert!(names.contains(&"gcc") && !names.contains(&"gcc@threads"));
        let scale = Scale { seed: 0, operations: 0 };
        for workload in workloads.iter().filter(|workload| workload.name.contains('@')) {
            let single = workload.name.strip_suffix("@threads");
            let single = workloads.iter().find(|other| Some(other.name.as_str()) == single);
            let (facts, single) = (
                workload.load(scale).unwrap().facts().clone(),
                single.unwrap().load(scale).unwrap().facts().clone(),
            );
            assert!(facts.streams > 1, "{}", workload.name);
            assert_eq!(facts.operations, single.operations, "{}", workload.name);
            assert_eq!(facts.total, single.total, "{}", workload.name);
            // The streams meet often enough that about as much is live at once.
            let ratio = facts.peak_live as f64 / single.peak_live as f64;
            assert!((0.8..1.25).contains(&ratio), "{}: {ratio}", workload.name);
        }
    }
}
