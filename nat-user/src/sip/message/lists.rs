//! Comma lists (RFC 3261 section 7.3.1), taken apart with respect to quotes and angle brackets.

use super::{Header, HeaderName, Message, Span, trim};

/// One value of a header that may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which of [`Message::headers`] it stands in.
    pub header: usize,
    /// The value without white space around it.
    pub span: Span,
}

/// All values of all headers of one name, in order. Empty values (`a,,b`) are left out.
pub struct Items<'a> {
    message: &'a Message,
    name: HeaderName,
    header: usize,
    /// Where the next value begins in the current header; `None`: at the next header of the name.
    at: Option<u32>,
}

impl<'a> Items<'a> {
    pub(super) fn new(message: &'a Message, name: HeaderName) -> Self {
        Items {
            message,
            name,
            header: 0,
            at: None,
        }
    }
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let headers = self.message.headers();
            let at = match self.at {
                Some(at) => at,
                None => {
                    let more = match self.header {
                        0 => self.message.has(self.name),
                        _ => self.message.has_several(self.name),
                    };
                    if !more {
                        return None;
                    }
                    let offset = headers.get(self.header..)?.iter().position(|h| h.name == self.name)?;
                    self.header += offset;
                    headers[self.header].value.start
                }
            };
            let header: Header = headers[self.header];
            let end = if self.name.is_list() {
                item_end(self.message.bytes(), at, header.value.end)
            } else {
                header.value.end
            };
            let item = Item {
                header: self.header,
                span: trim(self.message.bytes(), Span { start: at, end }),
            };
            if end < header.value.end {
                self.at = Some(end + 1);
            } else {
                self.at = None;
                self.header += 1;
            }
            if !item.span.is_empty() {
                return Some(item);
            }
        }
    }
}

/// The place of the comma that ends the value at `at`, or `end`. A quote or bracket that is never closed reaches to the end.
fn item_end(bytes: &[u8], at: u32, end: u32) -> u32 {
    find_outside(&bytes[at as usize..end as usize], b',').map_or(end, |place| at + place as u32)
}

/// The first `wanted` that stands outside of quoted strings (with backslash escapes) and angle brackets.
pub(super) fn find_outside(text: &[u8], wanted: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        // Many begin with a bracket, or end with one.
        let place = match text.get(at)? {
            b'<' => at,
            _ => at + memchr::memchr3(wanted, b'"', b'<', &text[at..])?,
        };
        at = match text[place] {
            byte if byte == wanted => return Some(place),
            b'"' => quote_end(text, place)?,
            _ => place + memchr::memchr(b'>', &text[place..])? + 1,
        };
    }
}

/// The place behind the quoted string that begins at `open`. `None`: it is never closed.
pub(super) fn quote_end(text: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        let place = at + memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..])?;
        match text[place] {
            b'"' => return Some(place + 1),
            _ => at = place + 2,
        }
    }
}
