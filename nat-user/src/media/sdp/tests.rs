use bytes::Bytes;
use proptest::prelude::*;

use super::{
    body::Body,
    edit::{IceMode, Told, rewrite},
    *,
};
use crate::sip::message::{Edits, Message};

const OFFER: &str = "v=0\r\n\
    o=alice 2890844526 2890844526 IN IP4 192.168.1.10\r\n\
    s=-\r\n\
    c=IN IP4 192.168.1.10\r\n\
    t=0 0\r\n\
    m=audio 49170 RTP/AVP 8 97\r\n\
    i=voice\r\n\
    a=rtpmap:97 opus/48000/2\r\n\
    a=sendrecv\r\n\
    m=video 51372 RTP/AVPF 99\r\n\
    a=rtpmap:99 h263-1998/90000\r\n\
    a=rtcp:53020 IN IP4 192.168.1.11\r\n";

fn all(text: &str) -> Span {
    Span {
        start: 0,
        end: text.len() as u32,
    }
}

fn read(text: &str) -> Sdp<'_> {
    Sdp::parse(text.as_bytes(), all(text), 16).unwrap()
}

fn told(port: u16) -> Option<Told> {
    told_rtcp(port, Some(port + 1))
}

fn told_rtcp(port: u16, rtcp: Option<u16>) -> Option<Told> {
    let to = endpoint([203, 0, 113, 1], port, rtcp);
    Some(Told { to, receiver: None })
}

fn endpoint(address: [u8; 4], port: u16, rtcp: Option<u16>) -> Endpoint {
    Endpoint {
        address: address.into(),
        port,
        rtcp,
    }
}

fn edited(text: &str, told: &[Option<Told>], ice: IceMode) -> String {
    let mut edits = Edits::new();
    rewrite(&read(text), told, ice, &mut edits);
    let bytes = edits.apply_to(&Bytes::copy_from_slice(text.as_bytes()));
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_description_is_read() {
    let sdp = read(OFFER);
    let [audio, video] = &sdp.media[..] else { panic!() };
    assert_eq!(
        (sdp.text(audio.kind), audio.proto),
        (&b"audio"[..], Proto::Rtp { dtls: false })
    );
    let at = |port, rtcp| Some(endpoint([192, 168, 1, 10], port, rtcp));
    assert_eq!(sdp.endpoint(audio), at(49170, Some(49171)));
    assert_eq!(sdp.endpoint(video), at(51372, None), "its RTCP is elsewhere");
    let rtcp = OFFER.replace("53020 IN IP4 192.168.1.11", "53020");
    let sdp_rtcp = read(&rtcp);
    assert_eq!(sdp_rtcp.endpoint(&sdp_rtcp.media[1]), at(51372, Some(53020)));
    assert_eq!(sdp.codec(audio), (&b"PCMA"[..], 8000));
    assert_eq!(sdp.codec(video), (&b"h263-1998"[..], 90_000));
    assert!(!sdp.held(audio) && !sdp.ice(audio) && !sdp.dtls(audio) && sdp.tagged(0).is_none());
}

#[test]
fn only_addresses_and_ports_change() {
    let expected = OFFER
        .replace("c=IN IP4 192.168.1.10", "c=IN IP4 203.0.113.1")
        .replace("audio 49170", "audio 20000")
        .replace("video 51372", "video 20002")
        .replace("rtcp:53020 IN IP4 192.168.1.11", "rtcp:20003 IN IP4 203.0.113.1");
    assert_eq!(edited(OFFER, &[told(20000), told(20002)], IceMode::Replace), expected);
    // With LF alone as well, and without the last line end.
    let (lf, expected) = (OFFER.replace("\r\n", "\n"), expected.replace("\r\n", "\n"));
    assert_eq!(edited(&lf, &[told(20000), told(20002)], IceMode::Replace), expected);
    let (lf, expected) = (lf.trim_end(), expected.trim_end());
    assert_eq!(edited(lf, &[told(20000), told(20002)], IceMode::Replace), expected);
    assert_eq!(edited(OFFER, &[None, None], IceMode::Remove), OFFER);
}

#[test]
fn a_stream_that_is_left_alone_keeps_the_address_of_the_session() {
    let expected = OFFER
        .replace("audio 49170", "audio 20000")
        .replace("i=voice\r\n", "i=voice\r\nc=IN IP4 203.0.113.1\r\n");
    assert_eq!(edited(OFFER, &[told(20000), None], IceMode::Replace), expected);
    // A stream that is refused is no reason.
    let refused = OFFER.replace("video 51372", "video 0");
    let expected = refused
        .replace("c=IN IP4 192.168.1.10", "c=IN IP4 203.0.113.1")
        .replace("audio 49170", "audio 20000");
    assert_eq!(edited(&refused, &[told(20000), None], IceMode::Replace), expected);
    // At the end, without a line end.
    let short = "v=0\nc=IN IP4 10.0.0.1\nm=audio 4 RTP/AVP 0\nm=audio 6 RTP/AVP 0";
    let expected = "v=0\nc=IN IP4 10.0.0.1\nm=audio 4 RTP/AVP 0\nm=audio 8 RTP/AVP 0\nc=IN IP4 203.0.113.1";
    assert_eq!(edited(short, &[None, told(8)], IceMode::Replace), expected);
}

#[test]
fn hold_in_both_styles() {
    let old = OFFER.replace("c=IN IP4 192.168.1.10", "c=IN IP4 0.0.0.0");
    let sdp = read(&old);
    assert!(sdp.held(&sdp.media[0]));
    let expected = old
        .replace("audio 49170", "audio 20000")
        .replace("video 51372", "video 20002")
        .replace("rtcp:53020 IN IP4 192.168.1.11", "rtcp:20003 IN IP4 203.0.113.1");
    assert_eq!(
        edited(&old, &[told(20000), told(20002)], IceMode::Replace),
        expected,
        "0.0.0.0 says that nothing shall come, so it stays"
    );
    for (attribute, direction) in [
        ("sendonly", Direction::SendOnly),
        ("recvonly", Direction::RecvOnly),
        ("inactive", Direction::Inactive),
    ] {
        let new = OFFER.replace("a=sendrecv", &format!("a={attribute}"));
        let sdp = read(&new);
        assert_eq!(sdp.direction(&sdp.media[0]), direction);
        assert!(sdp.held(&sdp.media[0]) && !sdp.held(&sdp.media[1]));
        // The session's direction is that of streams that have none of their own.
        let session = OFFER.replace("t=0 0", &format!("t=0 0\r\na={attribute}"));
        let sdp = read(&session);
        assert!(!sdp.held(&sdp.media[0]) && sdp.held(&sdp.media[1]));
    }
}

#[test]
fn rtcp_has_a_place_of_its_own_or_the_next_port() {
    let text = "v=0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 10.0.0.1\r\n";
    let apart = told_rtcp(20000, Some(30001));
    let expected = "v=0\r\nm=audio 20000 RTP/AVP 0\r\nc=IN IP4 203.0.113.1\r\na=rtcp:30001\r\n";
    assert_eq!(edited(text, &[apart], IceMode::Replace), expected);
    let muxed = "v=0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 10.0.0.1\r\na=rtcp:4000\r\na=rtcp-mux\r\n";
    assert!(read(muxed).media[0].rtcp_mux);
    let expected = "v=0\r\nm=audio 20000 RTP/AVP 0\r\nc=IN IP4 203.0.113.1\r\na=rtcp:20000\r\na=rtcp-mux\r\n";
    assert_eq!(edited(muxed, &[told(20000)], IceMode::Replace), expected);
}

const ICE: &str = "v=0\r\n\
    c=IN IP4 198.51.100.7\r\n\
    a=ice-lite\r\n\
    a=group:BUNDLE 0 1\r\n\
    m=audio 4000 UDP/TLS/RTP/SAVPF 111\r\n\
    a=mid:0\r\n\
    a=ice-ufrag:abcd\r\n\
    a=ice-pwd:0123456789012345678901\r\n\
    a=candidate:1 1 UDP 2130706431 192.168.1.10 4000 typ host\r\n\
    a=candidate:1 2 UDP 2130706430 192.168.1.10 4001 typ host\r\n\
    a=candidate:2 1 UDP 1694498815 198.51.100.7 4000 typ srflx raddr 192.168.1.10 rport 4000\r\n\
    a=remote-candidates:1 203.0.113.1 30000 2 203.0.113.1 30001\r\n\
    a=fingerprint:sha-256 00\r\n\
    m=video 0 UDP/TLS/RTP/SAVPF 96\r\n\
    a=mid:1\r\n\
    a=bundle-only\r\n";

#[test]
fn candidates_are_replaced_or_removed_all_together() {
    let sdp = read(ICE);
    assert_eq!((sdp.tagged(0), sdp.tagged(1)), (Some(0), Some(0)));
    assert!(sdp.ice(&sdp.media[0]) && sdp.dtls(&sdp.media[0]));
    let ours = Some(Told {
        receiver: Some(endpoint([10, 1, 1, 1], 7000, None)),
        ..told(20000).unwrap()
    });
    let replaced = edited(ICE, &[ours, None], IceMode::Replace);
    let expected = ICE
        .replace("c=IN IP4 198.51.100.7", "c=IN IP4 203.0.113.1")
        .replace("audio 4000", "audio 20000")
        .replace("431 192.168.1.10 4000", "431 203.0.113.1 20000")
        .replace("430 192.168.1.10 4001", "430 203.0.113.1 20001")
        .replace(
            "a=candidate:2 1 UDP 1694498815 198.51.100.7 4000 typ srflx raddr 192.168.1.10 rport 4000\r\n",
            "",
        )
        .replace("1 203.0.113.1 30000 2 203.0.113.1 30001", "1 10.1.1.1 7000");
    assert_eq!(replaced, expected);
    let removed = edited(ICE, &[told(20000), None], IceMode::Remove);
    assert!(
        !removed.contains("a=ice") && !removed.contains("candidate"),
        "{removed}"
    );
    assert!(removed.contains("a=mid:0\r\na=fingerprint:sha-256 00\r\n"), "{removed}");
    // A description without a candidate yet (RFC 8838) gets ours.
    let trickle = "v=0\r\nc=IN IP4 0.0.0.0\r\nm=audio 9 RTP/SAVPF 0\r\na=ice-ufrag:x\r\n";
    assert!(!read(trickle).held(&read(trickle).media[0]));
    let expected = "v=0\r\nc=IN IP4 203.0.113.1\r\nm=audio 20000 RTP/SAVPF 0\r\na=ice-ufrag:x\r\n\
        a=candidate:1 1 UDP 2130706431 203.0.113.1 20000 typ host\r\n";
    assert_eq!(edited(trickle, &[told(20000)], IceMode::Replace), expected);
}

#[test]
fn other_media() {
    for (proto, expected) in [
        ("RTP/SAVP", Proto::Rtp { dtls: false }),
        ("UDP/TLS/RTP/SAVP", Proto::Rtp { dtls: true }),
        ("udptl", Proto::Udp { dtls: false }),
        ("udp", Proto::Udp { dtls: false }),
        ("UDP/DTLS/SCTP", Proto::Udp { dtls: true }),
        ("UDP/TLS/UDPTL", Proto::Udp { dtls: true }),
        ("UDP/BFCP", Proto::Udp { dtls: false }),
        ("TCP/MSRP", Proto::Tcp),
        ("TCP/RTP/AVP", Proto::Tcp),
        ("TCP/DTLS/SCTP", Proto::Tcp),
        ("tcp", Proto::Tcp),
        ("H323", Proto::Other),
        ("RTPX", Proto::Other),
    ] {
        let text = format!("v=0\nc=IN IP4 10.0.0.1\nm=x 4 {proto} 0\n");
        assert_eq!(read(&text).media[0].proto, expected, "{proto}");
    }
    let msrp = "v=0\r\nc=IN IP4 192.168.1.10\r\nm=message 7654 TCP/MSRP *\r\na=setup:active\r\n\
        a=path:msrp://192.168.1.10:7654/jshA7weztas;tcp\r\n";
    assert!(read(msrp).media[0].active);
    let ours = told_rtcp(20000, None);
    let expected = msrp.replace("192.168.1.10", "203.0.113.1").replace("7654", "20000");
    assert_eq!(edited(msrp, &[ours], IceMode::Replace), expected);
}

#[test]
fn addresses_of_all_kinds() {
    let of = |line: &str| {
        let text = format!("v=0\n{line}\nm=audio 4 RTP/AVP 0\n");
        let sdp = Sdp::parse(text.as_bytes(), all(&text), 1);
        sdp.map(|sdp| sdp.session.connection.map(|connection| connection.address))
    };
    assert_eq!(
        of("c=IN IP4 224.2.1.1/127/3"),
        Ok(Some(Address::V4([224, 2, 1, 1].into())))
    );
    assert_eq!(of("c=in  ip4\t10.0.0.1 "), Ok(Some(Address::V4([10, 0, 0, 1].into()))));
    assert_eq!(of("c=IN IP6 2001:db8::1"), Ok(Some(Address::V6)));
    assert_eq!(of("c=IN IP4 phone.example.com"), Ok(Some(Address::Name)));
    assert_eq!(of("b=AS:64"), Ok(None));
    for broken in ["c=", "c=IN", "c=IN IP4", "c=IN IP4 /127", "c=IN IP5 x", "c=ATM NSAP 1"] {
        assert_eq!(of(broken), Err(Unreadable::Connection), "{broken}");
    }
}

#[test]
fn what_cannot_be_read() {
    let parse = |text: &str| Sdp::parse(text.as_bytes(), all(text), 2).map(|sdp| sdp.media.len());
    assert_eq!(parse(""), Err(Unreadable::NotSdp));
    assert_eq!(parse("INVITE\n"), Err(Unreadable::NotSdp));
    assert_eq!(parse("v=1\n"), Err(Unreadable::NotSdp));
    assert_eq!(parse("v=0\nnonsense\n=\n\na\n"), Ok(0));
    for broken in [
        "m=",
        "m=audio",
        "m=audio x RTP/AVP 0",
        "m=audio 4",
        "m=audio 65536 RTP/AVP 0",
        "m=audio 4/0 RTP/AVP 0",
    ] {
        assert_eq!(parse(&format!("v=0\n{broken}\n")), Err(Unreadable::Media), "{broken}");
    }
    let port = read("v=0\nm=video 49170/2 RTP/AVP 31\n").media[0].port;
    assert_eq!((port.value, port.count), (49170, 2));
    assert_eq!(
        parse("v=0\nm=a 1 x 0\nm=a 1 x 0\nm=a 1 x 0\n"),
        Err(Unreadable::TooManyMedia)
    );
    assert_eq!(
        parse(&format!("v=0\na={}\n", "x".repeat(MAX_SIZE))),
        Err(Unreadable::TooLong)
    );
}

fn body(headers: &str, body: &str) -> (Body, Message) {
    let text = format!("INVITE sip:x SIP/2.0\r\n{headers}\r\n{body}");
    let message = Message::parse(Bytes::from(text)).unwrap();
    (body::find(&message), message)
}

#[test]
fn descriptions_are_found_in_bodies() {
    let found = |headers: &str, text: &str| match body(headers, text) {
        (Body::Sdp(span), message) => Some(String::from_utf8_lossy(message.text(span)).into_owned()),
        _ => None,
    };
    assert_eq!(
        found("Content-Type: application/sdp\r\n", "v=0\r\n").as_deref(),
        Some("v=0\r\n")
    );
    assert_eq!(
        found("c: Application/SDP;charset=x\r\nl: 4\r\n", "v=0\ngarbage").as_deref(),
        Some("v=0\n")
    );
    assert_eq!(found("", "v=0\r\n"), None);
    assert_eq!(found("c: application/sdp\r\nl: 0\r\n", ""), None);
    assert_eq!(
        found(
            "c: application/sdp\r\nContent-Disposition: early-session\r\n",
            "v=0\r\n"
        ),
        None
    );
    assert_eq!(body("c: application/sdp\r\ne: gzip\r\n", "\x1f").0, Body::Encoded);
    let parts = "preamble\r\n--b 1\r\nContent-Type: application/isup\r\n\r\n\x01\r\n--b 12\r\n\r\n--b 1\r\ncontent-type:application/sdp\r\n\
        Content-Disposition: session;handling=required\r\n\r\nv=0\r\ns=-\r\n\r\n--b 1--\r\n--b 1\r\n\r\n";
    let mixed = "Content-Type: multipart/mixed;boundary=\"b 1\"\r\n";
    assert_eq!(found(mixed, parts).as_deref(), Some("v=0\r\ns=-\r\n"));
    let nested = format!("--o\r\n{mixed}\r\n{parts}\r\n--o--\r\n");
    assert_eq!(
        found("c: multipart/related;boundary=o\r\n", &nested).as_deref(),
        Some("v=0\r\ns=-\r\n")
    );
    assert_eq!(found("c: multipart/mixed\r\n", parts), None, "no boundary");
    assert_eq!(found("c: multipart/mixed;boundary=other\r\n", parts), None);
}

#[test]
fn places_are_those_of_the_message() {
    let (found, message) = body("c: application/sdp\r\nX: y\r\n", OFFER);
    let Body::Sdp(span) = found else { panic!() };
    let sdp = Sdp::parse(message.bytes(), span, 16).unwrap();
    let mut edits = Edits::new();
    rewrite(&sdp, &[told(20000), told(20002)], IceMode::Replace, &mut edits);
    let edited = edits.apply(&message);
    assert!(edited.starts_with(b"INVITE sip:x SIP/2.0\r\nc: application/sdp\r\nX: y\r\n\r\nv=0\r\no=alice"));
    let grown = edits.growth(message.body_start());
    assert_eq!(grown, edited.len() as i64 - message.bytes().len() as i64);
    assert!(grown != 0);
}

fn some_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[vosctmabi]=[ -~]{0,20}",
        Just("v=0".into()),
        (0..70_000u32, "(RTP/AVP|TCP|udptl|UDP/TLS/RTP/SAVPF)")
            .prop_map(|(port, proto)| format!("m=audio {port} {proto} 0")),
        "c=IN IP[46] (0\\.0\\.0\\.0|10\\.0\\.0\\.1|::1|host)",
        "a=(rtcp:[0-9]{1,5}( IN IP4 10.0.0.2)?|rtcp-mux|sendonly|inactive|mid:[01]|group:BUNDLE 0 1)",
        "a=(candidate:1 [12] UDP 1 10.0.0.1 4 typ host|ice-ufrag:x|remote-candidates:1 1.1.1.1 1|end-of-candidates)",
        "[ -~\u{1}\u{e4}]{0,12}",
    ]
}

proptest! {
    /// Whatever it is: it is read or refused without a panic, and without edits it leaves as it came.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let span = Span { start: 0, end: bytes.len() as u32 };
        if let Ok(sdp) = Sdp::parse(&bytes, span, 8) {
            let mut edits = Edits::new();
            rewrite(&sdp, &[None; 8], IceMode::Remove, &mut edits);
            prop_assert_eq!(&edits.apply_to(&Bytes::from(bytes.clone()))[..], &bytes[..]);
        }
    }

    /// What is left of a description when every place that may change is taken out is the same before and after.
    #[test]
    fn an_edit_changes_only_its_places(
        lines in prop::collection::vec((some_line(), any::<bool>()), 0..24),
        ours in prop::collection::vec(any::<bool>(), 8),
        ice in prop_oneof![Just(IceMode::Replace), Just(IceMode::Remove)],
    ) {
        let mut text = String::from("v=0\r\nc=IN IP4 10.0.0.9\r\n");
        for (line, crlf) in lines {
            text.push_str(&line);
            text.push_str(if crlf { "\r\n" } else { "\n" });
        }
        let Ok(sdp) = Sdp::parse(text.as_bytes(), all(&text), 8) else { return Ok(()) };
        let told: Vec<_> = sdp.media.iter().zip(ours).map(|(media, ours)| {
            told(20000).filter(|_| ours && media.port.value != 0 && sdp.endpoint(media).is_some())
        }).collect();
        let mut edits = Edits::new();
        rewrite(&sdp, &told, ice, &mut edits);
        let after = edits.apply_to(&Bytes::from(text.clone()));
        let after = String::from_utf8(after.to_vec()).unwrap();
        let Ok(again) = Sdp::parse(after.as_bytes(), all(&after), 8) else { panic!("{after}") };
        prop_assert_eq!(again.media.len(), sdp.media.len());
        for (place, told) in told.iter().enumerate() {
            let (before, now) = (&sdp.media[place], &again.media[place]);
            let endpoint = again.endpoint(now);
            let at = |endpoint: Option<Endpoint>| endpoint.map(|it| (it.address, it.port));
            match (told, sdp.endpoint(before)) {
                (Some(told), Some(was)) if !was.address.is_unspecified() => {
                    prop_assert_eq!(at(endpoint), at(Some(told.to)), "{}", after);
                }
                (None, was) if before.port.value != 0 => prop_assert_eq!(endpoint, was, "{}", after),
                _ => {}
            }
            prop_assert_eq!(sdp.text(before.kind), again.text(now.kind));
            prop_assert_eq!(sdp.text(before.format), again.text(now.format));
        }
        prop_assert_eq!(untouched(&text), untouched(&after));
    }
}

/// The lines that no edit is concerned with.
fn untouched(text: &str) -> Vec<&str> {
    let ours = [
        "m=",
        "c=",
        "a=rtcp:",
        "a=candidate",
        "a=ice-",
        "a=remote-candidates",
        "a=end-of-candidates",
    ];
    text.split_inclusive('\n')
        .filter(|line| !ours.iter().any(|start| line.starts_with(start)))
        .collect()
}
