//! Where, with what and from what a run was made: what it takes to repeat it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The surroundings of a run. What could not be found out is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The processor, as the kernel calls it.
    pub machine: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// The kernel and its version.
    pub kernel: String,
    /// To whom the kernel gives huge pages of any size (`always`, `madvise`, `never`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub huge_pages: String,
    /// The C library and its version.
    pub libc: String,
    /// The compiler that built the harness.
    pub compiler: String,
    /// The commit of the working copy, with `+` behind it where files were changed since.
    pub commit: String,
    /// The version of the harness.
    pub version: String,
    /// The version of each contender that has one.
    pub versions: BTreeMap<String, String>,
    /// The command line.
    pub flags: Vec<String>,
    /// When the run began, in UTC, as RFC 3339 writes it.
    pub time: String,
}

impl Environment {
    /// The surroundings of this process.
    #[must_use]
    pub fn now() -> Self {
        Self {
            machine: processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: line_of("/proc/version").split(" (").next().unwrap_or_default().to_owned(),
            huge_pages: huge_pages(),
            libc: libc_version(),
            compiler: env!("HEAPWRIGHT_COMPILER").to_owned(),
            commit: commit(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            versions: versions(include_str!("../../Cargo.lock")),
            flags: std::env::args().skip(1).collect(),
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    /// What of the surroundings makes footprints tell less than elsewhere, and what to do about it.
    #[must_use]
    pub fn caution(&self) -> Option<&'static str> {
        (self.huge_pages == "always").then_some(
            "note: this kernel gives huge pages to all, so footprints count what it made present around blocks, and miss \
             what was so before a replay began; to compare memory, put `madvise` into each `enabled` below \
             /sys/kernel/mm/transparent_hugepage that has `[always]`, for all programs of the machine",
        )
    }

    /// Whether footprints may differ from those taken there for what the kernel does, not the contenders.
    #[must_use]
    pub fn counts_otherwise(&self, other: &Self) -> bool {
        let (this, other) = (&self.huge_pages, &other.huge_pages);
        !this.is_empty() && !other.is_empty() && this != other
    }
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// Kernels from 6.8 on have a setting for each size of huge pages besides the one for all, which a size may inherit.
fn huge_pages() -> String {
    let folder = Path::new("/sys/kernel/mm/transparent_hugepage");
    let of_all = fs::read_to_string(folder.join("enabled")).unwrap_or_default();
    let sizes = fs::read_dir(folder).into_iter().flatten().flatten();
    let of_sizes = sizes.filter_map(|size| fs::read_to_string(size.path().join("enabled")).ok());
    widest(&of_all, &of_sizes.collect::<Vec<_>>()).to_owned()
}

/// Of the settings in force, the one that gives huge pages to most. Each text lists those there are, with the one that is
/// chosen in brackets.
fn widest<'a>(of_all: &'a str, of_sizes: &'a [String]) -> &'a str {
    let chosen = |text: &'a str| text.split_once('[')?.1.split_once(']').map(|(chosen, _)| chosen);
    let of_all = chosen(of_all).unwrap_or_default();
    let of_sizes = of_sizes.iter().filter_map(|text| chosen(text));
    let in_force = of_sizes.map(|mode| if mode == "inherit" { of_all } else { mode });
    let rank = |mode: &&str| ["never", "madvise", "always"].iter().position(|known| known == mode);
    in_force.max_by_key(rank).unwrap_or(of_all)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

#[cfg(target_env = "gnu")]
fn libc_version() -> String {
    // SAFETY: a constant text of the C library.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

#[cfg(not(target_env = "gnu"))]
fn libc_version() -> String {
    String::new()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let changed = changed.is_some_and(|files| !files.is_empty());
    format!("{commit}{}", if changed { "+" } else { "" })
}

/// The versions of peers' crates, from the lock file that the harness was built with.
fn versions(lock: &str) -> BTreeMap<String, String> {
    const CRATES: [(&str, &str); 10] = [
        ("mimalloc", "libmimalloc-sys"),
        ("jemalloc", "tikv-jemalloc-sys"),
        ("snmalloc", "snmalloc-sys"),
        ("rpmalloc", "rpmalloc"),
        ("dlmalloc", "dlmalloc"),
        ("talc", "talc"),
        ("linked_list_allocator", "linked_list_allocator"),
        ("rlsf", "rlsf"),
        ("buddy_system_allocator", "buddy_system_allocator"),
        ("smmalloc", "smmalloc"),
    ];
    let version = |package: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let known = CRATES.iter().filter_map(|(peer, package)| {
        Some(((*peer).to_owned(), format!("{package} {}", version(package)?)))
    });
    known.chain([("glibc".to_owned(), libc_version())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::PEERS;

    #[test]
    fn a_run_can_be_repeated_from_what_it_says() {
        let now = Environment::now();
        assert!(now.compiler.starts_with("rustc 1."), "{now:?}");
        assert!(now.kernel.starts_with("Linux version"), "{now:?}");
        assert!(["", "always", "madvise", "never"].contains(&now.huge_pages.as_str()), "{now:?}");
        assert!(now.processors > 0 && now.time.ends_with('Z'), "{now:?}");
        for peer in PEERS {
            assert!(now.versions.contains_key(peer.name), "no version of {}", peer.name);
        }
    }

    #[test]
    fn huge_pages_for_all_call_for_caution_and_older_results_say_nothing_of_them() {
        let set = |setting: &str| Environment { huge_pages: setting.into(), ..Default::default() };
        assert!(set("always").caution().is_some_and(|caution| caution.contains("madvise")));
        assert!(["madvise", "never", ""].map(set).iter().all(|it| it.caution().is_none()));
        let mut older = serde_json::to_value(set("always")).unwrap();
        older.as_object_mut().unwrap().remove("huge_pages");
        let older: Environment = serde_json::from_value(older).unwrap();
        assert_eq!(older, set(""));
        assert!(set("always").counts_otherwise(&set("never")));
        assert!(!set("always").counts_otherwise(&set("always")));
        assert!(!older.counts_otherwise(&set("always")), "it is not known");
    }

    #[test]
    fn a_size_of_huge_pages_may_have_a_setting_of_its_own() {
        let of_size =
            |mode: &str| "always inherit madvise never".replace(mode, &format!("[{mode}]"));
        let all = |mode: &str| "always madvise never".replace(mode, &format!("[{mode}]"));
        let sizes = |modes: &[&str]| modes.iter().map(|mode| of_size(mode)).collect::<Vec<_>>();
        assert_eq!(widest(&all("always"), &[]), "always", "before Linux 6.8");
        assert_eq!(widest(&all("madvise"), &sizes(&["never", "inherit"])), "madvise");
        assert_eq!(widest(&all("madvise"), &sizes(&["always", "inherit"])), "always");
        assert_eq!(widest(&all("always"), &sizes(&["never", "never"])), "never");
        assert_eq!(widest("", &[]), "", "a kernel without them");
    }
}
