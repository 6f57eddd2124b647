use proptest::prelude::*;

use super::{check, edit::Edits, reply::note_source, *};

const INVITE: &str = "INVITE sip:user@net.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bK776;rport, SIP/2.0/TCP [2001:db8::9]:9 ;branch=\"z9,9\"\r\n\
    v : SIP / 2.0 / UDP first.example.com: 4000;ttl=16\r\n\
    Max-Forwards: 70\r\n\
    t: \"A, <B>\" <sip:user@net.com;x=1>;y=2\r\n\
    From:\r\n  Caller <sip:caller@example.org>;\r\n\ttag=abc\r\n\
    Call-ID: 1@134.56.9.9\r\n\
    CSeq: 0009   INVITE\r\n\
    Route: <sip:a;lr>,<sip:b;lr> , <sip:c;lr>\r\n\
    Route: <sip:d;lr>\r\n\
    X-Unknown: \u{1}\r\n\
    l: 4\r\n\
    \r\nv=0\n";

fn message(text: impl AsRef<[u8]>) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_ref())).unwrap()
}

#[test]
fn a_message_is_read() {
    let invite = message(INVITE);
    assert_eq!(check::request(&invite), None);
    assert_eq!(
        (invite.method(), invite.request_uri()),
        (Some(Method::Invite), &b"sip:user@net.com"[..])
    );
    let via = invite.via().unwrap();
    assert_eq!(
        (via.host, via.port, via.branch()),
        (&b"134.56.9.9"[..], Some(5060), &b"z9hG4bK776"[..])
    );
    assert!(via.asks_rport() && via.has_cookie());
    let hosts: Vec<_> = invite
        .items(HeaderName::Via)
        .map(|item| Via::parse(&invite, item.span).map(|via| (via.host.to_vec(), via.port)))
        .collect();
    assert_eq!(
        hosts,
        [
            Some((b"134.56.9.9".to_vec(), Some(5060))),
            Some((b"[2001:db8::9]".to_vec(), Some(9))),
            Some((b"first.example.com".to_vec(), Some(4000))),
        ]
    );
    assert_eq!(invite.from_tag(), Some(&b"abc"[..]));
    let to = invite.to().unwrap();
    assert_eq!(
        (to.uri, to.params.get("y")),
        (&b"sip:user@net.com;x=1"[..], Some(&b"2"[..]))
    );
    assert_eq!(invite.cseq().unwrap().number, 9);
    assert_eq!(invite.body(), b"v=0\n");
    assert_eq!(invite.number(HeaderName::MaxForwards), Some(70));
    assert_eq!(invite.named("x-unknown"), Some(&b"\x01"[..]));
}

#[test]
fn edits_leave_the_rest_alone() {
    let invite = message(INVITE);
    let mut edits = Edits::new();
    assert_eq!(edits.apply(&invite), INVITE.as_bytes());
    note_source(&invite, "134.56.9.9:1024".parse().unwrap(), &mut edits);
    edits.insert_before(&invite, HeaderName::Via, b"Via: SIP/2.0/UDP us\r\n");
    edits.set_header(&invite, HeaderName::MaxForwards, b"69");
    edits.set_header(&invite, HeaderName::Expires, b"30");
    let routes: Vec<_> = invite.items(HeaderName::Route).collect();
    edits.remove_items(&invite, HeaderName::Route, |item| {
        item == routes[0] || item == routes[3]
    });
    let expected = INVITE
        .replace("Via: SIP/2.0/UDP 134", "Via: SIP/2.0/UDP us\r\nVia: SIP/2.0/UDP 134")
        .replace(
            "branch=z9hG4bK776;rport,",
            "branch=z9hG4bK776;rport=1024;received=134.56.9.9,",
        )
        .replace("Max-Forwards: 70", "Max-Forwards: 69")
        .replace("<sip:a;lr>,", "")
        .replace("Route: <sip:d;lr>\r\n", "")
        .replace("l: 4\r\n", "l: 4\r\nExpires: 30\r\n");
    assert_eq!(String::from_utf8_lossy(&edits.apply(&invite)), expected);
}

#[test]
fn items_are_removed_with_their_commas() {
    let text = "OPTIONS sip:x SIP/2.0\r\nRoute: <sip:a>,<sip:b> , <sip:c>\r\n\r\n";
    for (gone, left) in [
        (vec![0], "Route: <sip:b> , <sip:c>\r\n"),
        (vec![1], "Route: <sip:a>,<sip:c>\r\n"),
        (vec![2], "Route: <sip:a>,<sip:b>\r\n"),
        (vec![1, 2], "Route: <sip:a>\r\n"),
        (vec![0, 1], "Route: <sip:c>\r\n"),
        (vec![0, 2], "Route: <sip:b>\r\n"),
        (vec![0, 1, 2], ""),
        (vec![], "Route: <sip:a>,<sip:b> , <sip:c>\r\n"),
    ] {
        let options = message(text);
        let items: Vec<_> = options.items(HeaderName::Route).collect();
        let mut edits = Edits::new();
        edits.remove_items(&options, HeaderName::Route, |item| {
            gone.iter().any(|g| items[*g] == item)
        });
        let expected = format!("OPTIONS sip:x SIP/2.0\r\n{left}\r\n");
        assert_eq!(String::from_utf8_lossy(&edits.apply(&options)), expected, "{gone:?}");
    }
}

#[test]
fn start_lines() {
    let fault = |line: &str| {
        Message::parse(Bytes::from(format!("{line}\r\n\r\n"))).map(|message| message.fault().map(|fault| fault.code))
    };
    assert_eq!(fault("INVITE sip:x SIP/2.0"), Ok(None));
    assert_eq!(fault("INVITE sip:x sip/2.0"), Ok(None));
    assert_eq!(fault("INVITE  sip:x SIP/2.0"), Ok(Some(400)));
    assert_eq!(fault("INVITE sip:x SIP/2.0 "), Ok(Some(400)));
    assert_eq!(fault("INVITE sip:x;a b SIP/2.0"), Ok(Some(400)));
    assert_eq!(fault("INVITE SIP/2.0"), Ok(Some(400)));
    assert_eq!(fault("INVITE sip:x SIP/7.0"), Ok(Some(505)));
    assert_eq!(fault("IN,VITE sip:x SIP/2.0"), Ok(Some(400)));
    assert_eq!(fault("SIP/2.0 200 OK"), Ok(None));
    assert_eq!(fault("SIP/2.0 200"), Ok(None));
    assert_eq!(fault("SIP/2.0 2000 OK"), Ok(Some(400)));
    assert_eq!(fault("SIP/2.0 099 OK"), Ok(Some(400)));
    assert_eq!(fault("hello"), Err(ParseError::NotSip));
    assert_eq!(fault(""), Err(ParseError::NotSip));
    assert_eq!(fault("GET / HTTP/1.1"), Err(ParseError::NotSip));
    assert_eq!(message("\r\n\r\nBYE sip:x SIP/2.0\r\n\r\n").method(), Some(Method::Bye));
}

#[test]
fn faulty_requests_get_the_response_they_deserve() {
    let valid = "OPTIONS sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(check::request(&message(valid)), None);
    for (old, new) in [
        ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"),
        ("CSeq: 1 OPTIONS", "CSeq: 2147483648 OPTIONS"),
        ("CSeq: 1 OPTIONS", "CSeq: x OPTIONS"),
        ("CSeq: 1 OPTIONS\r\n", ""),
        ("Call-ID: 1\r\n", ""),
        ("Call-ID: 1", "Call-ID:"),
        ("From: <sip:a@b>;tag=1\r\n", ""),
        ("From: <sip:a@b>;tag=1", "From: <sip:a@b;tag=1"),
        ("From: <sip:a@b>;tag=1", "From: \"a <sip:a@b>;tag=1"),
        ("From: <sip:a@b>;tag=1", "From: <sip:a@b>;tag=1\r\nf: <sip:c@d>"),
        ("To: <sip:x@y>", "To: <>"),
        ("Via: SIP/2.0/UDP a;branch=z9hG4bK1\r\n", ""),
        ("Via: SIP/2.0/UDP a", "Via: SIP/2.0/UDP"),
        ("Content-Length: 0", "Content-Length: -1"),
        ("Content-Length: 0", "Content-Length: 1"),
        ("sip:x@y SIP", "x@y SIP"),
        ("\r\n\r\n", "\r\nnothing\r\n\r\n"),
        ("Content-Length: 0", "Max-Forwards: 300"),
    ] {
        assert!(valid.contains(old));
        let fault = check::request(&message(valid.replacen(old, new, 1)));
        assert_eq!(fault.map(|fault| fault.code), Some(400), "{new}");
    }
}

#[test]
fn replies_copy_what_the_rfc_asks_for() {
    let invite = message(INVITE);
    let reply = reply::Reply {
        headers: b"Retry-After: 5\r\n",
        ..reply::Reply::new(503, "Service Unavailable", b"t", "192.0.2.1:7".parse().unwrap())
    };
    let expected = "SIP/2.0 503 Service Unavailable\r\n\
        Via: SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bK776;rport=7;received=192.0.2.1, SIP/2.0/TCP [2001:db8::9]:9 ;branch=\"z9,9\"\r\n\
        v : SIP / 2.0 / UDP first.example.com: 4000;ttl=16\r\n\
        From:\r\n  Caller <sip:caller@example.org>;\r\n\ttag=abc\r\n\
        To: \"A, <B>\" <sip:user@net.com;x=1>;y=2;tag=t\r\n\
        Call-ID: 1@134.56.9.9\r\n\
        CSeq: 0009   INVITE\r\n\
        Retry-After: 5\r\n\
        Content-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&reply.to(&invite)), expected);
}

proptest! {
    /// Whatever the bytes: no panic, and no edit at all gives the same bytes.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b':'), Just(b','), Just(b'<'), Just(b'"'), Just(b';')], 0..300)) {
        let mut text = b"INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nVia:".to_vec();
        text.extend_from_slice(&bytes);
        let message = Message::parse(Bytes::from(text.clone())).unwrap();
        check::request(&message);
        prop_assert_eq!(&Edits::new().apply(&message)[..], &text[..]);
        let mut edits = Edits::new();
        note_source(&message, "[::1]:1".parse().unwrap(), &mut edits);
        edits.remove_items(&message, HeaderName::Via, |item| item.span.start % 2 == 0);
        edits.apply(&message);
        reply::Reply::new(400, "x", b"t", "[::1]:1".parse().unwrap()).to(&message);
        for header in message.headers() {
            let _ = NameAddr::parse(&message, header.value).map(|value| value.parsed());
            let _ = Via::parse(&message, header.value);
        }
    }

    /// The start line of any kind.
    #[test]
    fn any_start(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(Bytes::from(bytes.clone())) {
            check::request(&message);
            check::response(&message);
            prop_assert_eq!(&message.bytes()[..], &bytes[..]);
        }
    }
}

#[test]
fn numbers_and_addresses_are_written_as_the_standard_library_does() {
    for number in [0, 7, 10, 65_535, u64::MAX] {
        let mut out = Vec::new();
        put_number(&mut out, number);
        assert_eq!(out, number.to_string().as_bytes());
    }
    for (address, text) in [
        ("192.0.2.10", "192.0.2.10"),
        ("0.0.0.0", "0.0.0.0"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ] {
        let mut out = Vec::new();
        put_address(&mut out, address.parse().unwrap());
        assert_eq!(out, text.as_bytes());
    }
}
