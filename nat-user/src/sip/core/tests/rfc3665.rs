//! RFC 3665 section 3.2 as its Proxy 2 sees it, over TCP; and messages of which nothing may change but what a proxy must change.

use super::*;
use crate::sip::command::Hop;

const SDP: &str = "v=0\no=alice 2890844526 2890844526 IN IP4 client.atlanta.example.com\ns=-\nc=IN IP4 192.0.2.101\nt=0 0\nm=audio 49172 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n";

const VIAS: &str = "Via: SIP/2.0/TCP ss1.atlanta.example.com:5060;branch=z9hG4bK2d4790.1;received=192.0.2.111
Via: SIP/2.0/TCP client.atlanta.example.com:5060;branch=z9hG4bK74bf9
 ;received=192.0.2.101
";

const PARTIES: &str = "From: Alice <sip:alice@atlanta.example.com>;tag=9fxced76sl
To: Bob <sip:bob@biloxi.example.com>";

const IDS: &str = "Call-ID: 3848276298220188511@atlanta.example.com
CSeq: 2 INVITE
";

/// What we have put into a message, so that the rest can be compared: our Via and our Record-Routes.
fn ours(sent: &Sent) -> (String, Vec<String>) {
    let via = sent.values(HeaderName::Via)[0].to_owned();
    let record = sent.values(HeaderName::RecordRoute).into_iter();
    let record = record.filter(|route| route.contains("134.56.3.1")).map(str::to_owned);
    (via, record.collect())
}

#[test]
fn section_3_2_two_proxies() {
    let mut world = World::new(|_| {});
    let (proxy_1, bob) = (tcp("192.0.2.111:51000", 1), tcp("192.0.2.201:52000", 2));
    world.open(proxy_1);
    world.open(bob);
    let contact = "sip:bob@client.biloxi.example.com;transport=tcp";
    world.register("bob@biloxi.example.com", vec![found(contact, bob, false, 1000)]);
    let invite = |uri: &str, vias: &str, hops: u32, record: &str, more: &str| {
        format!(
            "INVITE {uri} SIP/2.0\n{vias}Max-Forwards: {hops}\n{record}Record-Route: <sip:ss1.atlanta.example.com;lr>\n{PARTIES}\n{IDS}Contact: <sip:alice@client.atlanta.example.com;transport=tcp>\nContent-Type: application/sdp\nContent-Length: 151\n{more}\n{}",
            SDP
        )
    };
    // F5: the length in the RFC is that of lines with CRLF.
    let f5 = invite(
        "sip:bob@biloxi.example.com",
        &VIAS.replace(";received=192.0.2.111", ""),
        69,
        "",
        "",
    );
    assert_eq!(SDP.replace('\n', "\r\n").len(), 151);
    let out = world.receive(proxy_1, &f5);
    // F8.
    assert_eq!(out[0].to, Destination::Flow(proxy_1));
    assert_eq!(
        out[0].text().replace("\r\n", "\n"),
        format!("SIP/2.0 100 Trying\n{VIAS}{PARTIES}\n{IDS}Content-Length: 0\n\n")
    );
    // F7.
    let f7 = &out[1];
    assert_eq!(f7.to, Destination::Flow(bob));
    let (via, record) = ours(f7);
    assert!(via.starts_with("SIP/2.0/TCP 134.56.3.1:5060;branch=z9hG4bK"), "{via}");
    assert_eq!(record.len(), 2, "Bob is reached by his connection");
    let record: String = record.iter().map(|route| format!("Record-Route: {route}\n")).collect();
    let expected = invite(
        contact,
        &format!("Via: {via}\n{VIAS}"),
        68,
        &record,
        "Max-Breadth: 60\n",
    );
    assert_eq!(f7.text().replace("\r\n", "\n"), expected);
    // F9 to F13: nothing but our Via goes.
    for (code, more) in [(180, ""), (200, "Content-Type: application/sdp\n")] {
        let more = format!("Contact: <{contact}>\n{more}");
        let given = reply(f7, code, "314159", &more);
        let out = world.receive(bob, &given);
        assert_eq!(out[0].to, Destination::Flow(proxy_1));
        assert_eq!(
            out[0].text().replace("\r\n", "\n"),
            given.replacen(&format!("Via: {via}\n"), "", 1)
        );
    }
    // F15, F16: the ACK, along the route set of Alice.
    let (ours_reversed, theirs) = (
        ours(f7).1.into_iter().rev().collect::<Vec<_>>().join(", "),
        "<sip:ss1.atlanta.example.com;lr>",
    );
    let ack = format!(
        "ACK {contact} SIP/2.0\n{}Max-Forwards: 69\nRoute: {ours_reversed}\n{PARTIES};tag=314159\n{}Content-Length: 0\n\n",
        VIAS.replace("4790.1;received=192.0.2.111", "4790.2"),
        IDS.replace("2 INVITE", "2 ACK")
    );
    let out = world.receive(proxy_1, &ack);
    assert_eq!((whats(&out), &out[0].to), (vec!["ACK".into()], &Destination::Flow(bob)));
    assert!(out[0].values(HeaderName::Route).is_empty());
    // F18, F19: Bob hangs up; the next router is looked up.
    let bye = format!(
        "BYE sip:alice@client.atlanta.example.com;transport=tcp SIP/2.0\nVia: SIP/2.0/TCP client.biloxi.example.com:5060;branch=z9hG4bKnashds7\nMax-Forwards: 70\nRoute: {}, {theirs}\nFrom: Bob <sip:bob@biloxi.example.com>;tag=314159\nTo: Alice <sip:alice@atlanta.example.com>;tag=9fxced76sl\nCall-ID: 3848276298220188511@atlanta.example.com\nCSeq: 1 BYE\nContent-Length: 0\n\n",
        ours(f7).1.join(", ")
    );
    let (query, _) = world.receive_and_ask(bob, &bye);
    let hops = vec![Hop {
        transport: Transport::Tcp,
        address: addr("192.0.2.111:5060"),
        name: None,
    }];
    let out = sent(world.input(Input::Resolved { query, hops }));
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["BYE".into()], addr("192.0.2.111:5060"))
    );
    assert_eq!(out[0].values(HeaderName::Route), [theirs]);
    assert_eq!(
        out[0].message.request_uri(),
        b"sip:alice@client.atlanta.example.com;transport=tcp"
    );
    let out = world.receive(proxy_1, &reply(&out[0], 200, "", ""));
    assert_eq!((whats(&out), &out[0].to), (vec!["200".into()], &Destination::Flow(bob)));
    assert_eq!(world.core.dialogs().calls(), 0);
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

/// Names in any case and compact, folded lines, lists, unknown methods and headers, bytes that are no UTF-8, a binary body with
/// something behind it: all leaves as it came.
#[test]
fn everything_else_stays_as_it_came() {
    let mut world = World::new(|_| {});
    let phone = udp("134.56.1.1:5070");
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );
    let request = b"NEWMETHOD sip:user@net.com SIP/2.0\r\nt :\t\"J Rosenberg \\\\\\\"\" <sip:user@net.com>\r\nv: SIP / 2.0\r\n / UDP 134.56.9.9:5060 ; branch=z9hG4bK-x, SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8\r\nmAX-fORWARDS: 0068\r\nf: <sip:caller@x>;tag=98asjd8\r\ni: call\r\ncSeQ: 0009\r\n  NEWMETHOD\r\nX-Unknown: \xff\xfe;;,,;;,;\r\nContact:\"Q\"<sip:x@y;a=\"b\">;q=1,\r\n  sip:z@y\r\nl: 5\r\n\r\n\x00\x01\xff\r\nmore";
    let input = Input::Received {
        flow: udp("134.56.9.9:5060"),
        local: addr("134.56.3.1:5060"),
        bytes: Bytes::from_static(request),
    };
    let out = sent(world.input(input));
    assert_eq!((whats(&out), out[0].remote()), (vec!["NEWMETHOD".into()], phone.remote));
    let via = out[0].values(HeaderName::Via)[0].to_owned();
    let replace = |text: Vec<u8>, from: &[u8], to: &[u8]| {
        let at = text.windows(from.len()).position(|window| window == from).unwrap();
        [&text[..at], to, &text[at + from.len()..]].concat()
    };
    let mut expected = request.to_vec();
    expected = replace(expected, b"sip:user@net.com SIP", b"sip:user@192.168.1.10:5060 SIP");
    expected = replace(expected, b"v: SIP", format!("Via: {via}\r\nv: SIP").as_bytes());
    expected = replace(expected, b"0068", b"67");
    expected = replace(expected, b"l: 5\r\n", b"l: 5\r\nMax-Breadth: 60\r\n");
    expected.truncate(expected.len() - 4);
    assert_eq!(
        String::from_utf8_lossy(&out[0].bytes),
        String::from_utf8_lossy(&expected)
    );
    assert_eq!(out[0].bytes, expected);
}
