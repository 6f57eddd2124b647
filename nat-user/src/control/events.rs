//! The daemon's events: a short memory for those who ask later, a broadcast for those who follow.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::broadcast;

use crate::records::{Event, EventRecord};

/// How many events are remembered, and how far a follower may fall behind before it misses some.
const MEMORY: usize = 1024;

/// Where events are published and followed. Share it in an `Arc`.
pub struct Events {
    recent: Mutex<VecDeque<EventRecord>>,
    sender: broadcast::Sender<EventRecord>,
}

impl Default for Events {
    fn default() -> Self {
        Events::new()
    }
}

impl Events {
    pub fn new() -> Events {
        Events {
            recent: Mutex::default(),
            sender: broadcast::Sender::new(MEMORY),
        }
    }

    /// Publishes `event` with the time of now. Never blocks, needs no follower.
    pub fn publish(&self, event: Event) {
        self.publish_record(EventRecord::now(event));
    }

    /// Publishes an event that has its own time.
    pub fn publish_record(&self, record: EventRecord) {
        // The lock also orders memory and broadcast, so that a new follower misses nothing and sees nothing twice.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MEMORY {
            recent.pop_front();
        }
        recent.push_back(record.clone());
        // An error means only that nobody follows.
        let _ = self.sender.send(record);
    }

    /// The remembered events, oldest first, and all that come after them.
    pub fn subscribe(&self) -> (Vec<EventRecord>, broadcast::Receiver<EventRecord>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.sender.subscribe())
    }

    /// How many follow at the moment.
    pub fn followers(&self) -> usize {
        self.sender.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_followers_continue_it() {
        let events = Events::new();
        for count in 0..MEMORY as u64 + 5 {
            events.publish(Event::Missed { count });
        }
        let (recent, mut follow) = events.subscribe();
        assert_eq!(recent.len(), MEMORY);
        assert_eq!(recent[0].event, Event::Missed { count: 5 });
        events.publish(Event::Missed { count: 9999 });
        assert_eq!(follow.try_recv().unwrap().event, Event::Missed { count: 9999 });
        assert_eq!(events.followers(), 1);
    }
}
