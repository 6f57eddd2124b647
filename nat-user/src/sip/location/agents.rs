//! Names of user agents, each kept once: a million phones are a few hundred models.

use std::{collections::HashSet, sync::Arc};

/// Bytes that are kept of a name.
const LONGEST: usize = 128;

/// The names that are in use.
#[derive(Debug, Default)]
pub(super) struct Agents(HashSet<Arc<str>>);

impl Agents {
    /// The shared copy of a name, made if it is not there. Bytes that are no UTF-8 are replaced.
    pub fn intern(&mut self, name: &[u8]) -> Arc<str> {
        let name = &name[..name.len().min(LONGEST)];
        let text = String::from_utf8_lossy(name);
        match self.0.get(&*text) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = text.into();
                self.0.insert(new.clone());
                new
            }
        }
    }

    /// To be called with each copy that was kept and is not any more, so that names nobody has take no memory.
    pub fn drop(&mut self, name: Option<Arc<str>>) {
        // This copy and the one in the set.
        if let Some(name) = name.filter(|name| Arc::strong_count(name) == 2) {
            self.0.remove(&name);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
