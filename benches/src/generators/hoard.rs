//! After Berger, McKinley, Blumofe and Wilson, *Hoard: A Scalable Memory Allocator for Multithreaded Applications*
//! (ASPLOS 2000), section 5: what an allocator does to threads that share nothing.

use anyhow::Result;

use crate::script::{Builder, Script};

const THREADS: usize = 2;
/// Bytes of an object.
const SIZE: usize = 8;

/// `threadtest`: 2 threads allocate many objects of 8 bytes, then free them in the same order, 4 times over.
///
/// In the paper all threads together allocate 100,000 objects each time; here they do as many as the number of operations
/// asks for, 50,000 at 400,000.
pub(super) fn threadtest(_seed: u64, operations: usize) -> Result<Script> {
    const TIMES: usize = 4;
    let count = operations / (2 * THREADS * TIMES);
    let mut builder = Builder::new(THREADS);
    for _ in 0..TIMES {
        for thread in 0..THREADS {
            builder.on(thread);
            let objects: Vec<_> =
                (0..count).map(|_| builder.allocate(SIZE)).collect::<Result<_>>()?;
            objects.into_iter().for_each(|object| builder.free(object));
        }
    }
    builder.finish()
}

/// How often an object is written to. In the paper more often: a million times in Hoard's own program.
const WRITES: u32 = 100;

/// `cache-thrash`: 2 threads allocate an object of 8 bytes, write to it 100 times and free it, over and over. An allocator
/// that gives both threads pieces of one cache line makes them wait for it in turn (active false sharing).
pub(super) fn cache_thrash(_seed: u64, operations: usize) -> Result<Script> {
    let mut builder = Builder::new(THREADS);
    for _ in 0..operations / (3 * THREADS) {
        for thread in 0..THREADS {
            write_and_free_one(builder.on(thread))?;
        }
    }
    builder.finish()
}

fn write_and_free_one(builder: &mut Builder) -> Result<()> {
    let object = builder.allocate(SIZE)?;
    builder.write(object, WRITES);
    builder.free(object);
    Ok(())
}

/// `cache-scratch`: as [`cache_thrash`], but the first thread allocates one object for each thread, side by side, and
/// hands them out; each thread writes to its object, frees it, and then goes on as there. An allocator that gives a thread
/// the memory that it freed, a piece of another thread's cache line, makes them wait in turn (passive false sharing).
///
/// In the paper this happens once; here 10 times, each time for a tenth of the operations.
pub(super) fn cache_scratch(_seed: u64, operations: usize) -> Result<Script> {
    const TIMES: usize = 10;
    let mut builder = Builder::new(THREADS);
    for _ in 0..TIMES {
        builder.on(0);
        let objects: Vec<_> =
            (0..THREADS).map(|_| builder.allocate(SIZE)).collect::<Result<_>>()?;
        for (thread, object) in objects.into_iter().enumerate() {
            builder.on(thread).write(object, WRITES);
            builder.free(object);
        }
        for _ in 1..operations / (3 * THREADS * TIMES) {
            for thread in 0..THREADS {
                write_and_free_one(builder.on(thread))?;
            }
        }
        builder.meet();
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::count;
    use super::*;
    use crate::script::Kind;

    #[test]
    fn threads_that_share_nothing_never_wait() {
        for script in [threadtest(1, 10_000).unwrap(), cache_thrash(1, 10_000).unwrap()] {
            assert_eq!(script.streams().len(), THREADS);
            assert!(script.streams().concat().iter().all(|op| op.kind().counts()));
        }
        assert_eq!(threadtest(1, 400_000).unwrap().facts().peak_objects, 2 * 25_000);
    }

    #[test]
    fn each_object_is_written_to_again_and_again() {
        for script in [cache_scratch(1, 10_000).unwrap(), cache_thrash(1, 10_000).unwrap()] {
            assert_eq!(count(&script, Kind::Write), count(&script, Kind::Allocate));
            let ops = script.streams().concat();
            let writes = ops.iter().filter(|op| op.kind() == Kind::Write);
            assert!(writes.into_iter().all(|op| op.times() == WRITES && op.size() == SIZE));
        }
        // The pieces of cache lines that are handed out.
        assert_eq!(count(&cache_scratch(1, 10_000).unwrap(), Kind::Send), 10);
    }
}
