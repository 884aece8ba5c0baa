//! Threads that free what others allocated.

use anyhow::Result;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::Random;
use crate::script::{Builder, Script};

/// After Lever and Boreham, *malloc() Performance in a Multithreaded Linux Environment* (USENIX 2000), as `xmalloc-test`
/// has it: one thread only allocates, another only frees.
///
/// Sizes: 17 from 8 to 2,048 bytes, powers of two and the middles between them, each as likely as any. Batches of 256
/// objects are freed in the order of allocation, and the first thread is at most 16 batches ahead.
///
/// Kept: sizes, batches, a bounded queue. Changed: a batch has 4,096 objects there, and 100 are on their way at most; a
/// lock and conditions make the queue there, and here each object goes through a mailbox of its own.
pub(super) fn producer_consumer(seed: u64, operations: usize) -> Result<Script> {
    const SIZES: [usize; 17] =
        [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048];
    const BATCH: usize = 256;
    const AHEAD: usize = 16;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::new(2);
    let mut queue = std::collections::VecDeque::new();
    for _ in 0..operations / (2 * BATCH) {
        if queue.len() == AHEAD {
            for object in queue.pop_front().into_iter().flatten() {
                builder.on(1).free(object);
            }
            builder.on(0).wait_for(1);
        }
        builder.on(0);
        let size = |_| *SIZES.choose(&mut random).unwrap_or(&8);
        let batch = (0..BATCH).map(size).map(|size| builder.allocate(size));
        queue.push_back(batch.collect::<Result<Vec<u32>>>()?);
    }
    builder.on(1);
    queue.into_iter().flatten().for_each(|object| builder.free(object));
    builder.finish()
}

/// Two threads send each other messages of 16 or 32 KiB, at most 32 each way at once; the receiver reads all of a message,
/// writes to it and frees it. The project's own: buffers of a network service.
pub(super) fn channels(seed: u64, operations: usize) -> Result<Script> {
    const AHEAD: usize = 32;
    const SIZES: [usize; 2] = [16 << 10, 32 << 10];
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::new(2);
    let mut queues = vec![std::collections::VecDeque::new(); 2];
    let receive = |builder: &mut Builder, object| {
        builder.write(object, 1);
        builder.free(object);
    };
    for message in 0..operations / 3 {
        let sender = message % 2;
        if queues[sender].len() == AHEAD {
            let object = queues[sender].pop_front();
            object.into_iter().for_each(|object| receive(builder.on(1 - sender), object));
            builder.on(sender).wait_for(1 - sender);
        }
        let size = SIZES[usize::from(random.random::<bool>())];
        queues[sender].push_back(builder.on(sender).allocate(size)?);
    }
    for (sender, queue) in queues.into_iter().enumerate() {
        builder.on(1 - sender);
        queue.into_iter().for_each(|object| receive(&mut builder, object));
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::count;
    use super::*;
    use crate::script::Kind;

    #[test]
    fn one_thread_allocates_and_the_other_frees() {
        let script = producer_consumer(1, 100_000).unwrap();
        let has = |stream: usize, kind| script.streams()[stream].iter().any(|op| op.kind() == kind);
        assert!(has(0, Kind::Allocate) && !has(0, Kind::Free));
        assert!(!has(1, Kind::Allocate) && has(1, Kind::Free));
        assert_eq!(script.facts().peak_objects, 16 * 256);
    }

    #[test]
    fn each_message_is_read_and_freed_by_the_other_thread() {
        let script = channels(1, 9_000).unwrap();
        assert_eq!(count(&script, Kind::Send), 3_000);
        assert_eq!(count(&script, Kind::Write), 3_000);
        assert_eq!(script.facts().peak_objects, 2 * 32);
    }
}
