//! What the fuzzers run on the SIP side: each function takes any bytes and panics if something is wrong.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    auth::Credentials,
    location::stored::StoredContact,
    message::{
        Edits, HeaderName, Message, NameAddr, Uri, Via, check,
        reply::{Reply, note_source},
    },
};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name; those of `fuzz/fuzz_targets` that begin with `sip_`.
pub const TARGETS: [(&str, Target); 3] = [
    ("sip_message", sip_message),
    ("sip_edits", sip_edits),
    ("sip_digest", sip_digest),
];

/// Something to begin with for a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let seeds: &[&str] = match target {
        "sip_digest" => &[
            "Digest username=\"bob\", realm=\"net.com\", nonce=\"x\", uri=\"sip:net.com\", response=\"00\", qop=auth, nc=00000001, cnonce=\"c\"",
            "digest username=\"a\\\"b\\\\\",realm=\"r\" nonce=n,uri=u,response=r,algorithm=SHA-512-256, opaque=\"\"",
            "NoOneKnowsThisScheme opaque-data=here",
        ],
        _ => &[
            "INVITE sip:user@net.com;x=1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport, SIP/2.0/TCP [2001:db8::9]:9 ;received=1.2.3.4\r\n\
             v : SIP / 2.0 / TLS first.example.com\r\nMax-Forwards: 70\r\nt: \"A, <B>\" <sip:user@net.com;x=1>;y=2\r\nFrom:\r\n  Caller <sip:c@example.org>;\r\n\ttag=abc\r\n\
             Call-ID: 1@192.0.2.1\r\nCSeq: 0009   INVITE\r\nRoute: <sip:a;lr>,<sip:b;lr>\r\nContact: <sip:u@10.0.0.1>;q=0.5, *\r\nl: 4\r\n\r\nv=0\n",
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n\
             m: <sip:1@1.1.1.1>;expires=60;+sip.instance=\"<urn:x>\"\r\nContent-Length: 0\r\n\r\n",
        ],
    };
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Any bytes are read or refused, and what is read is as it came.
pub fn sip_message(bytes: &[u8]) {
    let _ = StoredContact::decode(bytes);
    let _ = Uri::parse(bytes).map(|uri| (uri.user_text().is_some(), uri.target(), uri.same_as(&uri)));
    let Ok(message) = Message::parse(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert_eq!(&message.bytes()[..], bytes);
    let (request, response) = (check::request(&message), check::response(&message));
    for header in message.headers() {
        for item in message.items(header.name) {
            assert!(item.span.start <= item.span.end && item.span.end as usize <= bytes.len());
            if let Some(value) = NameAddr::parse(&message, item.span) {
                assert_eq!(message.text(value.uri_span), value.uri);
                let _ = value.params.iter().count();
            }
            let _ = Via::parse(&message, item.span).map(|via| (via.branch().len(), via.asks_rport()));
        }
    }
    if request.is_none() {
        // What can be processed can be answered, and the answer can be read.
        let source: SocketAddr = ([192, 0, 2, 1], 5060).into();
        let reply = Reply::new(404, "Not Found", b"tag", source).to(&message);
        let reply = Message::parse(reply).expect("a response that we made can be read");
        assert_eq!((check::response(&reply), reply.code()), (None, Some(404)));
        assert_eq!(
            reply.items(HeaderName::Via).count(),
            message.items(HeaderName::Via).count()
        );
    }
    assert!(request.is_some() || response.is_some() || message.code().is_none());
}

/// Edits leave all other bytes alone.
pub fn sip_edits(bytes: &[u8]) {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert_eq!(&Edits::new().apply(&message)[..], bytes);
    let mut edits = Edits::new();
    note_source(&message, ([192, 0, 2, 1], 5060).into(), &mut edits);
    edits.insert_before(&message, HeaderName::Via, b"Via: SIP/2.0/UDP us\r\n");
    edits.remove_items(&message, HeaderName::Route, |item| item.span.start % 2 == 0);
    edits.remove_headers(&message, HeaderName::Contact);
    let edited = edits.apply(&message);
    // What was not named is still there, in its order.
    let mut rest = &edited[..];
    for header in message
        .headers()
        .iter()
        .filter(|header| header.name == HeaderName::Other)
    {
        let line = message.text(header.line);
        let found = memchr::memmem::find(rest, line).expect("an unknown header stays as it is");
        rest = &rest[found + line.len()..];
    }
    assert!(rest.ends_with(message.rest()));
}

/// Credentials are read, refused or another scheme's; what is read keeps its rules.
pub fn sip_digest(bytes: &[u8]) {
    if let Ok(Some(credentials)) = Credentials::parse(bytes) {
        assert!(credentials.nc > 0);
        assert!(credentials.qop.is_none() || credentials.nc_text.len() == 8);
        let _ = credentials.algorithm();
    }
}
