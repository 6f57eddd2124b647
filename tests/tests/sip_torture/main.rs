//! The torture messages of RFC 4475 (49) and RFC 5118 (12), each with its outcome: forwarded, with nothing changed but what a proxy must
//! change; answered with this code; or given up, where nobody can be answered.
//!
//! The core is asked without sockets, so that every byte of what it would send is seen.

mod live;
mod outcome;
mod world;

use outcome::Outcome::{self, Answered, Forwarded, Registered, Silent};
use tests::sip::torture::{RFC4475, RFC5118, Torture};
use world::World;

/// What becomes of each message, and why.
#[rustfmt::skip]
const EXPECTED: &[(&str, Outcome, &str)] = &[
    ("wsinv", Forwarded, "every odd but valid form of white space, folding and case"),
    ("intmeth", Forwarded, "an unknown method with all characters of a token"),
    ("esc01", Forwarded, "the escaped user is our user, and what is forwarded is as it came"),
    ("escnull", Registered, "escaped nulls are characters like others"),
    ("esc02", Answered(404), "RE%47IST%45R is a method of its own and no REGISTER; the domain itself is no user"),
    ("lwsdisp", Forwarded, "no space before the bracket"),
    ("longreq", Forwarded, "long is not wrong"),
    ("dblreq", Registered, "what follows the Content-Length in a datagram is not looked at"),
    ("semiuri", Forwarded, "semicolons belong to the user part"),
    ("transports", Forwarded, "unknown transports of others are none of our business"),
    ("mpart01", Forwarded, "a binary body passes as it is"),
    ("unreason", Silent, "a response to nothing that we have sent"),
    ("noreason", Silent, "a response to nothing that we have sent"),
    ("badinv01", Answered(400), "separators with nothing between them"),
    ("clerr", Answered(400), "a datagram that is shorter than it says"),
    ("ncl", Answered(400), "a negative length"),
    ("scalar02", Answered(400), "numbers out of their range"),
    ("scalarlg", Silent, "responses with numbers out of their range are discarded"),
    ("quotbal", Answered(400), "a quote that is never closed"),
    ("ltgtruri", Answered(400), "angle brackets around the request URI"),
    ("lwsruri", Answered(400), "white space in the request URI"),
    ("lwsstart", Answered(400), "several spaces in the request line"),
    ("trws", Answered(400), "white space behind the version"),
    ("escruri", Answered(400), "headers in the request URI"),
    ("baddate", Forwarded, "a proxy has no use for Date, and the RFC would not have it rejected then"),
    ("regbadct", Answered(400), "a question mark in a Contact without brackets"),
    ("badaspec", Forwarded, "spaces inside the brackets, which the RFC lets a liberal element ignore"),
    ("baddn", Answered(400), "unquoted display names with separators"),
    ("badvers", Answered(505), "SIP/7.0"),
    ("mismatch01", Answered(400), "two methods"),
    ("mismatch02", Answered(400), "two methods, one of them unknown"),
    ("bigcode", Silent, "a response with an impossible code is discarded"),
    ("badbranch", Forwarded, "the magic cookie and nothing behind it: matched as RFC 2543 did"),
    ("insuf", Answered(400), "headers are missing that must be there"),
    ("unkscm", Answered(416), "a scheme that nobody knows"),
    ("novelsc", Answered(416), "a scheme that is not SIP's"),
    ("unksm2", Answered(404), "an address of record that is no SIP URI is not registered here"),
    ("bext01", Answered(420), "extensions that a proxy is required to know"),
    ("invut", Forwarded, "a body of an unknown type"),
    ("regaut01", Registered, "an unknown authorization scheme, where none is asked for"),
    ("multi01", Answered(400), "several values where there may be one"),
    ("mcl01", Answered(400), "two lengths"),
    ("bcast", Silent, "a response whose Via is a broadcast address is not ours"),
    ("zeromf", Answered(483), "no hops are left"),
    ("cparam01", Registered, "an unknown parameter of Contact"),
    ("cparam02", Registered, "an unknown parameter of the contact's URI"),
    ("regescrt", Answered(403), "the contact is in a domain that we serve ourselves: requests would come back"),
    ("sdp01", Forwarded, "what the callee can answer with is the callee's business"),
    ("inv2543", Forwarded, "an INVITE of RFC 2543"),
    ("ipv6-good", Forwarded, "a request URI with an IPv6 address"),
    ("ipv6-bad", Answered(400), "an IPv6 address without brackets"),
    ("port-ambiguous", Forwarded, "the port is part of the address, which is valid"),
    ("port-unambiguous", Forwarded, "the port is behind the bracket"),
    ("via-received-param-with-delim", Forwarded, "received with brackets"),
    ("via-received-param-no-delim", Forwarded, "received without brackets"),
    ("ipv6-in-sdp", Answered(400), "the RFC's own Content-Length is greater than the body, however its lines end"),
    ("mult-ip-in-header", Forwarded, "IPv4 and IPv6 in the headers"),
    ("mult-ip-in-sdp", Forwarded, "IPv4 and IPv6 in the body"),
    ("ipv4-mapped-ipv6", Forwarded, "mapped addresses"),
    ("ipv6-bug-abnf-3-colons", Answered(400), "three colons, as a bug in the grammar of RFC 3261 had it"),
    ("ipv6-correct-abnf-2-colons", Forwarded, "two colons, as RFC 5954 corrects it"),
];

#[test]
fn every_message_has_the_outcome_that_the_rfcs_ask_for() {
    let mut wrong = Vec::new();
    for torture in RFC4475.iter().chain(&RFC5118) {
        let got = World::new().feed(&on_the_wire(torture));
        let expected = EXPECTED.iter().find(|(name, ..)| *name == torture.name);
        match (expected, got) {
            (Some((_, expected, _)), Ok(got)) if *expected == got => {}
            (expected, got) => wrong.push(format!(
                "{}: {got:?} instead of {:?}",
                named(torture),
                expected.map(|e| e.1)
            )),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// RFC 5118's archive has its messages with line feeds alone; their lengths count both.
pub fn on_the_wire(torture: &Torture) -> Vec<u8> {
    let bytes = torture.bytes();
    if torture.rfc() == 4475 {
        return bytes;
    }
    let mut wire = Vec::new();
    for (place, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' && (place == 0 || bytes[place - 1] != b'\r') {
            wire.push(b'\r');
        }
        wire.push(*byte);
    }
    // Two of them have lost the empty line behind their headers.
    if !wire.windows(4).any(|four| four == b"\r\n\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

fn named(torture: &Torture) -> String {
    format!("RFC {} §{} {}", torture.rfc(), torture.section, torture.name)
}
