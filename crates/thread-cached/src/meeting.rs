//! What threads meet by. `tests/loom.rs` takes the modules that use this with loom's in their place.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, compiler_fence};
