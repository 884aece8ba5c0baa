//! Traces for tests: any choices make a valid one.

use heapwright_trace::{Event, Op};

/// Something that a program might do next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) thread: u8,
    /// 0 reallocates, 1 frees, all else allocates.
    pub(crate) what: u8,
    /// Which of the live objects.
    pub(crate) which: usize,
    pub(crate) size: usize,
    pub(crate) log2_align: u8,
    pub(crate) zeroed: bool,
}

/// The events of a program that makes these choices. Where a choice cannot be followed, it allocates.
pub(crate) fn events(choices: &[Choice]) -> Vec<Event> {
    let mut live = Vec::new();
    let mut objects = 0;
    let mut threads = Vec::new();
    let mut events = Vec::new();
    for choice in choices {
        let thread =
            threads.iter().position(|&thread| thread == choice.thread).unwrap_or_else(|| {
                threads.push(choice.thread);
                threads.len() - 1
            });
        let which = if live.is_empty() { 0 } else { choice.which % live.len() };
        let op = match (choice.what, live.get(which)) {
            (0, Some(&object)) => Op::Reallocate { object, size: choice.size },
            (1, Some(_)) => Op::Free { object: live.swap_remove(which) },
            _ => {
                live.push(objects);
                objects += 1;
                let align = 1 << choice.log2_align;
                Op::Allocate {
                    object: objects - 1,
                    size: choice.size,
                    align,
                    zeroed: choice.zeroed,
                }
            }
        };
        events.push(Event { thread: thread as u32, op });
    }
    events
}
