//! A map that can take back what was written since it was last settled. Cost of a commit: the records it touches.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Writes the undo has room for between commits.
const UNDO_KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// What each write since the last settling replaced, oldest first.
    undo: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            undo: Vec::new(),
        }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values()
    }

    /// Rows from `start` on for as long as `belongs` holds.
    pub(super) fn run<'a>(
        &'a self,
        start: impl RangeBounds<K>,
        belongs: impl Fn(&K) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.rows
            .range(start)
            .take_while(move |(key, _)| belongs(key))
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        let old = self.rows.insert(key.clone(), value);
        self.undo.push((key, old));
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(old) = self.rows.remove(key) {
            self.undo.push((key.clone(), Some(old)));
        }
    }

    pub(super) fn remove_all(&mut self, keys: Vec<K>) {
        for key in &keys {
            self.remove(key);
        }
    }

    /// Makes the writes since the last call final. What a large commit took for its undo is given back.
    pub(super) fn settle(&mut self) {
        self.undo.clear();
        self.undo.shrink_to(UNDO_KEPT);
    }

    /// Takes back the writes since the last [`Table::settle`].
    pub(super) fn roll_back(&mut self) {
        for (key, old) in self.undo.drain(..).rev() {
            match old {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolls_back_to_the_last_settling_only() {
        let mut table = Table::default();
        table.put(1, "a");
        table.put(2, "b");
        table.settle();
        table.put(1, "x");
        table.put(1, "y");
        table.remove(&2);
        table.remove(&9);
        table.put(3, "c");
        table.roll_back();
        let rows: Vec<_> = table.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(rows, [(1, "a"), (2, "b")]);
    }
}
