//! The exported names, one line each, for a strategy chosen at compile time.

#[doc(hidden)]
pub use heapwright_core as core_;
#[doc(hidden)]
pub use libc;

/// Makes the crate that it stands in the C face of one strategy: the name that it is called by, and a type with
/// `const fn new()` that is a [`Strategy`](heapwright_core::Strategy) and [`Sync`].
///
/// Once in a crate of type `cdylib`, which needs nothing else.
#[macro_export]
macro_rules! export {
    ($name:literal, $type:ty) => {
        static HEAP: $type = <$type>::new();

        $crate::__functions! { family:
            malloc = malloc(size: usize) -> *mut c_void;
            calloc = calloc(count: usize, size: usize) -> *mut c_void;
            realloc = realloc(block: *mut c_void, size: usize) -> *mut c_void;
            reallocarray = reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void;
            free = free(block: *mut c_void);
            cfree = free(block: *mut c_void);
            free_sized = free_sized(block: *mut c_void, size: usize);
            free_aligned_sized = free_aligned_sized(block: *mut c_void, align: usize, size: usize);
            memalign = memalign(align: usize, size: usize) -> *mut c_void;
            aligned_alloc = aligned_alloc(align: usize, size: usize) -> *mut c_void;
            posix_memalign = posix_memalign(result: *mut *mut c_void, align: usize, size: usize) -> c_int;
            valloc = valloc(size: usize) -> *mut c_void;
            pvalloc = pvalloc(size: usize) -> *mut c_void;
            malloc_usable_size = malloc_usable_size(block: *mut c_void) -> usize;
            malloc_trim = malloc_trim(pad: usize) -> c_int;
            mallinfo = mallinfo() -> Info;
            mallinfo2 = mallinfo2() -> Info2;
            malloc_stats = malloc_stats();
            malloc_info = malloc_info(options: c_int, stream: *mut FILE) -> c_int;
            mallopt = mallopt(parameter: c_int, value: c_int) -> c_int;
        }

        // Itanium C++ ABI: `_Zn` is new, `_Zd` delete; `w` plain, `a` array; `m` is the size.
        #[cfg(target_arch = "x86_64")]
        $crate::__functions! { operators:
            _Znwm = new(size: usize) -> *mut c_void;
            _Znam = new_array(size: usize) -> *mut c_void;
            _ZnwmRKSt9nothrow_t = new_nothrow(size: usize, tag: *const c_void) -> *mut c_void;
            _ZnamRKSt9nothrow_t = new_array_nothrow(size: usize, tag: *const c_void) -> *mut c_void;
            _ZnwmSt11align_val_t = new_aligned(size: usize, align: usize) -> *mut c_void;
            _ZnamSt11align_val_t = new_array_aligned(size: usize, align: usize) -> *mut c_void;
            _ZnwmSt11align_val_tRKSt9nothrow_t =
                new_aligned_nothrow(size: usize, align: usize, tag: *const c_void) -> *mut c_void;
            _ZnamSt11align_val_tRKSt9nothrow_t =
                new_array_aligned_nothrow(size: usize, align: usize, tag: *const c_void) -> *mut c_void;
            _ZdlPv = delete(block: *mut c_void);
            _ZdaPv = delete(block: *mut c_void);
            _ZdlPvRKSt9nothrow_t = delete_nothrow(block: *mut c_void, tag: *const c_void);
            _ZdaPvRKSt9nothrow_t = delete_nothrow(block: *mut c_void, tag: *const c_void);
            _ZdlPvm = delete_sized(block: *mut c_void, size: usize);
            _ZdaPvm = delete_sized(block: *mut c_void, size: usize);
            _ZdlPvSt11align_val_t = delete_aligned(block: *mut c_void, align: usize);
            _ZdaPvSt11align_val_t = delete_aligned(block: *mut c_void, align: usize);
            _ZdlPvSt11align_val_tRKSt9nothrow_t =
                delete_aligned_nothrow(block: *mut c_void, align: usize, tag: *const c_void);
            _ZdaPvSt11align_val_tRKSt9nothrow_t =
                delete_aligned_nothrow(block: *mut c_void, align: usize, tag: *const c_void);
            _ZdlPvmSt11align_val_t =
                delete_sized_aligned(block: *mut c_void, size: usize, align: usize);
            _ZdaPvmSt11align_val_t =
                delete_sized_aligned(block: *mut c_void, size: usize, align: usize);
        }

        // Run by the dynamic linker, with the program's arguments; ours before all others' (`-z initfirst`).
        #[used]
        #[unsafe(link_section = ".init_array")]
        static START: $crate::process::Start = {
            extern "C" fn start(
                _: $crate::export::libc::c_int,
                _: *const *const $crate::export::libc::c_char,
                environment: *const *const $crate::export::libc::c_char,
            ) {
                // SAFETY: the dynamic linker passes the environment, and calls this once.
                unsafe { $crate::process::start($name, &HEAP, environment) }
            }
            start
        };

        #[used]
        #[unsafe(link_section = ".fini_array")]
        static END: extern "C" fn() = $crate::process::end;

        /// Nothing here panics; should it, there is nobody to tell.
        #[cfg(panic = "abort")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            // SAFETY: abort has no preconditions.
            unsafe { $crate::export::libc::abort() }
        }
    };
}

/// Exports functions of a module under their C names.
#[doc(hidden)]
#[macro_export]
macro_rules! __functions {
    ($module:ident: $(
        $symbol:ident = $function:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;
    )*) => { const _: () = {
        #[allow(unused_imports)]
        use $crate::export::libc::{FILE, c_int, c_void, mallinfo as Info, mallinfo2 as Info2};
        $(
            // The function begins with a cache line, as the section of its own does that the compiler puts it in: where the
            // lines end by chance, a call of `malloc` and `free` takes up to 7 per cent longer.
            mod $symbol {
                core::arch::global_asm!(
                    concat!(".pushsection .text.", stringify!($symbol), ",\"ax\",@progbits"),
                    ".p2align 6",
                    ".popsection",
                );
            }
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $symbol($($argument: $type),*) $(-> $result)? {
                // SAFETY: the caller keeps to what C, or C++, asks of it.
                unsafe { $crate::$module::$function(&HEAP, $($argument),*) }
            }
        )*
    }; };
}
