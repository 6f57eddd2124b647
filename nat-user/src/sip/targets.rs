//! What the fuzzers run of user space: each function takes any bytes and panics if something is wrong.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    auth::Credentials,
    location::stored::StoredContact,
    message::{
        Edits, HeaderName, Message, NameAddr, Span, Uri, Via, check,
        reply::{Reply, note_source},
    },
};
use crate::media::sdp::{
    Endpoint, Sdp,
    body::{self, Body},
    edit::{IceMode, Told, rewrite},
};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name; those of `fuzz/fuzz_targets` that begin with `sip_` or `pap_`.
pub const TARGETS: [(&str, Target); 5] = [
    ("pap_request", crate::pap::wire::target),
    ("sip_message", sip_message),
    ("sip_edits", sip_edits),
    ("sip_digest", sip_digest),
    ("sip_sdp", sip_sdp),
];

/// Something to begin with for a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    if target == "pap_request" {
        return crate::pap::wire::seeds();
    }
    let seeds: &[&str] = match target {
        "sip_digest" => &[
            "Digest username=\"bob\", realm=\"net.com\", nonce=\"x\", uri=\"sip:net.com\", response=\"00\", qop=auth, nc=00000001, cnonce=\"c\"",
            "digest username=\"a\\\"b\\\\\",realm=\"r\" nonce=n,uri=u,response=r,algorithm=SHA-512-256, opaque=\"\"",
            "NoOneKnowsThisScheme opaque-data=here",
        ],
        "sip_sdp" => &[
            "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=ice-lite\r\n\
             m=audio 4000 UDP/TLS/RTP/SAVPF 111 8\r\na=mid:0\r\na=rtcp:4001 IN IP4 10.0.0.1\r\na=rtcp-mux\r\na=ice-ufrag:x\r\na=ice-pwd:y\r\n\
             a=candidate:1 1 UDP 1 10.0.0.1 4000 typ host\r\na=candidate:1 2 UDP 1 10.0.0.1 4001 typ host\r\na=rtpmap:111 opus/48000/2\r\n\
             a=remote-candidates:1 10.0.0.2 4000\r\nm=video 4000 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=sendonly\r\n",
            "v=0\nm=image 4002 udptl t38\nc=IN IP4 10.0.0.1\nm=audio 0 RTP/AVP 0\nm=video 49170/2 RTP/AVP 31\nc=IN IP6 ::1\nm=message 7 TCP/MSRP *\n\
             c=IN IP4 0.0.0.0\na=path:msrp://10.0.0.1:7/x;tcp\na=setup:active",
            "INVITE sip:x SIP/2.0\r\nc: multipart/mixed;boundary=b\r\n\r\n--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 10.0.0.1\r\n\
             m=audio 4 RTP/AVP 0\r\n--b--\r\n",
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

/// A session description, alone or in a message: what is not told stays as it is, and what is told is there.
pub fn sip_sdp(bytes: &[u8]) {
    const MAX_MEDIA: usize = 16;
    let source = Bytes::copy_from_slice(bytes);
    let span = match Message::parse(source.clone()).as_ref().map(body::find) {
        Ok(Body::Sdp(span)) => span,
        _ => Span {
            start: 0,
            end: bytes.len() as u32,
        },
    };
    let Ok(sdp) = Sdp::parse(&source, span, MAX_MEDIA) else {
        return;
    };
    for ice in [IceMode::Replace, IceMode::Remove] {
        let mut edits = Edits::new();
        rewrite(&sdp, &[None; MAX_MEDIA], ice, &mut edits);
        assert!(edits.is_empty());
        let to = Endpoint {
            address: [192, 0, 2, 1].into(),
            port: 20_000,
            rtcp: Some(20_001),
        };
        let usable = |endpoint: Endpoint| endpoint.port != 0 && !endpoint.address.is_unspecified();
        let told: Vec<_> = sdp
            .media
            .iter()
            .map(|media| sdp.endpoint(media).filter(|endpoint| usable(*endpoint)))
            .map(|receiver| receiver.map(|_| Told { to, receiver }))
            .collect();
        rewrite(&sdp, &told, ice, &mut edits);
        let edited = edits.apply_to(&source);
        let grown = edits.growth(span.start);
        assert_eq!(edited.len() as i64, source.len() as i64 + grown);
        assert_eq!(edited[..span.range().start], source[..span.range().start]);
        let span = Span {
            start: span.start,
            end: (i64::from(span.end) + grown) as u32,
        };
        assert_eq!(
            edited[span.range().end..],
            source[source.len() - (edited.len() - span.range().end)..]
        );
        let again = Sdp::parse(&edited, span, MAX_MEDIA).expect("what was edited can be read");
        assert_eq!(again.media.len(), sdp.media.len());
        for ((media, before), told) in again.media.iter().zip(&sdp.media).zip(&told) {
            assert_eq!(again.text(media.kind), sdp.text(before.kind));
            assert_eq!(again.codec(media), sdp.codec(before));
            match (told, again.endpoint(media)) {
                (Some(told), Some(endpoint)) => {
                    assert_eq!((endpoint.address, endpoint.port), (told.to.address, told.to.port));
                }
                (Some(_), None) => panic!("a place that was told is not there"),
                (None, _) => assert_eq!(media.port.value, before.port.value),
            }
        }
    }
}
