//! Numbered slots, made at start, with a generation that tells a slot's tenants apart.
//!
//! A key is a number and a generation. Whoever keeps a key longer than its tenant lives (a socket's owner, a timer) gets
//! nothing, never the next tenant.
//!
//! Why not a map by bridge: a packet finds its bridge by index, without hashing.

use crate::prefetch::prefetch;

/// At most as many `T` as were asked for at start.
#[derive(Debug)]
pub struct Pool<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    tenant: Option<T>,
}

/// One tenant of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    /// Which slot.
    pub index: u32,
    /// Which of its tenants.
    pub generation: u32,
}

impl<T> Pool<T> {
    /// `capacity` empty slots.
    pub fn new(capacity: usize) -> Pool<T> {
        Pool {
            slots: (0..capacity).map(|_| Slot { generation: 0, tenant: None }).collect(),
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Whether every slot has a tenant.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many tenants there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a tenant into a free slot; gives it back when there is none. `tenant` is told its key.
    pub fn insert_with(&mut self, tenant: impl FnOnce(SlotKey) -> T) -> Option<SlotKey> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        let key = SlotKey { index, generation: slot.generation };
        slot.tenant = Some(tenant(key));
        Some(key)
    }

    /// Asks for the memory of a slot.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            prefetch(slot);
        }
    }

    /// The tenant of `key`, if it is still there, to look at.
    #[inline]
    pub fn get(&self, key: SlotKey) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.tenant.as_ref().filter(|_| slot.generation == key.generation)
    }

    /// The tenant of `key`, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        slot.tenant.as_mut().filter(|_| slot.generation == key.generation)
    }

    /// The key of whoever is in slot `index`.
    pub fn key_at(&self, index: u32) -> Option<SlotKey> {
        let slot = self.slots.get(index as usize)?;
        slot.tenant.as_ref().map(|_| SlotKey { index, generation: slot.generation })
    }

    /// Takes a tenant out. Its key is dead from now on.
    pub fn remove(&mut self, key: SlotKey) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        let tenant = slot.tenant.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(tenant)
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_reach_the_next_tenant() {
        let mut pool = Pool::new(1);
        let old = pool.insert_with(|_| "old").unwrap();
        assert_eq!(pool.remove(old), Some("old"));
        let new = pool.insert_with(|_| "new").unwrap();
        assert_eq!(new.index, old.index);
        assert_eq!((pool.get_mut(old).copied(), pool.remove(old)), (None, None));
        assert_eq!((pool.get_mut(new).copied(), pool.key_at(0)), (Some("new"), Some(new)));
    }

    #[test]
    fn a_full_pool_takes_nobody_and_forgets_nobody() {
        let mut pool = Pool::new(2);
        let keys: Vec<_> = (0..2).map(|value| pool.insert_with(|_| value).unwrap()).collect();
        assert!(pool.is_full() && pool.insert_with(|_| 9).is_none());
        assert_eq!(keys.iter().filter_map(|&key| pool.get_mut(key).copied()).collect::<Vec<_>>(), [0, 1]);
        pool.remove(keys[0]);
        assert_eq!((pool.len(), pool.is_full(), pool.key_at(keys[0].index)), (1, false, None));
    }
}
