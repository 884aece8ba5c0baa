//! A pool that threads share.

use core::alloc::Layout;

use heapwright_core::Strategy;
use heapwright_pool::Pool;

/// As a program of lists would have it: nodes here, the rest elsewhere.
#[test]
fn threads_share_a_static_pool() {
    static NODES: Pool<48> = Pool::new();
    let layout = Layout::new::<[usize; 6]>();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            scope.spawn(move || {
                let mut nodes = Vec::new();
                for round in 0..20_000_usize {
                    let node = NODES.allocate(layout).unwrap().cast::<[usize; 6]>();
                    // SAFETY: just allocated.
                    unsafe { node.write([thread, round, node.addr().get(), 0, 0, !round]) };
                    nodes.push(node);
                    if round % 3 > 0 {
                        let node = nodes.swap_remove((round * 31) % nodes.len());
                        // SAFETY: in use, and not used again.
                        unsafe {
                            let [by, number, place, .., last] = node.read();
                            assert_eq!((by, place, last), (thread, node.addr().get(), !number));
                            NODES.deallocate(node.cast()).unwrap();
                        }
                    }
                }
                for node in nodes {
                    // SAFETY: in use, and not used again.
                    unsafe { NODES.deallocate(node.cast()).unwrap() };
                }
            });
        }
    });
    NODES.check().unwrap();
    assert_eq!(NODES.stats().live_blocks, 0);
    NODES.trim();
    assert_eq!(NODES.stats().footprint, 0);
}
