//! Which block each policy chooses, seen from outside by where a request lands.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use heapwright_backends::Arena;
use heapwright_core::{BoundaryTags, Engine, Heap, HeapError, Policy};
use heapwright_policies::{
    AddressOrder, BestFit, BestFitTree, FifoOrder, FirstFit, FirstFitTree, Lifo, LifoOrder,
    NextFit, Segregated, Tlsf, WorstFit,
};

/// A heap in which free blocks of chosen sizes lie between used ones.
struct Scene<'a, P: Policy> {
    heap: Heap<Arena<'a>, P, BoundaryTags>,
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

impl<'a, P: Policy> Scene<'a, P> {
    /// Frees blocks of these sizes in the order of `freed`, places in `sizes`, and gives where they were.
    fn new(
        memory: &'a mut [MaybeUninit<u8>],
        sizes: &[usize],
        freed: &[usize],
    ) -> (Self, Vec<NonNull<u8>>) {
        let mut heap = Heap::over(Arena::new(memory));
        let holes: Vec<_> = sizes
            .iter()
            .map(|&size| {
                let hole = heap.allocate(layout(size)).unwrap();
                heap.allocate(layout(16)).unwrap();
                hole
            })
            .collect();
        for &place in freed {
            // SAFETY: each is in use and freed once.
            unsafe { heap.deallocate(holes[place]) }.unwrap();
        }
        heap.check().unwrap();
        (Self { heap }, holes)
    }

    /// The place among `holes` where a request lands.
    fn lands(&mut self, size: usize, holes: &[NonNull<u8>]) -> Option<usize> {
        let block = self.heap.allocate(layout(size)).unwrap();
        self.heap.check().unwrap();
        holes.iter().position(|&hole| hole == block)
    }
}

/// Holes of 600, 200, 1000 and 300 bytes, freed in the order 2, 0, 3, 1: where requests for 250 and
/// then again 250 bytes land.
fn two_requests<P: Policy>() -> (Option<usize>, Option<usize>) {
    let mut memory = [MaybeUninit::uninit(); 16 << 10];
    let (mut scene, holes) = Scene::<P>::new(&mut memory, &[600, 200, 1000, 300], &[2, 0, 3, 1]);
    (scene.lands(250, &holes), scene.lands(250, &holes))
}

#[test]
fn first_fit_takes_the_first_in_its_order() {
    assert_eq!(two_requests::<FirstFit<AddressOrder>>().0, Some(0));
    assert_eq!(two_requests::<FirstFitTree>().0, Some(0));
    assert_eq!(two_requests::<FirstFit<FifoOrder>>().0, Some(2));
    // Freed last, the hole of 200 bytes is too small; the next is that of 300.
    assert_eq!(two_requests::<FirstFit<LifoOrder>>().0, Some(3));
    assert_eq!(two_requests::<Lifo>().0, Some(3));
}

#[test]
fn best_fit_takes_the_tightest() {
    for landed in [
        two_requests::<BestFit<AddressOrder>>().0,
        two_requests::<BestFit<FifoOrder>>().0,
        two_requests::<BestFit<LifoOrder>>().0,
        two_requests::<BestFitTree>().0,
        two_requests::<Segregated>().0,
        two_requests::<Tlsf>().0,
    ] {
        assert_eq!(landed, Some(3));
    }
}

#[test]
fn worst_fit_takes_the_largest() {
    assert_eq!(two_requests::<WorstFit>().0, Some(2));
}

#[test]
fn next_fit_goes_on_from_where_it_was() {
    // Hole 0 serves one request, and the search goes on behind it.
    let mut memory = [MaybeUninit::uninit(); 16 << 10];
    let (mut scene, holes) = Scene::<NextFit>::new(&mut memory, &[260, 900, 260], &[0, 1, 2]);
    assert_eq!(scene.lands(250, &holes), Some(0));
    assert_eq!(scene.lands(250, &holes), Some(1));
    // It stands at the rest of hole 1, which serves two more, and then goes on to hole 2.
    assert_eq!(scene.lands(250, &holes), None);
    assert_eq!(scene.lands(250, &holes), None);
    assert_eq!(scene.lands(250, &holes), Some(2));
}

#[test]
fn lifo_finds_a_double_free_in_a_row() {
    let mut memory = [MaybeUninit::uninit(); 16 << 10];
    let mut heap = Heap::<_, Lifo, BoundaryTags>::over(Arena::new(&mut memory));
    let block = heap.allocate(layout(100)).unwrap();
    let _keeps_it_from_the_wilderness = heap.allocate(layout(100)).unwrap();
    // SAFETY: the second free is a misuse that this policy finds.
    unsafe {
        heap.deallocate(block).unwrap();
        assert_eq!(heap.deallocate(block), Err(HeapError::DoubleFree(block.as_ptr() as usize)));
    }
    heap.check().unwrap();
    assert_eq!(heap.stats().misuses, 1);
}

/// The offsets in the arena at which a random sequence of requests lands.
fn offsets<P: Policy>() -> Vec<usize> {
    let mut memory = vec![MaybeUninit::uninit(); 4 << 20];
    let start = memory.as_ptr() as usize;
    // An arena's heap begins at a multiple of sixteen, and so may the buffer or not.
    let start = start.next_multiple_of(16);
    let mut heap = Heap::<_, P, BoundaryTags>::over(Arena::<1>::new(&mut memory));
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let (mut live, mut offsets) = (Vec::new(), Vec::new());
    for step in 0..20_000 {
        let wanted = if step / 2_000 % 2 == 0 { 1_500 } else { 300 };
        if live.len() < wanted && next() % 4 != 0 {
            // Few sizes, as programs have them, so that there are equals to choose among.
            let block = heap.allocate(layout([24, 40, 64, 100, 300, 1000][next() % 6])).unwrap();
            offsets.push(block.as_ptr() as usize - start);
            live.push(block);
        } else if !live.is_empty() {
            let block = live.swap_remove(next() % live.len());
            // SAFETY: it is in use and freed once.
            unsafe { heap.deallocate(block) }.unwrap();
        }
    }
    heap.check().unwrap();
    offsets
}

#[test]
fn trees_choose_as_lists_in_address_order_do() {
    assert_eq!(offsets::<FirstFitTree>(), offsets::<FirstFit<AddressOrder>>());
    assert_eq!(offsets::<BestFitTree>(), offsets::<BestFit<AddressOrder>>());
    // And the comparison can tell policies apart.
    assert_ne!(offsets::<FirstFitTree>(), offsets::<BestFitTree>());
}
