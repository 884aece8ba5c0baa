//! How the libraries are linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Ours is initialised before the libraries that allocate in their constructors, and registers its fork handlers
    // before theirs.
    println!("cargo:rustc-link-arg-examples=-Wl,-z,initfirst");
}
