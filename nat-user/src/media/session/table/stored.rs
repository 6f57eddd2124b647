//! The streams of a fork as they are stored.

use smallvec::SmallVec;

use super::{Hole, Said, Stream, Table, Way};
use crate::{
    media::command::DataPath,
    sip::core::arena::Arena,
    store::codec::{Reader, Stored, stored},
};

stored!(struct Hole { inside, pinhole });
stored!(struct Said { endpoint, end, leg, carrier, expect, held, active, codec });
stored!(struct Stream { way, carrier, said, expect, legs, held, accepted });

impl Stored for Way {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Way::Relay(relay) => {
                out.push(0);
                relay.put(out);
            }
            Way::Pinholes(holes) => {
                out.push(1);
                holes.put(out);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        match from.array()? {
            [0] => Stored::take(from).map(Way::Relay),
            [1] => Stored::take(from).map(Way::Pinholes),
            _ => None,
        }
    }
}

impl Stored for Table {
    /// Lines name their streams by the order in which these follow.
    fn put(&self, out: &mut Vec<u8>) {
        let order: SmallVec<[_; 4]> = self.streams.iter().map(|(id, _)| id).collect();
        let place = |line: &Option<_>| {
            let place = order.iter().position(|id| Some(*id) == *line)?;
            Some(place as u32)
        };
        let lines: Vec<Option<u32>> = self.lines.iter().map(place).collect();
        lines.put(out);
        (order.len() as u32).put(out);
        self.streams.iter().for_each(|(_, stream)| stream.put(out));
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let (lines, all) = (Vec::<Option<u32>>::take(from)?, Vec::<Stream>::take(from)?);
        let mut streams = Arena::default();
        let order: Vec<_> = all.into_iter().map(|stream| streams.insert(stream)).collect();
        let line = |line: Option<u32>| match line {
            None => Some(None),
            Some(place) => order.get(place as usize).copied().map(Some),
        };
        Some(Table {
            lines: lines.into_iter().map(line).collect::<Option<_>>()?,
            streams,
        })
    }
}

impl Table {
    /// Takes the places of before a restart over. A stream whose place is gone is none any more: its next offer gets another one. Says how many
    /// streams are left, of how many.
    pub fn adopt(&mut self, path: &mut dyn DataPath) -> (usize, usize) {
        let mut gone: SmallVec<[_; 4]> = SmallVec::new();
        let order: SmallVec<[_; 4]> = self.streams.iter().map(|(id, _)| id).collect();
        for id in order {
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            let carrier = stream.carrier;
            let there = match &mut stream.way {
                // What was said in the moment before may not have been stored, but the data path knows.
                Way::Relay(relay) => path.adopt(relay.id).map(|held| stream.held = held).is_some(),
                Way::Pinholes(holes) => {
                    let had = holes.iter().any(|holes| !holes.is_empty());
                    for holes in holes.iter_mut() {
                        holes.retain(|hole| path.adopt_pinhole(&hole.pinhole, hole.inside, carrier));
                    }
                    !had || holes.iter().any(|holes| !holes.is_empty())
                }
            };
            if !there {
                gone.push(id);
            }
        }
        let all = self.streams.len();
        for id in gone {
            self.streams.remove(id);
            self.lines
                .iter_mut()
                .filter(|line| **line == Some(id))
                .for_each(|line| *line = None);
        }
        (self.streams.len(), all)
    }
}
