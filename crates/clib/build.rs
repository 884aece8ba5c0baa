//! Stamps `src/strategy.rs.in` for each strategy, and writes `heapwright.h` from what came of it.
//!
//! Both go to `OUT_DIR`. The functions of a strategy are stamped and not made by a macro because cbindgen reads
//! source as it is written: it expands macros with a nightly compiler only.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

/// A strategy that C programs can call.
struct Strategy {
    /// As it is called everywhere; with `_` for `-`, a part of the functions' names.
    name: &'static str,
    /// The type of its heap.
    heap: &'static str,
    /// What it is, behind "A heap of its own:".
    about: &'static str,
    /// What becomes of blocks that are freed twice, or never were blocks.
    misuse: &'static str,
}

const FOUND: &str = "A double or invalid free ends the program with a message.";
const IN_A_ROW: &str =
    "A double free in a row ends the program with a message; other misuse may break the heap.";
const NOT_FOUND: &str = "Double and invalid frees are not found, and break the heap.";

#[rustfmt::skip] // one line a strategy
const STRATEGIES: &[Strategy] = &[
    Strategy { name: "thread-cached", heap: "heapwright_thread_cached::ThreadCached", about: "per-thread caches over slabs, over runs of pages chosen by best fit, on mappings", misuse: IN_A_ROW },
    Strategy { name: "first-fit-sbrk", heap: "heapwright_first_fit_sbrk::FirstFitSbrk", about: "first fit over the break, one list by address, no splitting, no merging", misuse: NOT_FOUND },
    Strategy { name: "lifo-mmap", heap: "heapwright_lifo_mmap::LifoMmap", about: "best fit over a LIFO list on mappings, frees checked", misuse: FOUND },
    Strategy { name: "coalescing", heap: "heapwright_coalescing::Coalescing", about: "first fit over a LIFO list on the break, split and merged at once", misuse: FOUND },
    Strategy { name: "segregated-fit", heap: "heapwright_segregated_fit::SegregatedFit", about: "bins with best fit inside, quick lists, break and mappings", misuse: NOT_FOUND },
    Strategy { name: "tlsf", heap: "heapwright_tlsf::Tlsf", about: "two-level segregated fit over mappings, constant time", misuse: NOT_FOUND },
    Strategy { name: "best-fit", heap: "heapwright_best_fit::BestFit", about: "best fit over a tree by size and address, on mappings", misuse: NOT_FOUND },
    Strategy { name: "first-fit", heap: "heapwright_first_fit::FirstFit", about: "first fit by address over a tree, on mappings", misuse: NOT_FOUND },
    Strategy { name: "buddy", heap: "heapwright_buddy::Buddy", about: "binary buddy over mappings, a side table in place of headers", misuse: FOUND },
    Strategy { name: "kingsley", heap: "heapwright_kingsley::Kingsley", about: "powers of two, one list each, never merged, on mappings", misuse: FOUND },
    Strategy { name: "pool", heap: "heapwright_pool::Pool", about: "objects of 64 bytes in slabs on mappings; a request for more than that fails", misuse: FOUND },
    Strategy { name: "bump", heap: "heapwright_bump::Bump", about: "a mark that only goes up", misuse: "It does nothing: this strategy never reuses a block, and does not look for misuse." },
];

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["build.rs", "cbindgen.toml", "src/strategy.rs.in", "src/shared.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let template = fs::read_to_string("src/strategy.rs.in")?;
    let stamped = out.join("strategies.rs");
    fs::write(&stamped, STRATEGIES.iter().map(|it| it.stamp(&template)).collect::<String>())?;

    cbindgen::Builder::new()
        .with_config(cbindgen::Config::from_file("cbindgen.toml")?)
        .with_src("src/shared.rs")
        .with_src(&stamped)
        .generate()?
        .write_to_file(out.join("heapwright.h"));

    // What programs that were linked with one version look for when they start. Before 1.0, each minor version may
    // change the functions.
    let (major, minor) =
        (env::var("CARGO_PKG_VERSION_MAJOR")?, env::var("CARGO_PKG_VERSION_MINOR")?);
    let version = if major == "0" { format!("0.{minor}") } else { major };
    let soname = format!("libheapwright.so.{version}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    // Threads that end call into it, even if the program has let go of it by then.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rustc-env=HEAPWRIGHT_SONAME={soname}"); // `cargo xtask clib` reads it
    Ok(())
}

impl Strategy {
    fn stamp(&self, template: &str) -> String {
        let stamped = template
            .replace("@name@", self.name)
            .replace("@NAME@", &self.name.replace('-', "_"))
            .replace("@heap@", self.heap)
            .replace("@about@", self.about)
            .replace("@misuse@", self.misuse);
        assert!(!stamped.contains('@'), "a placeholder of the template is unknown");
        stamped
    }
}
