//! `cargo xtask asm`: what a program under preload really runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::preload;

/// Which assembly to print.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The strategy, by name
    #[arg(value_name = "STRATEGY")]
    strategy: String,

    /// Functions of the library, by their symbols [default: malloc and free]
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,

    /// Leave out the lines of source that stand between the instructions
    #[arg(long)]
    bare: bool,
}

pub(crate) fn asm(options: &Options) -> Result<ExitCode> {
    let library = preload::build(&[preload::servant(&options.strategy)?])?.remove(0);
    let functions = match options.functions.as_slice() {
        [] => vec!["malloc", "free"],
        some => some.iter().map(String::as_str).collect(),
    };
    for function in functions {
        let (start, end) = place(&library, function)?;
        let mut objdump = Command::new("objdump");
        objdump.args(["--disassemble", "--demangle", "--no-show-raw-insn", "--section=.text"]);
        objdump.arg(format!("--start-address={start:#x}"));
        objdump.arg(format!("--stop-address={end:#x}"));
        if !options.bare {
            objdump.args(["--source", "--source-comment=    ; "]);
        }
        let text = output(objdump.arg(&library))?;
        let body = text.find(">:\n").map_or("", |label| text[label + 3..].trim_end());
        println!("{function}:\n{body}\n");
        println!("{}\n", Summary::of(function, body, start..end));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a function of a library begins and ends.
fn place(library: &Path, function: &str) -> Result<(u64, u64)> {
    let text = output(Command::new("nm").args(["--print-size", "--defined-only"]).arg(library))?;
    let found = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        let size = u64::from_str_radix(words.next()?, 16).ok()?;
        (words.nth(1)? == function).then_some((start, start + size))
    });
    found.with_context(|| {
        format!("{} has no function {function:?}; `nm -D` lists what it exports", library.display())
    })
}

/// What a tool of GNU's binutils prints.
fn output(command: &mut Command) -> Result<String> {
    let tool = command.get_program().to_owned();
    let output = command
        .output()
        .with_context(|| format!("running {}, which comes with GNU's binutils", tool.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", tool.display(), error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What stands in a function, counted.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    function: String,
    instructions: usize,
    atomics: usize,
    /// What is called or jumped to elsewhere, and how often.
    calls: BTreeMap<String, usize>,
}

impl Summary {
    fn of(function: &str, text: &str, place: Range<u64>) -> Self {
        let mut summary = Self { function: function.to_owned(), ..Self::default() };
        for line in text.lines() {
            // Instructions stand behind an address, a colon and a tab.
            let Some((address, instruction)) = line.split_once(":\t") else { continue };
            if u64::from_str_radix(address.trim(), 16).is_err() {
                continue;
            }
            summary.instructions += 1;
            let (mnemonic, operands) =
                instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
            // On x86, exchanging with memory is atomic without saying so.
            if mnemonic == "lock" || mnemonic == "xchg" && operands.contains('(') {
                summary.atomics += 1;
            }
            let operands = operands.trim();
            let to = operands.split_whitespace().next().unwrap_or_default();
            let within = u64::from_str_radix(to, 16).is_ok_and(|to| place.contains(&to));
            if mnemonic.starts_with("call") || mnemonic.starts_with("jmp") && !within {
                let target = operands
                    .split_once('<')
                    .map_or(operands, |(_, name)| name.strip_suffix('>').unwrap_or(name));
                *summary.calls.entry(target.to_owned()).or_default() += 1;
            }
        }
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instructions, atomics, calls, function } = self;
        write!(f, "{function}: {instructions} instructions, {atomics} of them atomic; ")?;
        if calls.is_empty() {
            return f.write_str("it calls nothing");
        }
        f.write_str("it may call")?;
        for (name, times) in calls {
            write!(f, "\n  {name}")?;
            if *times > 1 {
                write!(f, " ({times} times)")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_atomics_and_calls_are_counted() {
        let text = "\
    ; pub unsafe fn malloc: of source
    89a0:\tpush   %rbx
    89bb:\tlock cmpxchg %ecx,0x73cd(%rip)        # fd90 <HEAP>
    89c3:\tjne    8a0c <malloc+0x6c>
    89fa:\txchg   %ecx,0x7390(%rip)        # fd90 <HEAP>
    8a19:\txchg   %eax,%ebx
    8a22:\tjmp    89c5 <malloc+0x25>
    8a36:\tcall   6b50 <Heap<B>::grow>
    8a37:\tcall   6b50 <Heap<B>::grow>
    8a66:\tjmp    *0x623c(%rip)        # eca8 <refuse>
    8a67:\tret";
        let summary = Summary::of("malloc", text, 0x89a0..0x8a68);
        assert_eq!((summary.instructions, summary.atomics), (10, 2));
        let calls: Vec<_> =
            summary.calls.iter().map(|(name, times)| (name.as_str(), *times)).collect();
        assert_eq!(calls, [("Heap<B>::grow", 2), ("refuse", 1)]);
        assert!(summary.to_string().starts_with("malloc: 10 instructions, 2 of them atomic"));
    }
}
