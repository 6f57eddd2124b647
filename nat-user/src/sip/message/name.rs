//! Header names.

macro_rules! names {
    ($($variant:ident $name:literal $compact:literal,)*) => {
        /// The headers that something in sipnat looks at. All others pass as they are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HeaderName {
            $($variant,)*
            Other,
        }

        impl HeaderName {
            const ALL: &[Entry] = &[$((HeaderName::$variant, $name, $compact),)*];

            /// The full name; empty for [`HeaderName::Other`].
            pub fn name(self) -> &'static str {
                match self {
                    $(HeaderName::$variant => $name,)*
                    HeaderName::Other => "",
                }
            }
        }
    };
}

// Name, and compact form (RFC 3261 section 7.3.3 and the registry) or 0.
names! {
    Via "Via" b'v',
    From "From" b'f',
    To "To" b't',
    CallId "Call-ID" b'i',
    CSeq "CSeq" 0,
    Contact "Contact" b'm',
    MaxForwards "Max-Forwards" 0,
    ContentLength "Content-Length" b'l',
    ContentType "Content-Type" b'c',
    Route "Route" 0,
    RecordRoute "Record-Route" 0,
    Path "Path" 0,
    ServiceRoute "Service-Route" 0,
    Expires "Expires" 0,
    MinExpires "Min-Expires" 0,
    Authorization "Authorization" 0,
    ProxyAuthorization "Proxy-Authorization" 0,
    WwwAuthenticate "WWW-Authenticate" 0,
    ProxyAuthenticate "Proxy-Authenticate" 0,
    AuthenticationInfo "Authentication-Info" 0,
    Require "Require" 0,
    ProxyRequire "Proxy-Require" 0,
    Supported "Supported" b'k',
    Unsupported "Unsupported" 0,
    Allow "Allow" 0,
    UserAgent "User-Agent" 0,
    Server "Server" 0,
    Event "Event" b'o',
    SubscriptionState "Subscription-State" 0,
    SessionExpires "Session-Expires" b'x',
    MinSe "Min-SE" 0,
    MaxBreadth "Max-Breadth" 0,
    Timestamp "Timestamp" 0,
    RetryAfter "Retry-After" 0,
    FlowTimer "Flow-Timer" 0,
    ReferTo "Refer-To" b'r',
    ContentEncoding "Content-Encoding" b'e',
    Date "Date" 0,
    Warning "Warning" 0,
}

impl HeaderName {
    /// By its text, in any case, full or compact.
    pub fn of(text: &[u8]) -> HeaderName {
        if let &[letter] = text {
            let letter = letter.to_ascii_lowercase();
            return Self::ALL
                .iter()
                .find(|(_, _, compact)| *compact == letter && letter != 0)
                .map_or(HeaderName::Other, |(name, _, _)| *name);
        }
        let Some(range) = PLACES.get(text.len()..text.len() + 2) else {
            return HeaderName::Other;
        };
        let found = ends(text);
        let is = |known: &Known| {
            known.ends == found && (text.len() <= 16 || known.text.as_bytes().eq_ignore_ascii_case(text))
        };
        SORTED[usize::from(range[0])..usize::from(range[1])]
            .iter()
            .find(|known| is(known))
            .map_or(HeaderName::Other, |known| known.name)
    }

    /// A bit of its own, for sets of names.
    pub(super) const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// Whether lines of this name may carry several values, separated by commas (RFC 3261 section 7.3.1: not the authentication headers).
    pub fn is_list(self) -> bool {
        matches!(
            self,
            HeaderName::Via
                | HeaderName::Contact
                | HeaderName::Route
                | HeaderName::RecordRoute
                | HeaderName::Path
                | HeaderName::ServiceRoute
                | HeaderName::Require
                | HeaderName::ProxyRequire
                | HeaderName::Supported
                | HeaderName::Unsupported
                | HeaderName::Allow
                | HeaderName::ContentEncoding
                | HeaderName::Warning
        )
    }
}

type Entry = (HeaderName, &'static str, u8);

/// The longest name that is known.
const LONGEST: usize = 20;

/// A name as a text is compared with it.
#[derive(Clone, Copy)]
struct Known {
    name: HeaderName,
    ends: [u64; 2],
    text: &'static str,
}

/// The first and the last eight bytes of a text, letters in lower case: all of it if it has at most sixteen. The length is known otherwise.
const fn ends(text: &[u8]) -> [u64; 2] {
    // Letters have bit 6, of the other bytes of names none has.
    const fn lower(bytes: u64) -> u64 {
        bytes | (bytes & 0x4040_4040_4040_4040) >> 1
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return [lower(u64::from_le_bytes(*first)), lower(u64::from_le_bytes(*last))];
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return [lower(first as u64 | (last as u64) << 32), 0];
    }
    let (mut bytes, mut place) = (0, 0);
    while place < text.len() {
        bytes |= (text[place] as u64) << (8 * place);
        place += 1;
    }
    [lower(bytes), 0]
}

/// All names by their length.
static SORTED: [Known; HeaderName::ALL.len()] = {
    let nothing = Known {
        name: HeaderName::Other,
        ends: [0; 2],
        text: "",
    };
    let mut sorted = [nothing; HeaderName::ALL.len()];
    let (mut length, mut place) = (0, 0);
    while length <= LONGEST {
        let mut index = 0;
        while index < HeaderName::ALL.len() {
            let (name, text, _) = HeaderName::ALL[index];
            if text.len() == length {
                sorted[place] = Known {
                    name,
                    ends: ends(text.as_bytes()),
                    text,
                };
                place += 1;
            }
            index += 1;
        }
        length += 1;
    }
    assert!(place == sorted.len(), "a name is longer than LONGEST");
    sorted
};

/// Where the names of each length begin in [`SORTED`].
static PLACES: [u8; LONGEST + 2] = {
    let mut places = [0; LONGEST + 2];
    let mut length = 0;
    while length <= LONGEST {
        let mut index = 0;
        while index < HeaderName::ALL.len() {
            if HeaderName::ALL[index].1.len() <= length {
                places[length + 1] += 1;
            }
            index += 1;
        }
        length += 1;
    }
    places
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_compact() {
        assert_eq!(HeaderName::of(b"vIA"), HeaderName::Via);
        assert_eq!(HeaderName::of(b"V"), HeaderName::Via);
        assert_eq!(HeaderName::of(b"l"), HeaderName::ContentLength);
        assert_eq!(HeaderName::of(b"call-id"), HeaderName::CallId);
        assert_eq!(HeaderName::of(b"z"), HeaderName::Other);
        assert_eq!(HeaderName::of(b"\0"), HeaderName::Other);
        assert_eq!(HeaderName::of(b""), HeaderName::Other);
        assert_eq!(HeaderName::of(b"pROXY-aUTHORIZATION"), HeaderName::ProxyAuthorization);
        for other in [
            &b"Proxy-Axthorization"[..],
            b"Call\rID",
            b"Call\x0dID",
            b"Vi\xc1",
            b"V\x09a",
            b"Froms",
        ] {
            assert_eq!(HeaderName::of(other), HeaderName::Other);
        }
        for (name, text, _) in HeaderName::ALL {
            assert_eq!(HeaderName::of(text.as_bytes()), *name);
            assert_eq!(name.name(), *text);
        }
    }
}
