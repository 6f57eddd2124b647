//! Bytes of what is stored: numbers in little endian, texts and lists with their length in front, what may be absent behind a byte that
//! says whether it is there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smallvec::{Array, SmallVec};

use crate::{
    config::Prefix,
    sip::{
        flow::{ConnectionId, Flow, ListenerId, Transport},
        time::Time,
    },
};

/// What can be stored.
pub trait Stored: Sized {
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads it back. `None`: these bytes were not written by [`Stored::put`].
    fn take(from: &mut Reader<'_>) -> Option<Self>;
}

/// Takes bytes off the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub fn text(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

/// Appends a text.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// Makes a struct of these fields, or an enum of these variants, [`Stored`]: in this order, which is therefore that of the bytes.
macro_rules! stored {
    (struct $name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::store::codec::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::store::codec::Stored::put(&self.$field, out);)+
            }

            fn take(from: &mut $crate::store::codec::Reader<'_>) -> Option<Self> {
                Some($name { $($field: $crate::store::codec::Stored::take(from)?),+ })
            }
        }
    };
    (struct $name:ident (_)) => {
        impl $crate::store::codec::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::store::codec::Stored::put(&self.0, out);
            }

            fn take(from: &mut $crate::store::codec::Reader<'_>) -> Option<Self> {
                $crate::store::codec::Stored::take(from).map($name)
            }
        }
    };
    (enum $name:ident { $($variant:ident),+ $(,)? }) => {
        impl $crate::store::codec::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(*self as u8);
            }

            fn take(from: &mut $crate::store::codec::Reader<'_>) -> Option<Self> {
                let [number] = from.array()?;
                [$($name::$variant),+].into_iter().find(|variant| *variant as u8 == number)
            }
        }
    };
}
pub(crate) use stored;

macro_rules! number {
    ($($number:ty),+) => {
        $(impl Stored for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(from: &mut Reader<'_>) -> Option<Self> {
                from.array().map(Self::from_le_bytes)
            }
        })+
    };
}
number!(u8, u16, u32, u64);

impl Stored for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        match from.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl<T: Stored> Stored for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|it| it.put(out));
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        match bool::take(from)? {
            true => T::take(from).map(Some),
            false => Some(None),
        }
    }
}

impl<T: Stored> Stored for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        take_list(from)
    }
}

impl<A: Array<Item: Stored>> Stored for SmallVec<A> {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        take_list(from)
    }
}

fn put_list<T: Stored>(list: &[T], out: &mut Vec<u8>) {
    (list.len() as u32).put(out);
    list.iter().for_each(|item| item.put(out));
}

/// A length that lies ends with the bytes: nothing is made room for in advance.
fn take_list<T: Stored, L: FromIterator<T>>(from: &mut Reader<'_>) -> Option<L> {
    let length = u32::take(from)?;
    (0..length).map(|_| T::take(from)).collect()
}

impl<T: Stored, const N: usize> Stored for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.put(out));
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let items: Option<SmallVec<[T; 4]>> = (0..N).map(|_| T::take(from)).collect();
        <[T; N]>::try_from(items?.into_vec()).ok()
    }
}

impl Stored for Box<[u8]> {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, self);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        from.text().map(Into::into)
    }
}

impl Stored for Box<str> {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, self.as_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        std::str::from_utf8(from.text()?).ok().map(Into::into)
    }
}

impl Stored for Ipv4Addr {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        from.array().map(<[u8; 4]>::into)
    }
}

impl Stored for IpAddr {
    /// Its version in front.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            IpAddr::V4(address) => {
                out.push(4);
                address.put(out);
            }
            IpAddr::V6(address) => {
                out.push(6);
                out.extend_from_slice(&address.octets());
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        match from.array()? {
            [4] => Ipv4Addr::take(from).map(IpAddr::V4),
            [6] => from.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }
}

impl Stored for Flow {
    fn put(&self, out: &mut Vec<u8>) {
        self.listener.put(out);
        self.transport.put(out);
        self.remote.ip().put(out);
        self.remote.port().put(out);
    }

    /// Connections do not outlive the daemon, and ids of connections mean others then.
    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let (listener, transport) = (ListenerId::take(from)?, Transport::take(from)?);
        let remote = SocketAddr::new(IpAddr::take(from)?, u16::take(from)?);
        Some(Flow::stream(listener, transport, remote, ConnectionId::NONE))
    }
}

stored!(struct Time(_));
stored!(struct ListenerId(_));
stored!(struct Prefix { addr, len });
stored!(
    enum Transport {
        Udp,
        Tcp,
        Tls,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct All {
        numbers: [u16; 2],
        flows: Vec<Flow>,
        text: Box<[u8]>,
        name: Option<Box<str>>,
        small: SmallVec<[bool; 2]>,
        at: Time,
    }
    stored!(struct All { numbers, flows, text, name, small, at });

    fn all() -> All {
        All {
            numbers: [1, 0xffee],
            flows: ["134.56.1.1:5070", "[2001:db8::1]:5061", "[::ffff:192.0.2.1]:5"]
                .map(|remote| Flow::udp(ListenerId(3), remote.parse().unwrap()))
                .into(),
            text: b"\xff\x00".as_slice().into(),
            name: Some("anna@net.com".into()),
            small: [true, false, true].into_iter().collect(),
            at: Time(1_790_000_000_000),
        }
    }

    #[test]
    fn what_is_put_is_taken() {
        let mut bytes = Vec::new();
        all().put(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(All::take(&mut reader), Some(all()));
        assert!(reader.is_empty());
        for length in 0..bytes.len() {
            assert_eq!(All::take(&mut Reader::new(&bytes[..length])), None, "{length}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(bool::take(&mut Reader::new(&[2])), None);
        assert_eq!(Transport::take(&mut Reader::new(&[3])), None);
        assert_eq!(IpAddr::take(&mut Reader::new(&[5, 0, 0, 0, 0])), None);
        assert_eq!(
            Vec::<u8>::take(&mut Reader::new(&[0xff; 8])),
            None,
            "no room is made for it"
        );
    }
}
