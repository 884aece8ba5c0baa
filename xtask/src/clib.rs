//! `cargo xtask clib`: the C library, laid out as compilers and pkg-config look for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cargo;

/// Where the library goes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory to put include/ and lib/ into; it may be moved as a whole later [default: target/clib]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

/// What cargo said of the library.
struct Built {
    archive: PathBuf,
    shared: PathBuf,
    header: PathBuf,
    /// The shared library's name for programs, which look for it under that name when they start.
    soname: String,
    version: String,
    /// Libraries of the system that the archive needs, as the linker takes them.
    system: String,
}

pub(crate) fn clib(options: &Options) -> Result<ExitCode> {
    let built = build()?.context("the C library cannot be built; see the errors above")?;
    let target =
        built.shared.ancestors().nth(2).context("the library is in no target directory")?;
    let prefix = options.prefix.clone().unwrap_or_else(|| target.join("clib"));
    fs::create_dir_all(&prefix)?;
    let prefix = fs::canonicalize(&prefix)?;
    install(&built, &prefix).with_context(|| format!("writing to {}", prefix.display()))?;

    println!(
        "\
Heapwright {version} for C is in {prefix}

Compile a program that calls it:
  export PKG_CONFIG_PATH={prefix}/lib/pkgconfig
  cc program.c $(pkg-config --cflags --libs heapwright) -Wl,-rpath,{prefix}/lib
with nothing to find when it starts:
  cc -static program.c $(pkg-config --static --cflags --libs heapwright)
without pkg-config:
  cc program.c -I{prefix}/include {prefix}/lib/libheapwright.a {system}",
        version = built.version,
        prefix = prefix.display(),
        system = built.system,
    );
    Ok(ExitCode::SUCCESS)
}

/// Builds both libraries and the header, or says `None` when that failed.
fn build() -> Result<Option<Built>> {
    let library = ["--release", "--package", "heapwright-clib", "--lib"];
    let print = ["--", "--print", "native-static-libs"];
    let arguments = [library.as_slice(), &print].concat();
    let Some(messages) = cargo::messages(&["rustc", "--message-format=json"], &arguments)? else {
        return Ok(None);
    };
    let script = script(&messages).context("the build script of the C library did not run")?;
    let artifacts: Vec<_> = messages.iter().flat_map(cargo::artifacts).collect();
    Ok(Some(Built {
        archive: cargo::find(&artifacts, "heapwright", "a")?,
        shared: cargo::find(&artifacts, "heapwright", "so")?,
        header: script.header,
        soname: script.soname,
        version: env!("CARGO_PKG_VERSION").to_owned(), // one for the whole workspace
        system: system_libraries(&messages).context("rustc did not name the system's libraries")?,
    }))
}

/// What the build script made.
#[derive(Debug, PartialEq)]
struct Script {
    header: PathBuf,
    soname: String,
}

fn script(messages: &[Value]) -> Option<Script> {
    let script = messages.iter().find(|message| {
        message["reason"] == "build-script-executed"
            && message["package_id"].as_str().is_some_and(|id| id.contains("heapwright-clib"))
    })?;
    let mut variables = script["env"].as_array()?.iter();
    let soname = variables.find(|variable| variable[0] == "HEAPWRIGHT_SONAME")?[1].as_str()?;
    Some(Script {
        header: Path::new(script["out_dir"].as_str()?).join("heapwright.h"),
        soname: soname.to_owned(),
    })
}

/// What rustc says that the archive needs, without the unwinder: the C compiler adds that by itself, in the form that
/// a static or a dynamic program takes.
fn system_libraries(messages: &[Value]) -> Option<String> {
    let mut notes = messages.iter().filter_map(|message| message["message"]["message"].as_str());
    let libraries = notes.find_map(|note| note.strip_prefix("native-static-libs: "))?;
    let needed: Vec<_> = libraries.split_whitespace().filter(|&it| it != "-lgcc_s").collect();
    Some(needed.join(" "))
}

fn install(built: &Built, prefix: &Path) -> Result<()> {
    let (include, lib) = (prefix.join("include"), prefix.join("lib"));
    let pkgconfig = lib.join("pkgconfig");
    fs::create_dir_all(&include)?;
    fs::create_dir_all(&pkgconfig)?;
    fs::copy(&built.header, include.join("heapwright.h"))?;
    fs::copy(&built.archive, lib.join("libheapwright.a"))?;

    replace(&built.shared, &lib.join(&built.soname))?;
    let plain = lib.join("libheapwright.so"); // for the linker
    if plain.symlink_metadata().is_ok() {
        fs::remove_file(&plain)?;
    }
    std::os::unix::fs::symlink(&built.soname, &plain)?;

    fs::write(pkgconfig.join("heapwright.pc"), pc(built))?;
    Ok(())
}

/// Copies a file over another one, which programs that run may have mapped and keep.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::rename(&new, to)?;
    Ok(())
}

fn pc(built: &Built) -> String {
    let Built { version, system, .. } = built;
    format!(
        "\
prefix=${{pcfiledir}}/../..
includedir=${{prefix}}/include
libdir=${{prefix}}/lib

Name: heapwright
Description: Heaps to call by name: a malloc family for each allocation strategy
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -lheapwright
Libs.private: {system}
"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn header_soname_and_system_libraries_are_found_among_what_cargo_says() {
        let messages = [
            json!({"reason": "build-script-executed", "package_id": "other@1.0.0", "out_dir": "/o", "env": []}),
            json!({"reason": "build-script-executed",
                "package_id": "path+file:///h/crates/clib#heapwright-clib@0.1.0",
                "out_dir": "/t/out", "env": [["HEAPWRIGHT_SONAME", "libheapwright.so.7"]]}),
            json!({"reason": "compiler-message", "message": {"message": "link against the following"}}),
            json!({"reason": "compiler-message",
                "message": {"message": "native-static-libs: -lgcc_s -lutil -lm -lc"}}),
        ];
        let expected = Script {
            header: "/t/out/heapwright.h".into(),
            soname: "libheapwright.so.7".to_owned(),
        };
        assert_eq!(script(&messages), Some(expected));
        assert_eq!(system_libraries(&messages).as_deref(), Some("-lutil -lm -lc"));
        assert_eq!(script(&messages[..1]), None);
        assert_eq!(system_libraries(&messages[..3]), None);
    }
}
