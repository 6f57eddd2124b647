//! The torture messages of RFC 4475 (49) and RFC 5118 (12), each with its outcome: forwarded, with nothing changed but what a proxy must
//! change; answered with this code; or given up, where nobody can be answered.
//!
//! The core is asked without sockets, so that every byte of what it would send is seen.

mod live;
mod outcome;
mod world;

use outcome::Outcome;
use tests::sip::torture::{RFC4475, RFC5118, Torture};
use world::World;

/// A test for each message: what becomes of it, and why.
macro_rules! messages {
    ($($rfc:ident { $($test:ident = ($name:literal, $outcome:expr, $why:literal),)* })*) => {
        $(mod $rfc {
            #[allow(unused_imports, reason = "not every RFC has every outcome")]
            use crate::{Outcome::{Answered, Forwarded, Registered, Silent}, becomes};

            $(#[test]
            fn $test() {
                becomes($name, $outcome, $why);
            })*
        })*

        /// The tests and the messages that they are about.
        const TESTS: &[(&str, &str)] = &[$($((stringify!($test), $name),)*)*];
    };
}

#[rustfmt::skip]
messages! {
    rfc4475 {
        sec_3_1_1_1_wsinv = ("wsinv", Forwarded, "every odd but valid form of white space, folding and case"),
        sec_3_1_1_2_intmeth = ("intmeth", Forwarded, "an unknown method with all characters of a token"),
        sec_3_1_1_3_esc01 = ("esc01", Forwarded, "the escaped user is our user, and what is forwarded is as it came"),
        sec_3_1_1_4_escnull = ("escnull", Registered, "escaped nulls are characters like others"),
        sec_3_1_1_5_esc02 = ("esc02", Answered(404), "RE%47IST%45R is a method of its own and no REGISTER; the domain itself is no user"),
        sec_3_1_1_6_lwsdisp = ("lwsdisp", Forwarded, "no space before the bracket"),
        sec_3_1_1_7_longreq = ("longreq", Forwarded, "long is not wrong"),
        sec_3_1_1_8_dblreq = ("dblreq", Registered, "what follows the Content-Length in a datagram is not looked at"),
        sec_3_1_1_9_semiuri = ("semiuri", Forwarded, "semicolons belong to the user part"),
        sec_3_1_1_10_transports = ("transports", Forwarded, "unknown transports of others are none of our business"),
        sec_3_1_1_11_mpart01 = ("mpart01", Forwarded, "a binary body passes as it is"),
        sec_3_1_1_12_unreason = ("unreason", Silent, "a response to nothing that we have sent"),
        sec_3_1_1_13_noreason = ("noreason", Silent, "a response to nothing that we have sent"),
        sec_3_1_2_1_badinv01 = ("badinv01", Answered(400), "separators with nothing between them"),
        sec_3_1_2_2_clerr = ("clerr", Answered(400), "a datagram that is shorter than it says"),
        sec_3_1_2_3_ncl = ("ncl", Answered(400), "a negative length"),
        sec_3_1_2_4_scalar02 = ("scalar02", Answered(400), "numbers out of their range"),
        sec_3_1_2_5_scalarlg = ("scalarlg", Silent, "responses with numbers out of their range are discarded"),
        sec_3_1_2_6_quotbal = ("quotbal", Answered(400), "a quote that is never closed"),
        sec_3_1_2_7_ltgtruri = ("ltgtruri", Answered(400), "angle brackets around the request URI"),
        sec_3_1_2_8_lwsruri = ("lwsruri", Answered(400), "white space in the request URI"),
        sec_3_1_2_9_lwsstart = ("lwsstart", Answered(400), "several spaces in the request line"),
        sec_3_1_2_10_trws = ("trws", Answered(400), "white space behind the version"),
        sec_3_1_2_11_escruri = ("escruri", Answered(400), "headers in the request URI"),
        sec_3_1_2_12_baddate = ("baddate", Forwarded, "a proxy has no use for Date, and the RFC would not have it rejected then"),
        sec_3_1_2_13_regbadct = ("regbadct", Answered(400), "a question mark in a Contact without brackets"),
        sec_3_1_2_14_badaspec = ("badaspec", Forwarded, "spaces inside the brackets, which the RFC lets a liberal element ignore"),
        sec_3_1_2_15_baddn = ("baddn", Answered(400), "unquoted display names with separators"),
        sec_3_1_2_16_badvers = ("badvers", Answered(505), "SIP/7.0"),
        sec_3_1_2_17_mismatch01 = ("mismatch01", Answered(400), "two methods"),
        sec_3_1_2_18_mismatch02 = ("mismatch02", Answered(400), "two methods, one of them unknown"),
        sec_3_1_2_19_bigcode = ("bigcode", Silent, "a response with an impossible code is discarded"),
        sec_3_2_1_badbranch = ("badbranch", Forwarded, "the magic cookie and nothing behind it: matched as RFC 2543 did"),
        sec_3_3_1_insuf = ("insuf", Answered(400), "headers are missing that must be there"),
        sec_3_3_2_unkscm = ("unkscm", Answered(416), "a scheme that nobody knows"),
        sec_3_3_3_novelsc = ("novelsc", Answered(416), "a scheme that is not SIP's"),
        sec_3_3_4_unksm2 = ("unksm2", Answered(404), "an address of record that is no SIP URI is not registered here"),
        sec_3_3_5_bext01 = ("bext01", Answered(420), "extensions that a proxy is required to know"),
        sec_3_3_6_invut = ("invut", Forwarded, "a body of an unknown type"),
        sec_3_3_7_regaut01 = ("regaut01", Registered, "an unknown authorization scheme, where none is asked for"),
        sec_3_3_8_multi01 = ("multi01", Answered(400), "several values where there may be one"),
        sec_3_3_9_mcl01 = ("mcl01", Answered(400), "two lengths"),
        sec_3_3_10_bcast = ("bcast", Silent, "a response whose Via is a broadcast address is not ours"),
        sec_3_3_11_zeromf = ("zeromf", Answered(483), "no hops are left"),
        sec_3_3_12_cparam01 = ("cparam01", Registered, "an unknown parameter of Contact"),
        sec_3_3_13_cparam02 = ("cparam02", Registered, "an unknown parameter of the contact's URI"),
        sec_3_3_14_regescrt = ("regescrt", Answered(403), "the contact is in a domain that we serve ourselves: requests would come back"),
        sec_3_3_15_sdp01 = ("sdp01", Forwarded, "what the callee can answer with is the callee's business"),
        sec_3_4_1_inv2543 = ("inv2543", Forwarded, "an INVITE of RFC 2543"),
    }
    rfc5118 {
        sec_4_1_ipv6_good = ("ipv6-good", Forwarded, "a request URI with an IPv6 address"),
        sec_4_2_ipv6_bad = ("ipv6-bad", Answered(400), "an IPv6 address without brackets"),
        sec_4_3_port_ambiguous = ("port-ambiguous", Forwarded, "the port is part of the address, which is valid"),
        sec_4_4_port_unambiguous = ("port-unambiguous", Forwarded, "the port is behind the bracket"),
        sec_4_5_via_received_param_with_delim = ("via-received-param-with-delim", Forwarded, "received with brackets"),
        sec_4_5_via_received_param_no_delim = ("via-received-param-no-delim", Forwarded, "received without brackets"),
        sec_4_6_ipv6_in_sdp = ("ipv6-in-sdp", Answered(400), "the RFC's own Content-Length is greater than the body, however its lines end"),
        sec_4_7_mult_ip_in_header = ("mult-ip-in-header", Forwarded, "IPv4 and IPv6 in the headers"),
        sec_4_8_mult_ip_in_sdp = ("mult-ip-in-sdp", Forwarded, "IPv4 and IPv6 in the body"),
        sec_4_9_ipv4_mapped_ipv6 = ("ipv4-mapped-ipv6", Forwarded, "mapped addresses"),
        sec_4_10_ipv6_bug_abnf_3_colons = ("ipv6-bug-abnf-3-colons", Answered(400), "three colons, as a bug in the grammar of RFC 3261 had it"),
        sec_4_10_ipv6_correct_abnf_2_colons = ("ipv6-correct-abnf-2-colons", Forwarded, "two colons, as RFC 5954 corrects it"),
    }
}

fn all() -> impl Iterator<Item = &'static Torture> {
    RFC4475.iter().chain(&RFC5118)
}

/// Feeds a message to a new core.
fn becomes(name: &str, expected: Outcome, why: &str) {
    let torture = all()
        .find(|torture| torture.name == name)
        .expect("a message of this name");
    let got = World::new().feed(&on_the_wire(torture));
    assert_eq!(got, Ok(expected), "{why}");
}

#[test]
fn every_message_has_its_test() {
    let named = |torture: &Torture| {
        let (section, name) = (torture.section.replace('.', "_"), torture.name.replace('-', "_"));
        (format!("sec_{section}_{name}"), torture.name)
    };
    let expected: Vec<(String, &str)> = all().map(named).collect();
    let tests: Vec<(String, &str)> = TESTS.iter().map(|(test, name)| (test.to_string(), *name)).collect();
    assert_eq!(tests, expected);
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
