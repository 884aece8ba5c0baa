//! A program that uses its allocator as real programs do: words are counted, trees built, sorted and
//! dropped, threads send each other what they allocated, text is formatted. What it computes is known, so
//! that an allocator that spoils something is found.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use heapwright_core::Strategy;

use crate::model::require;
use crate::rng::mix;
use crate::{Complaint, Kept, Rng};

/// What [`run`] computes, with any allocator that is one.
pub const CHECKSUM: u64 = 0x1220_acfe_12dd_8ea6;

/// A checksum of bytes in order.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, &byte| mix(sum ^ u64::from(byte)))
}

/// A text of so many words, rare and frequent ones.
fn text(words: usize, seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let syllables = ["ka", "lo", "mi", "ren", "tas", "u", "vor", "shi", "p", "elt"];
    let mut text = String::new();
    for _ in 0..words {
        for _ in 0..1 + rng.below(3) * rng.below(2) {
            text.push_str(syllables[rng.below(syllables.len())]);
        }
        text.push(if rng.percent(10) { '\n' } else { ' ' });
    }
    text
}

/// Counts words in a hash map, sorts them in a tree and prints the table.
fn count_words(text: &str) -> String {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    let mut by_count: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (word, count) in counts {
        by_count.entry(count).or_default().insert(word);
    }
    let mut table = String::new();
    for (count, words) in by_count.iter().rev() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Formatting into a string does not fail.
        let _ = writeln!(table, "{count:>6} {:<12} {}", words.len(), words.join(", "));
    }
    table
}

/// A term, as an interpreter has them.
enum Term {
    Number(u64),
    Sum(Box<Term>, Box<Term>),
    Product(Vec<Term>),
}

impl Term {
    fn random(rng: &mut Rng, depth: usize) -> Self {
        match rng.below(if depth == 0 { 1 } else { 4 }) {
            0 => Self::Number(rng.next_u64() >> 50),
            1 | 2 => Self::Sum(
                Box::new(Self::random(rng, depth - 1)),
                Box::new(Self::random(rng, depth - 1)),
            ),
            _ => Self::Product(
                (0..rng.between(1, 4)).map(|_| Self::random(rng, depth - 1)).collect(),
            ),
        }
    }

    fn value(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Sum(left, right) => left.value().wrapping_add(right.value()),
            Self::Product(terms) => {
                terms.iter().fold(1, |product: u64, term| product.wrapping_mul(term.value() | 1))
            }
        }
    }
}

/// Terms of random depth, and one long chain that is dropped by recursion.
fn evaluate(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let sum =
        (0..60).fold(0_u64, |sum, _| sum.wrapping_mul(31) ^ Term::random(&mut rng, 9).value());
    let chain = (0..2000).fold(Term::Number(1), |chain, number| {
        Term::Sum(Box::new(chain), Box::new(Term::Number(number)))
    });
    sum ^ chain.value()
}

/// Vectors that grow side by side, a queue, a heap, buffers of odd alignment.
fn collect(seed: u64) -> u64 {
    #[derive(Clone)]
    #[repr(align(256))]
    struct Page([u8; 300]);

    let mut rng = Rng::new(seed);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new(); 50];
    let (mut queue, mut heap) = (VecDeque::new(), BinaryHeap::new());
    let mut pages = Vec::new();
    for round in 0..4000_u32 {
        let line = &mut lines[rng.below(50)];
        line.extend_from_slice(&round.to_le_bytes());
        queue.push_back(format!("{round:x}"));
        heap.push((rng.next_u64() >> 32, vec![round as u8; rng.below(40)]));
        if rng.percent(45) {
            queue.pop_front();
            heap.pop();
        }
        if round % 100 == 0 {
            pages.push(Box::new(Page([round as u8; 300])));
        }
        if rng.percent(1) {
            lines.swap_remove(rng.below(50));
            lines.push(Vec::with_capacity(rng.below(100)));
        }
    }
    let mut sum = lines.iter().fold(0, |sum, line| mix(sum ^ digest(line)));
    sum = queue.iter().fold(sum, |sum, text| mix(sum ^ digest(text.as_bytes())));
    for (key, bytes) in heap.into_sorted_vec() {
        sum = mix(sum ^ key ^ digest(&bytes));
    }
    let aligned = pages.iter().all(|page| (&raw const **page as usize).is_multiple_of(256));
    pages.iter().fold(sum ^ u64::from(aligned), |sum, page| mix(sum ^ digest(&page.0)))
}

/// Runs the program, and says what it computed.
///
/// # Errors
///
/// A thread of it panicked.
pub fn run() -> Result<u64, Complaint> {
    let text: Arc<str> = text(12_000, 7).into();
    let shared: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let (jobs, inbox) = mpsc::channel::<(usize, String)>();
    let inbox = Arc::new(Mutex::new(inbox));
    let (results, outbox) = mpsc::channel::<(usize, Vec<String>, u64)>();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (inbox, results, shared) = (inbox.clone(), results.clone(), shared.clone());
            thread::spawn(move || {
                loop {
                    let job = inbox.lock().map(|inbox| inbox.recv());
                    let Ok(Ok((number, part))) = job else { return };
                    // Allocated by one thread, sorted here, dropped by the main thread.
                    let mut words: Vec<String> =
                        part.split_whitespace().map(str::to_owned).collect();
                    words.sort_unstable();
                    if let Ok(mut shared) = shared.lock() {
                        for word in &words {
                            *shared.entry(word.clone()).or_default() += 1;
                        }
                    }
                    let table = count_words(&part);
                    let sum =
                        digest(table.as_bytes()) ^ evaluate(number as u64) ^ collect(number as u64);
                    if results.send((number, words, sum)).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    drop(results);
    let lines: Vec<&str> = text.lines().collect();
    let parts = lines.chunks(lines.len().div_ceil(16));
    for (number, part) in parts.enumerate() {
        // The workers are there until the jobs end.
        let _ = jobs.send((number, part.join("\n")));
    }
    drop(jobs);
    let mut answers: Vec<_> = outbox.iter().collect();
    for worker in workers {
        worker.join().map_err(|_| Complaint::new("a thread of the program panicked"))?;
    }
    answers.sort();
    let mut sum = digest(count_words(&text).as_bytes());
    for (number, words, part) in answers {
        sum = mix(sum ^ number as u64 ^ digest(words.join(" ").as_bytes()) ^ part);
    }
    let shared = shared.lock().map_err(|_| Complaint::new("a thread of the program panicked"))?;
    let table: String = shared.iter().map(|(word, count)| format!("{word}={count};")).collect();
    Ok(mix(sum ^ digest(table.as_bytes())))
}

/// Runs the program several times on the heap that is this process's global allocator.
///
/// # Errors
///
/// It computed something else, or the heap is not what it should be afterwards.
pub fn verify(heap: &dyn Strategy) -> Kept {
    let live = heap.stats().live_blocks;
    require!(live > 0, "the heap is not this process's global allocator: nothing is live in it");
    for round in 0..3 {
        let sum = run()?;
        require!(sum == CHECKSUM, "run {round} computed {sum:#018x} instead of {CHECKSUM:#018x}");
        let checked = heap.check();
        require!(checked.is_ok(), "after run {round}, check() says: {checked:?}");
        let stats = heap.stats();
        let sum = stats.live_bytes + stats.free_bytes + stats.cached_bytes + stats.overhead;
        require!(stats.footprint == sum, "after run {round} the books are wrong: {stats:?}");
        require!(stats.misuses == 0, "a program without misuse ended with {stats:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_computes_the_same_every_time() {
        for _ in 0..3 {
            assert_eq!(run().map(|sum| format!("{sum:#018x}")), Ok(format!("{CHECKSUM:#018x}")));
        }
    }
}
