//! The torture test messages of RFC 4475 and RFC 5118, bit-exact as the archives in their appendices have them.
//!
//! `cargo run -p tests --example torture -- DIRECTORY` extracts them from the texts of the RFCs in that directory into
//! `tests/fixtures/torture`; a test compares the fixtures with the texts where the texts are at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;

/// What a message is meant to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is well-formed, however odd it looks.
    Valid,
    /// It breaks the grammar.
    Invalid,
    /// It can be read, and what it says is wrong, unknown or old.
    Meaning,
}

/// One of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torture {
    /// The name that the RFC gives it.
    pub name: &'static str,
    /// The section that describes it.
    pub section: &'static str,
    /// What it is meant to show.
    pub kind: Kind,
    /// The title of the section.
    pub title: &'static str,
}

use Kind::{Invalid, Meaning, Valid};

/// The 49 messages of RFC 4475, in its order.
#[rustfmt::skip]
pub const RFC4475: [Torture; 49] = [
    known("wsinv", "3.1.1.1", Valid, "A Short Tortuous INVITE"),
    known("intmeth", "3.1.1.2", Valid, "Wide Range of Valid Characters"),
    known("esc01", "3.1.1.3", Valid, "Valid Use of the % Escaping Mechanism"),
    known("escnull", "3.1.1.4", Valid, "Escaped Nulls in URIs"),
    known("esc02", "3.1.1.5", Valid, "Use of % When It Is Not an Escape"),
    known("lwsdisp", "3.1.1.6", Valid, "Message with No LWS between Display Name and <"),
    known("longreq", "3.1.1.7", Valid, "Long Values in Header Fields"),
    known("dblreq", "3.1.1.8", Valid, "Extra Trailing Octets in a UDP Datagram"),
    known("semiuri", "3.1.1.9", Valid, "Semicolon-Separated Parameters in URI User Part"),
    known("transports", "3.1.1.10", Valid, "Varied and Unknown Transport Types"),
    known("mpart01", "3.1.1.11", Valid, "Multipart MIME Message"),
    known("unreason", "3.1.1.12", Valid, "Unusual Reason Phrase"),
    known("noreason", "3.1.1.13", Valid, "Empty Reason Phrase"),
    known("badinv01", "3.1.2.1", Invalid, "Extraneous Header Field Separators"),
    known("clerr", "3.1.2.2", Invalid, "Content Length Larger Than Message"),
    known("ncl", "3.1.2.3", Invalid, "Negative Content-Length"),
    known("scalar02", "3.1.2.4", Invalid, "Request Scalar Fields with Overlarge Values"),
    known("scalarlg", "3.1.2.5", Invalid, "Response Scalar Fields with Overlarge Values"),
    known("quotbal", "3.1.2.6", Invalid, "Unterminated Quoted String in Display Name"),
    known("ltgtruri", "3.1.2.7", Invalid, "<> Enclosing Request-URI"),
    known("lwsruri", "3.1.2.8", Invalid, "Malformed SIP Request-URI (embedded LWS)"),
    known("lwsstart", "3.1.2.9", Invalid, "Multiple SP Separating Request-Line Elements"),
    known("trws", "3.1.2.10", Invalid, "SP Characters at End of Request-Line"),
    known("escruri", "3.1.2.11", Invalid, "Escaped Headers in SIP Request-URI"),
    known("baddate", "3.1.2.12", Invalid, "Invalid Time Zone in Date Header Field"),
    known("regbadct", "3.1.2.13", Invalid, "Failure to Enclose name-addr URI in <>"),
    known("badaspec", "3.1.2.14", Invalid, "Spaces within addr-spec"),
    known("baddn", "3.1.2.15", Invalid, "Non-token Characters in Display Name"),
    known("badvers", "3.1.2.16", Invalid, "Unknown Protocol Version"),
    known("mismatch01", "3.1.2.17", Invalid, "Start Line and CSeq Method Mismatch"),
    known("mismatch02", "3.1.2.18", Invalid, "Unknown Method with CSeq Method Mismatch"),
    known("bigcode", "3.1.2.19", Invalid, "Overlarge Response Code"),
    known("badbranch", "3.2.1", Meaning, "Missing Transaction Identifier"),
    known("insuf", "3.3.1", Meaning, "Missing Required Header Fields"),
    known("unkscm", "3.3.2", Meaning, "Request-URI with Unknown Scheme"),
    known("novelsc", "3.3.3", Meaning, "Request-URI with Known but Atypical Scheme"),
    known("unksm2", "3.3.4", Meaning, "Unknown URI Schemes in Header Fields"),
    known("bext01", "3.3.5", Meaning, "Proxy-Require and Require"),
    known("invut", "3.3.6", Meaning, "Unknown Content-Type"),
    known("regaut01", "3.3.7", Meaning, "Unknown Authorization Scheme"),
    known("multi01", "3.3.8", Meaning, "Multiple Values in Single Value Required Fields"),
    known("mcl01", "3.3.9", Meaning, "Multiple Content-Length Values"),
    known("bcast", "3.3.10", Meaning, "200 OK Response with Broadcast Via Header Field Value"),
    known("zeromf", "3.3.11", Meaning, "Max-Forwards of Zero"),
    known("cparam01", "3.3.12", Meaning, "REGISTER with a Contact Header Parameter"),
    known("cparam02", "3.3.13", Meaning, "REGISTER with a url-parameter"),
    known("regescrt", "3.3.14", Meaning, "REGISTER with a URL Escaped Header"),
    known("sdp01", "3.3.15", Meaning, "Unacceptable Accept Offering"),
    known("inv2543", "3.4.1", Meaning, "INVITE with RFC 2543 Syntax"),
];

/// The 12 messages of RFC 5118, in its order.
#[rustfmt::skip]
pub const RFC5118: [Torture; 12] = [
    known("ipv6-good", "4.1", Valid, "Valid SIP Message with an IPv6 Reference"),
    known("ipv6-bad", "4.2", Invalid, "Invalid SIP Message with an IPv6 Reference"),
    known("port-ambiguous", "4.3", Valid, "Port Ambiguous in a SIP URI"),
    known("port-unambiguous", "4.4", Valid, "Port Unambiguous in a SIP URI"),
    known("via-received-param-with-delim", "4.5", Valid, "IPv6 Reference Delimiters in Via Header"),
    known("via-received-param-no-delim", "4.5", Valid, "IPv6 Reference Delimiters in Via Header"),
    known("ipv6-in-sdp", "4.6", Valid, "SIP Request with IPv6 Addresses in SDP Body"),
    known("mult-ip-in-header", "4.7", Valid, "Multiple IP Addresses in SIP Headers"),
    known("mult-ip-in-sdp", "4.8", Valid, "Multiple IP Addresses in SDP"),
    known("ipv4-mapped-ipv6", "4.9", Valid, "IPv4-Mapped IPv6 Addresses"),
    known("ipv6-bug-abnf-3-colons", "4.10", Meaning, "IPv6 Reference Bug in RFC 3261 ABNF"),
    known("ipv6-correct-abnf-2-colons", "4.10", Valid, "IPv6 Reference Bug in RFC 3261 ABNF"),
];

/// The two documents: number, messages, and what their archive puts before and after a name.
const DOCUMENTS: [(u32, &[Torture], &str, &str); 2] = [(4475, &RFC4475, "", ".dat"), (5118, &RFC5118, "./", "")];

impl Torture {
    /// Exactly the bytes of the message.
    pub fn bytes(&self) -> Vec<u8> {
        let path = directory(self.rfc()).join(format!("{}.dat", self.name));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The number of its RFC.
    pub fn rfc(&self) -> u32 {
        if RFC5118.contains(self) { 5118 } else { 4475 }
    }
}

/// Where the fixtures are.
pub fn directory(rfc: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/torture/rfc{rfc}"))
}

/// Extracts all messages from the texts `rfc4475.txt` and `rfc5118.txt` in a directory; returns the path below
/// `tests/fixtures/torture` and the bytes of each.
pub fn extract(texts: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut out = Vec::new();
    for (number, messages, before, after) in DOCUMENTS {
        let path = texts.join(format!("rfc{number}.txt"));
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let archive = archive(&String::from_utf8_lossy(&text)).with_context(|| format!("in {}", path.display()))?;
        for message in messages {
            let bytes = member(&archive, &format!("{before}{}{after}", message.name))?;
            out.push((PathBuf::from(format!("rfc{number}/{}.dat", message.name)), bytes));
        }
    }
    Ok(out)
}

/// The archive between the last pair of marks; the first pair is in the script that the RFC explains it with. Lines of page
/// breaks have spaces within and are passed over, as that script does.
fn archive(text: &str) -> Result<Vec<u8>> {
    let (_, rest) = text.rsplit_once("-- BEGIN MESSAGE ARCHIVE --").context("no archive")?;
    let (block, _) = rest
        .split_once("-- END MESSAGE ARCHIVE --")
        .context("the archive has no end")?;
    let lines = block
        .lines()
        .map(str::trim)
        .filter(|line| !line.contains(char::is_whitespace));
    let text: String = lines.collect();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .context("the archive is not base64")
}

/// One file of a compressed archive, unpacked by `tar`.
fn member(archive: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar")
        .args(["-xzOf", "-", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let mut input = tar.stdin.take().context("no pipe to tar")?;
    std::io::Write::write_all(&mut input, archive)?;
    drop(input);
    let output = tar.wait_with_output()?;
    ensure!(output.status.success(), "tar does not find {name} in the archive");
    Ok(output.stdout)
}

const fn known(name: &'static str, section: &'static str, kind: Kind, title: &'static str) -> Torture {
    Torture {
        name,
        section,
        kind,
        title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixtures_are_what_the_documents_have() {
        for message in RFC4475.iter().chain(&RFC5118) {
            assert!(!message.bytes().is_empty(), "{message:?}");
        }
        // The texts lie beside the project where it is developed; elsewhere only the fixtures are there.
        let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rfc");
        if !texts.join("rfc4475.txt").is_file() {
            println!("no texts to compare with at {}", texts.display());
            return;
        }
        let found = extract(&texts).unwrap();
        assert_eq!(found.len(), 61);
        for (path, bytes) in found {
            let fixture = fs::read(directory(0).with_file_name("").join(&path)).unwrap();
            assert!(fixture == bytes, "{} differs from the document", path.display());
        }
    }
}
