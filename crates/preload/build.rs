//! How the libraries are linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Ours is initialised before the libraries that allocate in their constructors, and registers its fork handlers
    // before theirs.
    // Not only for examples: Cargo takes those for programs. Programs do not mind.
    println!("cargo:rustc-link-arg=-Wl,-z,initfirst");
}
