//! Attacks on the media of calls: who sends what to the relay's ports and when, what leaks to the attacker, and what reaches a phone.
//!
//! Every attack is a row of docs/security.md, which `cargo xtask security` writes from what these tests print. The attackers know all ports,
//! which is the worst that can be: phones' media comes from and goes to ports that are random within their blocks.

mod arena;
mod outside;
mod residual;
mod scanners;

/// What comes of an attack by what is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Nothing leaks, and nothing reaches a phone.
    Nothing,
    /// What cannot be told from the phone's own packets reaches the other phone; nothing leaks.
    Copies,
    /// What is left of a risk: it is measured.
    Residual,
}

/// One attack.
struct Attack<'a> {
    /// Who sends, as a person would say it.
    attacker: &'a str,
    /// At which moment of the call.
    when: &'a str,
    /// What is sent.
    what: &'a str,
    promise: Promise,
}

/// What came of it, in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    sent: usize,
    /// To the attacker, of what the phones or the router send.
    leaked: usize,
    /// Of the attacker's, at a phone.
    reached: usize,
}

impl Attack<'_> {
    /// Compares with what is promised, and prints the row.
    fn came_to(&self, outcome: Outcome) {
        let Attack {
            attacker, when, what, ..
        } = self;
        let about = format!("{attacker}, {when}: {what}: {outcome:?}");
        assert!(outcome.sent > 0, "{about}");
        let (leaked, reached) = (outcome.leaked, outcome.reached);
        let promise = match self.promise {
            Promise::Nothing => {
                assert_eq!((leaked, reached), (0, 0), "{about}");
                "nothing"
            }
            Promise::Copies => {
                assert!(leaked == 0 && (1..=outcome.sent).contains(&reached), "{about}");
                "copies"
            }
            Promise::Residual => {
                assert!(reached <= outcome.sent, "{about}");
                "residual"
            }
        };
        // Each test is a thread of its name.
        let thread = std::thread::current();
        let row = serde_json::json!({
            "test": thread.name().unwrap_or_default(),
            "attacker": attacker, "when": when, "what": what, "promise": promise,
            "sent": outcome.sent, "leaked": leaked, "reached": reached,
        });
        println!("security: {row}");
    }
}
