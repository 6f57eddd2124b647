//! Route preprocessing (RFC 3261 section 16.4): our own Route entries, and what their tokens say.

use smallvec::SmallVec;

use crate::sip::{
    flow::Flow,
    message::{HeaderName, Message, NameAddr, Span, Uri, lists::Item},
    token::{self, Forged, Side, Tokens},
};

/// What becomes of a request's Routes and of its request URI before a target is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// So many Route values at the front are ours and are taken out.
    pub ours: usize,
    /// A strict router before us has put our URI into the request URI: the real one is the last Route value, which is taken out.
    pub uri: Option<Span>,
    /// The first Route value that is left.
    pub next: Option<Span>,
    /// What the last token met says.
    pub token: Met,
}

/// A token in our own Route entries or in the request URI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Met {
    /// There was none.
    #[default]
    None,
    /// We have taken part in making the dialog, and the request goes on by its next Route or its request URI.
    Dialog,
    /// As [`Met::Dialog`], to this side.
    DialogFlow(Side),
    /// A device that we are the edge of (Path, RFC 5626 section 5.3).
    Edge(Flow),
}

impl Met {
    /// Whether the request is within a dialog that we helped to make.
    pub fn in_dialog(self) -> bool {
        matches!(self, Met::Dialog | Met::DialogFlow(_))
    }

    /// Whom it leads to, by flow.
    pub fn side(self) -> Option<Side> {
        match self {
            Met::DialogFlow(side) => Some(side),
            Met::Edge(flow) => Some(flow.into()),
            Met::None | Met::Dialog => None,
        }
    }
}

/// Looks at the request URI and the Routes. `is_me`: whether a URI is one of ours.
///
/// # Errors
/// A token in one of our own entries that we have not made for this dialog.
pub fn preprocess(message: &Message, tokens: &Tokens, is_me: impl Fn(&Uri<'_>) -> bool) -> Result<Routing, Forged> {
    let mut routing = Routing::default();
    let mut routes: SmallVec<[Item; 4]> = message.items(HeaderName::Route).collect();
    if let Some(uri) = message.target()
        && let Some(user) = uri.user
        && token::is_dialog_token(user)
        && is_me(&uri)
    {
        routing.token = read(user, message, tokens)?;
        if let Some(last) = routes.pop()
            && let Some(last) = NameAddr::parse(message, last.span)
        {
            routing.uri = Some(last.uri_span);
        }
    }
    for route in routes {
        let Some(address) = NameAddr::parse(message, route.span) else {
            routing.next = Some(route.span);
            break;
        };
        match address.parsed() {
            Some(uri) if is_me(&uri) => {
                routing.ours += 1;
                if let Some(user) = uri.user.filter(|user| token::looks_like_token(user)) {
                    routing.token = read(user, message, tokens)?;
                }
            }
            _ => {
                routing.next = Some(route.span);
                break;
            }
        }
    }
    Ok(routing)
}

fn read(user: &[u8], message: &Message, tokens: &Tokens) -> Result<Met, Forged> {
    if token::is_dialog_token(user) {
        // Without a To tag it is no request within a dialog.
        message.to_tag().ok_or(Forged)?;
        Ok(match tokens.parse_dialog(user, message.call_id())? {
            Some(side) => Met::DialogFlow(side),
            None => Met::Dialog,
        })
    } else {
        tokens.parse(user).map(|token| Met::Edge(token.flow))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::flow::ListenerId;

    fn tokens() -> Tokens {
        Tokens::new(b"secret")
    }

    fn flow(port: u16) -> Flow {
        Flow::udp(ListenerId(0), ([192, 0, 2, 1], port).into())
    }

    fn token(flow: Option<&Flow>) -> String {
        let mut out = Vec::new();
        tokens().write_dialog(b"c", flow.copied().map(Side::from).as_ref(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn of(uri: &str, to: &str, routes: &[String]) -> Result<(Routing, Message), Forged> {
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let text = format!(
            "BYE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{routes}From: <sip:a@x>;tag=1\r\nTo: <sip:b@y>{to}\r\nCall-ID: c\r\nCSeq: 1 BYE\r\n\r\n"
        );
        let message = Message::parse(Bytes::from(text)).unwrap();
        let routing = preprocess(&message, &tokens(), |uri| uri.host == b"me")?;
        Ok((routing, message))
    }

    #[test]
    fn the_last_of_our_entries_decides() {
        let route = |user: &str| format!("<sip:{user}@me;lr>");
        let (a, b, none) = (token(Some(&flow(1))), token(Some(&flow(2))), token(None));
        let met = |routes: &[String]| of("sip:b@y", ";tag=2", routes).map(|(routing, _)| (routing.ours, routing.token));
        assert_eq!(met(&[route(&a), route(&b)]), Ok((2, Met::DialogFlow(flow(2).into()))));
        assert_eq!(
            met(&[format!("{}, {}", route(&b), route(&a))]),
            Ok((2, Met::DialogFlow(flow(1).into())))
        );
        assert_eq!(met(&[route(&a), route(&none)]), Ok((2, Met::Dialog)));
        assert_eq!(
            met(&["<sip:me;lr>".into(), "<sip:other;lr>".into(), route(&a)]),
            Ok((1, Met::None))
        );
        assert_eq!(met(&[route("d~forged")]), Err(Forged));
        assert_eq!(of("sip:b@y", "", &[route(&a)]).unwrap_err(), Forged, "out of dialogs");
        let edge = tokens().flow_token(&flow(3));
        assert_eq!(met(&[route(&edge)]), Ok((1, Met::Edge(flow(3)))));
    }

    #[test]
    fn a_strict_router_before_us() {
        let ours = format!("sip:{}@me;lr", token(Some(&flow(1))));
        let routes = ["<sip:next;lr>".to_owned(), "<sip:b@192.0.2.4>".to_owned()];
        let (routing, message) = of(&ours, ";tag=2", &routes).unwrap();
        assert_eq!(message.text(routing.uri.unwrap()), b"sip:b@192.0.2.4");
        assert_eq!(message.text(routing.next.unwrap()), b"<sip:next;lr>");
        assert_eq!((routing.ours, routing.token), (0, Met::DialogFlow(flow(1).into())));
        let (routing, _) = of(&ours, ";tag=2", &routes[1..]).unwrap();
        assert_eq!((routing.next, routing.ours), (None, 0));
    }
}
