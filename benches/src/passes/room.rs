//! Room for what is noted during a replay: memory of the harness's own, mapped and present before, so that noting
//! allocates nothing, faults nothing in, and is in the baseline of every footprint.

use std::marker::PhantomData;

use anyhow::{Context, Result};
use bytemuck::Pod;
use memmap2::{MmapMut, MmapOptions};

/// A vector that never grows beyond its room.
pub(crate) struct Room<T> {
    map: MmapMut,
    length: usize,
    items: PhantomData<T>,
}

impl<T: Pod> Room<T> {
    /// Room for so many items, all of its pages present.
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        let bytes = (capacity * size_of::<T>()).max(1);
        let map = MmapOptions::new()
            .len(bytes)
            .populate()
            .map_anon()
            .context("mapping room for what is measured")?;
        Ok(Self { map, length: 0, items: PhantomData })
    }

    /// All of the room, written to or not; zeroes at first.
    pub(crate) fn whole(&mut self) -> &mut [T] {
        let whole = self.map.len() / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..whole])
    }

    /// Appends an item; `false` when there is no room.
    pub(crate) fn push(&mut self, item: T) -> bool {
        let length = self.length;
        let Some(place) = self.whole().get_mut(length) else { return false };
        *place = item;
        self.length += 1;
        true
    }

    /// The items.
    pub(crate) fn items(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.length * size_of::<T>()])
    }

    /// The items.
    pub(crate) fn items_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.length * size_of::<T>()])
    }

    /// Forgets the items from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_room_refuses() {
        let mut room = Room::<[u64; 3]>::new(2).unwrap();
        assert!(room.push([1; 3]) && room.push([2; 3]) && !room.push([3; 3]));
        assert_eq!(room.items(), [[1; 3], [2; 3]]);
        room.truncate(1);
        assert!(room.push([4; 3]));
        assert_eq!(room.items_mut(), [[1; 3], [4; 3]]);
    }
}
