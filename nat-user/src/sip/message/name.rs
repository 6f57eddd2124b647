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
            const ALL: &[(HeaderName, &str, u8)] = &[$((HeaderName::$variant, $name, $compact),)*];

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
        // Nearly all are told from the others by their first letter, and written as here.
        let is = |name: &[u8]| name[0] | 0x20 == text[0] | 0x20 && (name == text || name.eq_ignore_ascii_case(text));
        SORTED[usize::from(range[0])..usize::from(range[1])]
            .iter()
            .find(|(_, name, _)| is(name.as_bytes()))
            .map_or(HeaderName::Other, |(name, _, _)| *name)
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

/// All names by their length.
const SORTED: [Entry; HeaderName::ALL.len()] = {
    let mut sorted = [HeaderName::ALL[0]; HeaderName::ALL.len()];
    let (mut length, mut place) = (0, 0);
    while length <= LONGEST {
        let mut index = 0;
        while index < HeaderName::ALL.len() {
            if HeaderName::ALL[index].1.len() == length {
                sorted[place] = HeaderName::ALL[index];
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
const PLACES: [u8; LONGEST + 2] = {
    let mut places = [0; LONGEST + 2];
    let mut length = 0;
    while length <= LONGEST {
        let mut index = 0;
        while index < SORTED.len() {
            if SORTED[index].1.len() <= length {
                places[length + 1] = index as u8 + 1;
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
        for (name, text, _) in HeaderName::ALL {
            assert_eq!(HeaderName::of(text.as_bytes()), *name);
            assert_eq!(name.name(), *text);
        }
    }
}
