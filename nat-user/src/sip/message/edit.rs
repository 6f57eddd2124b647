//! Splices: what changes in a message that is passed on.

use std::io::Write as _;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{HeaderName, Items, Message, Span, lists::Item};

/// Changes to one message. Places are those of the unchanged message, so the order in which changes are noted does not matter, but for
/// several insertions at one place, which stay in the order in which they were noted.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    splices: SmallVec<[Splice; 12]>,
    /// The new text of all splices.
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Splice {
    /// What is taken out.
    old: Span,
    /// What is put there, in `text`.
    new: Span,
}

impl Edits {
    /// None yet.
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.splices.is_empty()
    }

    /// Puts `new` where `old` was.
    pub fn replace(&mut self, old: Span, new: &[u8]) {
        self.replace_with(old, |text| text.extend_from_slice(new));
    }

    /// As [`Edits::replace`], with text that `write` appends.
    pub fn replace_with(&mut self, old: Span, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        if start == 0 {
            self.text.reserve(64); // enough for most, so that it need not grow
        }
        write(&mut self.text);
        self.splices.push(Splice {
            old,
            new: Span::new(start, self.text.len()),
        });
    }

    /// As [`Edits::replace`], with formatted text.
    pub fn replace_fmt(&mut self, old: Span, new: std::fmt::Arguments<'_>) {
        self.replace_with(old, |text| {
            // Writing into memory does not fail.
            let _ = text.write_fmt(new);
        });
    }

    /// Puts `new` before the byte at `at`.
    pub fn insert(&mut self, at: u32, new: &[u8]) {
        self.replace(Span { start: at, end: at }, new);
    }

    /// As [`Edits::insert`], with formatted text.
    pub fn insert_fmt(&mut self, at: u32, new: std::fmt::Arguments<'_>) {
        self.replace_fmt(Span { start: at, end: at }, new);
    }

    /// Takes something out.
    pub fn remove(&mut self, old: Span) {
        self.replace(old, b"");
    }

    /// Puts whole header lines (each with its CRLF) in front of the first header of `name`, or behind the last header if there is none.
    pub fn insert_before(&mut self, message: &Message, name: HeaderName, lines: &[u8]) {
        let at = message
            .find(name)
            .map_or(message.headers_end(), |header| header.line.start);
        self.insert(at, lines);
    }

    /// Puts whole header lines (each with its CRLF) behind the last header.
    pub fn append(&mut self, message: &Message, lines: &[u8]) {
        self.insert(message.headers_end(), lines);
    }

    /// Takes one value out of a header, and the whole line if it was the only one. To take several values of one line, use
    /// [`Edits::remove_items`].
    pub fn remove_item(&mut self, message: &Message, item: Item) {
        self.remove_items(message, message.headers()[item.header].name, |one| one == item);
    }

    /// Takes all values of headers of this name out for which `which` is true.
    pub fn remove_items(&mut self, message: &Message, name: HeaderName, mut which: impl FnMut(Item) -> bool) {
        let items: SmallVec<[Item; 8]> = Items::new(message, name).collect();
        for of_line in items.chunk_by(|a, b| a.header == b.header) {
            let line = &message.headers()[of_line[0].header];
            let mine: SmallVec<[(Item, bool); 8]> = of_line.iter().map(|item| (*item, which(*item))).collect();
            if !mine.iter().any(|(_, gone)| *gone) {
                continue;
            }
            if mine.iter().all(|(_, gone)| *gone) {
                self.remove(line.line);
                continue;
            }
            // Each value goes with the comma behind it; a run of values at the end goes with the comma before it.
            let kept_last = mine.iter().rposition(|(_, gone)| !gone).unwrap_or(0);
            for (place, (item, gone)) in mine.iter().enumerate() {
                if *gone && place < kept_last {
                    self.remove(Span {
                        start: item.span.start,
                        end: mine[place + 1].0.span.start,
                    });
                }
            }
            if kept_last + 1 < mine.len() {
                self.remove(Span {
                    start: mine[kept_last].0.span.end,
                    end: line.value.end,
                });
            }
        }
    }

    /// Takes all header lines of this name out.
    pub fn remove_headers(&mut self, message: &Message, name: HeaderName) {
        for header in message.headers().iter().filter(|header| header.name == name) {
            self.remove(header.line);
        }
    }

    /// Replaces the value of the first header of this name, or adds one behind the last header.
    pub fn set_header(&mut self, message: &Message, name: HeaderName, value: &[u8]) {
        match message.find(name) {
            Some(header) => self.replace(header.value, value),
            None => {
                let at = message.headers_end();
                self.replace_with(Span { start: at, end: at }, |text| {
                    text.extend_from_slice(name.name().as_bytes());
                    text.extend_from_slice(b": ");
                    text.extend_from_slice(value);
                    text.extend_from_slice(b"\r\n");
                });
            }
        }
    }

    /// By how many bytes what is at or behind `at` grows; negative if it shrinks.
    pub fn growth(&self, at: u32) -> i64 {
        let behind = self.splices.iter().filter(|splice| splice.old.start >= at);
        behind
            .map(|splice| splice.new.len() as i64 - splice.old.len() as i64)
            .sum()
    }

    /// The changed message. Where two changes overlap, the one that begins first wins and the other's removal is cut short.
    pub fn apply(&self, message: &Message) -> Bytes {
        self.apply_to(message.bytes())
    }

    /// As [`Edits::apply`], to the bytes that the places are of.
    pub fn apply_to(&self, source: &Bytes) -> Bytes {
        if self.is_empty() {
            return source.clone();
        }
        let mut out = Vec::with_capacity(source.len() + self.text.len());
        let mut order: SmallVec<[Splice; 12]> = self.splices.clone();
        order.sort_by_key(|splice| splice.old.start);
        let mut at = 0;
        for splice in order {
            let old = splice.old.range();
            if old.start > at {
                out.extend_from_slice(&source[at..old.start]);
            }
            out.extend_from_slice(&self.text[splice.new.range()]);
            at = at.max(old.end);
        }
        out.extend_from_slice(&source[at..]);
        Bytes::from(out)
    }
}
