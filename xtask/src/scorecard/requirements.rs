//! Which test shows which requirement. `cargo xtask scorecard` fails if a requirement has no test or a test no requirement.

pub mod media;
pub mod nat;
pub mod sip;
pub mod torture;

/// A requirement, and the tests that show it.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// Number of the RFC.
    pub rfc: &'static str,
    /// Its number or section there.
    pub id: &'static str,
    /// What it asks, in few words.
    pub text: &'static str,
    /// Names in the test binaries of its scorecard.
    pub tests: &'static [&'static str],
}

const fn requirement(
    rfc: &'static str,
    id: &'static str,
    text: &'static str,
    tests: &'static [&'static str],
) -> Requirement {
    Requirement { rfc, id, text, tests }
}
