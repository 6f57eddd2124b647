//! How long it takes to read one message: the bytes of an INVITE to the index of its lines.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use nat_user::sip::message::{Message, check};

use crate::bench::figures::{Bound, Series};
use crate::bench::report::{Report, Table};

/// As a telephone of today sends it, but for Content-Length.
const HEAD: &str = "INVITE sip:bob@biloxi.example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK-524287-1---7f2b7c3ad1a30d1e;rport\r\n\
    Max-Forwards: 70\r\n\
    Contact: <sip:alice@192.168.1.10:5060;rinstance=2a9f7c1f6d3a11e8>\r\n\
    To: \"Bob\" <sip:bob@biloxi.example.com>\r\n\
    From: \"Alice\" <sip:alice@atlanta.example.com>;tag=9fxced76sl\r\n\
    Call-ID: 3848276298220188511@atlanta.example.com\r\n\
    CSeq: 2 INVITE\r\n\
    Allow: INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, MESSAGE, OPTIONS, INFO, SUBSCRIBE\r\n\
    Content-Type: application/sdp\r\n\
    Supported: replaces, norefersub, extended-refer, timer, outbound, path\r\n\
    Session-Expires: 1800\r\n\
    User-Agent: Phone 1.2.3\r\n\
    Allow-Events: hold, talk, conference\r\n";
/// Its body.
const SDP: &str = "v=0\r\no=- 15294 15294 IN IP4 192.168.1.10\r\ns=call\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\n\
    m=audio 8000 RTP/AVP 8 0 18 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:18 G729/8000\r\n\
    a=fmtp:18 annexb=no\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=rtcp:8001\r\na=sendrecv\r\n";

/// Measures it on the calling thread's core.
pub fn measure(wanted: bool, report: &mut Report) -> Result<()> {
    const MESSAGES: u32 = 20_000;
    const ROUNDS: usize = 21;
    let mut parse = Series::default();
    if wanted {
        let bytes = Bytes::from(format!("{HEAD}Content-Length: {}\r\n\r\n{SDP}", SDP.len()));
        let message = Message::parse(bytes.clone()).context("the message of the bench cannot be read")?;
        if let Some(fault) = check::request(&message) {
            anyhow::bail!("the message of the bench is wrong: {}", fault.reason);
        }
        let mut checked = Series::default();
        for _ in 0..ROUNDS {
            parse.push(time(MESSAGES, || Message::parse(black_box(bytes.clone())).is_ok()));
            checked.push(time(MESSAGES, || check::request(black_box(&message)).is_none()));
        }
        let mut table = Table::new(
            "Reading a message",
            &format!(
                "An INVITE of {} bytes with {} header lines and SDP, as it is read when it comes in. The check that it is fit to be \
                 processed comes after that, for requests that are no copies.",
                bytes.len(),
                message.headers().len()
            ),
            &["what", "ns"],
        );
        for (what, series) in [("parse and index", &parse), ("check", &checked)] {
            table.rows.push(vec![what.into(), series.text(1.0, 0)]);
        }
        report.add(table);
    }
    report.target(
        "parse and index of an INVITE with SDP",
        Bound::AtMost(1000.0),
        wanted.then(|| parse.median()),
        " ns",
    );
    Ok(())
}

/// Nanoseconds that one of so many takes.
fn time(count: u32, work: impl Fn() -> bool) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        black_box(work());
    }
    start.elapsed().as_nanos() as f64 / f64::from(count)
}
