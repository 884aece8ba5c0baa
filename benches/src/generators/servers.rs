//! Servers: threads that share their work, hand their objects on, and come and go.

use anyhow::Result;
use rand::{RngExt, SeedableRng};

use super::Random;
use crate::script::{Builder, Op, Script};

/// After Larson and Krishnan, *Memory Allocation for Long-Running Server Applications* (ISMM 1998): a server whose
/// threads hand their objects on to the next thread.
///
/// 2 threads with 5,000 objects of 8 to 1,000 bytes each replace random ones, and exchange all they have 10 times. In
/// the original each thread ends when it hands its objects on, and a new one begins; here the threads stay, and
/// [`thread_churn`] has threads that end.
pub(super) fn larson(seed: u64, operations: usize) -> Result<Script> {
    const THREADS: usize = 2;
    const OBJECTS: usize = 5_000;
    const ROUNDS: usize = 10;
    const ALIGN: usize = 8;
    let mut random = Random::seed_from_u64(seed);
    let mut size = move || random.random_range(8..=1_000_usize);
    let mut places = Random::seed_from_u64(seed ^ 1);
    let mut streams = vec![Vec::new(); THREADS];
    let mut tables = vec![vec![0_usize; OBJECTS]; THREADS];
    for (stream, table) in streams.iter_mut().zip(&mut tables) {
        for (slot, held) in (0..).zip(table) {
            *held = size();
            stream.push(Op::allocate(slot, *held, ALIGN));
        }
    }
    let ends = 2 * THREADS * OBJECTS;
    let replaced = operations.saturating_sub(ends) / (2 * THREADS * ROUNDS);
    for round in 0..=ROUNDS {
        for (index, stream) in streams.iter_mut().enumerate() {
            let table = &mut tables[(index + round) % THREADS];
            if round == ROUNDS {
                stream.extend((0..).zip(table).map(|(slot, held)| Op::free(slot, *held, ALIGN)));
                continue;
            }
            for _ in 0..replaced {
                let slot = places.random_range(0..OBJECTS);
                stream.push(Op::free(slot as u32, table[slot], ALIGN));
                table[slot] = size();
                stream.push(Op::allocate(slot as u32, table[slot], ALIGN));
            }
            stream.push(Op::rotate());
        }
    }
    Script::concurrent(streams, OBJECTS as u32)
}

/// After `mstress` of Leijen's mimalloc-bench (2019; `test-stress.c` of mimalloc): threads with unequal work, whose
/// objects wander from thread to thread, and of which some outlive the threads that made them.
///
/// 4 threads; the second does twice the work of the first, and so on. Sizes are powers of two from 8 bytes to 2 KiB, small
/// ones more often, and one in a thousand 64 KiB. Each thread keeps up to 400 objects of its own, of which it frees
/// random ones; one object in eight is exchanged with a random one of 500 places that all threads share. Phases of
/// 20,000 operations end with all threads, which free what they have but for each fifth object; new threads take those
/// over and free them bit by bit.
///
/// Kept: all of that. Changed: the counts; and a thread that takes from a shared place gets the object that came there in
/// the order of the script, for which it may have to wait, where the original takes what is there.
pub(super) fn mstress(seed: u64, operations: usize) -> Result<Script> {
    const THREADS: usize = 4;
    const OWN: usize = 400;
    const SHARED: usize = 500;
    const PHASE: usize = 20_000;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::new(THREADS);
    let mut own = vec![Vec::new(); THREADS];
    let mut retained = vec![Vec::new(); THREADS];
    let mut shared: Vec<Option<u32>> = vec![None; SHARED];
    let mut done = 0;
    let ends = THREADS * OWN / 2 + SHARED;
    while done + ends < operations {
        let end = (done + PHASE).min(operations - ends);
        while done < end {
            for thread in 0..THREADS {
                builder.on(thread);
                let own: &mut Vec<u32> = &mut own[thread];
                for _ in 0..=thread {
                    let size = match random.random_range(0..1_000) {
                        0 => 64 << 10,
                        _ => 8 << random.random_range(0..=8_u32).min(random.random_range(0..=8)),
                    };
                    let object = builder.allocate(size)?;
                    done += 1;
                    if random.random_ratio(1, 8) {
                        let place = random.random_range(0..SHARED);
                        own.extend(shared[place].replace(object));
                    } else {
                        own.push(object);
                    }
                    let excess =
                        own.len().saturating_sub(OWN) + usize::from(random.random::<bool>());
                    for _ in 0..excess.min(own.len()) {
                        builder.free(own.swap_remove(random.random_range(0..own.len())));
                        done += 1;
                    }
                    if let Some(object) = retained[thread].pop() {
                        builder.free(object);
                        done += 1;
                    }
                }
            }
        }
        for thread in 0..THREADS {
            builder.on(thread);
            for (index, object) in own[thread].drain(..).enumerate() {
                if index % 5 == 0 {
                    retained[thread].push(object);
                } else {
                    builder.free(object);
                    done += 1;
                }
            }
            builder.renew();
        }
        builder.meet();
    }
    builder.on(0);
    let left = own.into_iter().chain(retained).flatten().chain(shared.into_iter().flatten());
    left.for_each(|object| builder.free(object));
    builder.finish()
}

/// A server with a thread for each request: 2 requests at a time, each in a new thread, which allocates 150 objects of 16
/// to 1,024 bytes (small ones more often) and frees them backwards, but for one in sixteen, which outlives its thread by
/// 20 threads. The project's own, after what Larson and Krishnan (1998) say of servers.
pub(super) fn thread_churn(seed: u64, operations: usize) -> Result<Script> {
    const STREAMS: usize = 2;
    const OBJECTS: usize = 150;
    const LATER: usize = 20;
    let mut random = Random::seed_from_u64(seed);
    let mut builder = Builder::new(STREAMS);
    let mut survivors = vec![std::collections::VecDeque::new(); STREAMS];
    for _ in 0..operations / (2 * OBJECTS * STREAMS) {
        for (stream, survivors) in survivors.iter_mut().enumerate() {
            builder.on(stream);
            let mut left = Vec::new();
            let mut going = Vec::new();
            for _ in 0..OBJECTS {
                let most = random.random_range(16..=1_024);
                let object = builder.allocate(random.random_range(16..=most))?;
                if random.random_ratio(1, 16) { left.push(object) } else { going.push(object) }
            }
            survivors.push_back(left);
            if survivors.len() > LATER {
                going.extend(survivors.pop_front().into_iter().flatten());
            }
            going.into_iter().rev().for_each(|object| builder.free(object));
            builder.renew();
        }
    }
    for (stream, survivors) in survivors.into_iter().enumerate() {
        builder.on(stream);
        survivors.into_iter().flatten().for_each(|object| builder.free(object));
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::count;
    use super::*;
    use crate::script::Kind;

    #[test]
    fn threads_come_and_go_and_blocks_outlive_them() {
        let script = thread_churn(1, 100_000).unwrap();
        assert!(count(&script, Kind::Renew) > 300);
        let (mut allocated, mut freed) = (0, 0);
        for op in script.streams()[0] {
            match op.kind() {
                Kind::Allocate => allocated += 1,
                Kind::Free => freed += 1,
                _ => break,
            }
        }
        assert!(allocated == 150 && (1..150).contains(&freed), "{allocated}, {freed}");
    }

    #[test]
    fn objects_wander_and_outlive_phases_and_work_is_unequal() {
        let script = mstress(1, 100_000).unwrap();
        let sent = count(&script, Kind::Send);
        assert!((3_000..20_000).contains(&sent), "{sent}");
        assert!(count(&script, Kind::Renew) >= 4 * 4);
        let lengths: Vec<usize> = script.streams().iter().map(|ops| ops.len()).collect();
        assert!(lengths[3] > 3 * lengths[0], "{lengths:?}");
    }

    #[test]
    fn a_server_exchanges_its_objects() {
        assert_eq!(count(&larson(1, 100_000).unwrap(), Kind::Rotate), 2 * 10);
    }
}
