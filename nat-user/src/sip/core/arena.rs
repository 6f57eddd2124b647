//! Records that name each other by ids which never mean another record later.

use slab::Slab;

/// Names a record for as long as it lives. Ids of different arenas are not told apart by type; their fields' names say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub index: u32,
    /// Tells users of the same index apart.
    pub serial: u32,
}

/// A slab whose keys are good for one record only.
#[derive(Debug)]
pub struct Arena<T> {
    slab: Slab<(u32, T)>,
    serial: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena {
            slab: Slab::new(),
            serial: 0,
        }
    }
}

impl<T> Arena<T> {
    pub fn insert(&mut self, record: T) -> Id {
        self.serial = self.serial.wrapping_add(1);
        Id {
            index: self.slab.insert((self.serial, record)) as u32,
            serial: self.serial,
        }
    }

    pub fn get(&self, id: Id) -> Option<&T> {
        let (serial, record) = self.slab.get(id.index as usize)?;
        (*serial == id.serial).then_some(record)
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (serial, record) = self.slab.get_mut(id.index as usize)?;
        (*serial == id.serial).then_some(record)
    }

    pub fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id)?;
        Some(self.slab.remove(id.index as usize).1)
    }

    /// The record at an index, and its id: for those who have other means to know that it is the right one.
    pub fn at(&self, index: u32) -> Option<(Id, &T)> {
        let (serial, record) = self.slab.get(index as usize)?;
        Some((Id { index, serial: *serial }, record))
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All records, by rising index.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.slab.iter().map(|(index, (serial, record))| {
            let id = Id {
                index: index as u32,
                serial: *serial,
            };
            (id, record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_means_another_record() {
        let mut arena = Arena::default();
        let first = arena.insert('a');
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert('b');
        assert_eq!(second.index, first.index);
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&'b'));
        assert_eq!((arena.len(), arena.iter().count()), (1, 1));
    }
}
