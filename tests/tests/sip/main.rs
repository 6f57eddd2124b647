//! sipnat's SIP server with real programs: baresip and sipp as phones and gateways, kamailio as the registrar of others, and NATs that
//! are ours or not. Needs root.
//!
//! The documents' figures for addresses are kept; their times are scaled down: a NAT forgets after 4 s instead of 20 s, and prompts go
//! every second instead of every 15 s.

mod abuse;
mod attacks;
mod calls;
mod chaos;
mod connections;
mod document;
mod down;
mod files;
mod lives;
mod media;
mod passwords;
mod paths;
mod proxies;
mod records;
mod registrations;
mod sipsak;
mod upstream;

/// The domain that the servers serve.
const DOMAIN: &str = "net.com";

/// Prompts as often as they can be.
const PROMPTS: &str = "[sip.paths]\ninterval = \"1s\"\n";
