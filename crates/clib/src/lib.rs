//! The C library: each strategy's `malloc` family under the strategy's name.
//!
//! ```c
//! #include <heapwright.h>
//!
//! int *numbers = hw_tlsf_malloc(10 * sizeof *numbers);
//! hw_tlsf_print(1);
//! hw_tlsf_free(numbers);
//! ```
//!
//! Nothing here replaces the program's own `malloc`: a program may use several strategies side by side, which is
//! what they are here for. `cargo xtask clib` builds the library with its header and its `heapwright.pc`; the folder
//! `examples/c` has programs.
//!
//! A strategy is a line in `build.rs`, which stamps `src/strategy.rs.in` for it: a module with one static heap and
//! the functions on it. What the functions do stands once, in `face`, generic over the strategy, so that each
//! function calls its strategy directly. The header is written from the stamped source by cbindgen; the comments of
//! both files are its comments.

mod face;
pub mod shared;

include!(concat!(env!("OUT_DIR"), "/strategies.rs"));
