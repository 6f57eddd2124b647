//! The registration flows of RFC 3665 section 2 as text. The RFC numbers each flow from CSeq 1 with the same Call-ID, which RFC 3261
//! section 10.3 would refuse in one run: here they count on.

use super::tests::{Server, settings};
use crate::sip::flow::{ConnectionId, Flow, ListenerId, Transport};

fn bob(cseq: u32, lines: &str) -> String {
    format!(
        "REGISTER sips:ss2.biloxi.example.com SIP/2.0\r\n\
         Via: SIP/2.0/TLS client.biloxi.example.com:5061;branch=z9hG4bKnashds7\r\n\
         Max-Forwards: 70\r\n\
         From: Bob <sips:bob@biloxi.example.com>;tag=a73kszlfl\r\n\
         To: Bob <sips:bob@biloxi.example.com>\r\n\
         Call-ID: 1j9FpLxk3uxtm8tn@biloxi.example.com\r\n\
         CSeq: {cseq} REGISTER\r\n\
         {lines}Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn section_2() {
    let mut server = Server::new(settings());
    server.flow = Flow::stream(
        ListenerId(0),
        Transport::Tls,
        "192.0.2.201:40000".parse().unwrap(),
        ConnectionId(1),
    );
    server.user = Some("bob");
    // 2.1 (F1 and F2, the challenge, are tested with the digest).
    let f4 = server.send(&bob(2, "Contact: <sips:bob@client.biloxi.example.com>\r\n"));
    assert_eq!(
        (f4.code, f4.contacts()),
        (200, vec!["<sips:bob@client.biloxi.example.com>;expires=3600"])
    );
    // 2.2. The RFC's server grants this contact for ever; ours grants what it grants to all.
    let update = server.send(&bob(3, "Contact: mailto:bob@biloxi.example.com\r\n"));
    let both = [
        "<sips:bob@client.biloxi.example.com>;expires=3600",
        "<mailto:bob@biloxi.example.com>;expires=3600",
    ];
    assert_eq!((update.code, update.contacts()), (200, both.to_vec()));
    assert_eq!(server.paths.len(), 1, "mail takes no path");
    // 2.3
    let query = server.send(&bob(4, ""));
    assert_eq!((query.code, query.contacts()), (200, both.to_vec()));
    // 2.4
    let cancel = server.send(&bob(5, "Expires: 0\r\nContact: *\r\n"));
    assert_eq!((cancel.code, cancel.contacts().len()), (200, 0));
    assert!(server.location.is_empty() && server.paths.is_empty());
}
