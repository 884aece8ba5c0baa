//! The program runs on an engine that is right, and what spoils it is found.

mod simple {
    //! An engine without collections of its own, as a global allocator must be: blocks with a header, cut
    //! from one region, and a list of the freed ones by size class.

    use core::alloc::Layout;
    use core::ptr::{self, NonNull};

    use heapwright_backends::Mmap;
    use heapwright_core::{
        BlockInfo, BlockState, Broken, Engine, FutexMutex, HeapBackend, HeapError, Locked, New,
        Stats,
    };

    pub(crate) type Simple = Locked<FutexMutex, SimpleHeap>;

    const HEADER: usize = 16;
    const CLASSES: usize = 40;

    pub(crate) struct SimpleHeap {
        backend: Mmap,
        next: usize,
        end: usize,
        free: [usize; CLASSES],
        stats: Stats,
    }

    // SAFETY: the addresses are memory of the backend, and go where it goes.
    unsafe impl Send for SimpleHeap {}

    impl New for SimpleHeap {
        const NEW: Self = Self {
            backend: Mmap::new(),
            next: 0,
            end: 0,
            free: [0; CLASSES],
            stats: Stats {
                live_bytes: 0,
                live_blocks: 0,
                free_bytes: 0,
                free_blocks: 0,
                largest_free: 0,
                cached_bytes: 0,
                cached_blocks: 0,
                overhead: 0,
                footprint: 0,
                peak_footprint: 0,
                regions: 0,
                mapped_blocks: 0,
                grows: 0,
                shrinks: 0,
                misuses: 0,
            },
        };
    }

    /// The class of a request: 2 to its power bytes, of which the payload is what the header and the
    /// alignment leave.
    fn class(layout: Layout) -> Option<usize> {
        let needed = layout.size().checked_add(layout.align().max(HEADER))?.max(32);
        let class = needed.checked_next_power_of_two()?.ilog2() as usize;
        (class < CLASSES).then_some(class)
    }

    fn word(at: usize) -> *mut usize {
        ptr::with_exposed_provenance_mut(at)
    }

    // SAFETY: blocks are cut from regions one after the other, or were freed; the class is in front of
    // each.
    unsafe impl Engine for SimpleHeap {
        fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
            let class = class(layout)?;
            let size = 1 << class;
            let mut block = self.free[class];
            if block == 0 {
                if self.end - self.next < size {
                    let region = self.backend.grow(size.max(1 << 20), 16).ok()?;
                    (self.next, self.end) = (region.addr(), region.end());
                    self.stats.footprint += region.size;
                    self.stats.grows += 1;
                }
                block = self.next;
                self.next += size;
            } else {
                // SAFETY: the first word of a freed block leads to the next one.
                self.free[class] = unsafe { word(block).read() };
            }
            let payload = (block + HEADER).next_multiple_of(layout.align());
            // SAFETY: the header lies in the block, in front of the payload.
            unsafe {
                word(payload - 8).write(class);
                word(payload - 16).write(block);
            }
            self.stats.live_blocks += 1;
            NonNull::new(word(payload).cast())
        }

        unsafe fn deallocate(&mut self, block: NonNull<u8>) -> Result<(), HeapError> {
            let payload = block.as_ptr().expose_provenance();
            // SAFETY: the caller promises a block in use, in front of which its header stands.
            unsafe {
                let (class, start) = (word(payload - 8).read(), word(payload - 16).read());
                word(start).write(self.free[class]);
                self.free[class] = start;
            }
            self.stats.live_blocks -= 1;
            Ok(())
        }

        unsafe fn usable_size(&self, block: NonNull<u8>) -> usize {
            let payload = block.as_ptr().expose_provenance();
            // SAFETY: as for `deallocate`.
            unsafe { word(payload - 16).read() + (1 << word(payload - 8).read()) - payload }
        }

        fn stats(&self) -> Stats {
            Stats { overhead: self.stats.footprint, ..self.stats }
        }

        fn walk(&self, visit: &mut dyn FnMut(BlockInfo)) {
            if self.end > self.next {
                visit(BlockInfo {
                    address: self.next,
                    size: self.end - self.next,
                    overhead: 0,
                    state: BlockState::Wilderness,
                    next_free: None,
                });
            }
        }

        fn check(&self) -> Result<(), Broken> {
            Ok(())
        }
    }
}

heapwright_testkit::global_program!(simple::Simple);

/// A heap that nobody uses is not the global allocator.
#[test]
fn another_heap_is_not_taken_for_it() {
    let other = simple::Simple::new();
    let complaint = heapwright_testkit::program::verify(&other).unwrap_err();
    assert!(complaint.what().contains("is not this process's global allocator"), "{complaint}");
}
