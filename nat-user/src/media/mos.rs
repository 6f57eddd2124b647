//! How a stream sounds, estimated: the E-model (ITU-T G.107), reduced to what a relay can know of it.
//!
//! R = 93.2 − Idd − Ie,eff, where
//!
//! - 93.2 is what is left of 100 with the default values of all other parameters (G.107 table 2): Ro − Is;
//! - Idd, of delay without echo (G.107 section 7.4): 0 up to 100 ms, above them
//!   25 · ((1 + X⁶)^⅙ − 3 · (1 + (X/3)⁶)^⅙ + 2) with X = log₂(delay / 100 ms);
//! - Ie,eff, of codec and loss (G.107 section 7.5): Ie + (95 − Ie) · Ppl / (Ppl + Bpl), with the loss Ppl in percent taken for random.
//!
//! The delay is that from the sender to the relay: half of the round trip if RTCP tells it, the packet itself, and a buffer of twice the jitter. So
//! the estimate is of this one way; what is lost between the relay and the listener is not in it. MOS follows from R by G.107 annex B.
//!
//! Ie and Bpl are those of G.113 appendix I where it has the codec. Its values are for the narrow band; wideband codecs are judged on the same scale,
//! as if they were G.711 with concealment of losses, which says what loss does to them and not how much better they are.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ro − Is with default values (G.107 table 2).
const BASE: f64 = 93.2;
/// What one packet has of speech, in ms: the `ptime` that is used nearly everywhere (RFC 3551 section 4.2).
const PACKET_MS: f64 = 20.0;

/// What is known of a stream's codec, by the name in its description. The numbers are kept in the entries of legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// No speech, or nobody knows: nothing is estimated.
    #[default]
    None = 0,
    /// PCMU, PCMA, L16.
    G711 = 1,
    G722 = 2,
    G723 = 3,
    G726 = 4,
    G728 = 5,
    G729 = 6,
    Gsm = 7,
    /// GSM-EFR, and AMR at its best rate, which is the same.
    Amr = 8,
    AmrWb = 9,
    Opus = 10,
    /// Speech by another codec.
    Other = 11,
}

impl Codec {
    const ALL: [Codec; 12] = [
        Codec::None,
        Codec::G711,
        Codec::G722,
        Codec::G723,
        Codec::G726,
        Codec::G728,
        Codec::G729,
        Codec::Gsm,
        Codec::Amr,
        Codec::AmrWb,
        Codec::Opus,
        Codec::Other,
    ];

    /// The codec of this encoding name (RFC 8866 section 6.6) and clock rate in Hz. Video has a clock of 90 kHz, what is no RTP has none.
    pub fn named(name: &str, clock: u32) -> Codec {
        if clock == 0 || clock == 90_000 {
            return Codec::None;
        }
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "PCMU" | "PCMA" | "L16" => Codec::G711,
            "G722" => Codec::G722,
            "G723" => Codec::G723,
            "G726-16" | "G726-24" | "G726-32" | "G726-40" => Codec::G726,
            "G728" => Codec::G728,
            "G729" | "G729A" | "G729D" | "G729E" => Codec::G729,
            "GSM" => Codec::Gsm,
            "GSM-EFR" | "AMR" => Codec::Amr,
            "AMR-WB" => Codec::AmrWb,
            "OPUS" => Codec::Opus,
            "CN" | "TELEPHONE-EVENT" => Codec::None,
            _ => Codec::Other,
        }
    }

    /// The codec with this number; what a newer daemon has written is [`Codec::None`].
    pub fn from_number(number: u8) -> Codec {
        Codec::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The name, for people. `None`: there is nothing to be said.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Codec::None => return None,
            Codec::G711 => "G.711",
            Codec::G722 => "G.722",
            Codec::G723 => "G.723.1",
            Codec::G726 => "G.726",
            Codec::G728 => "G.728",
            Codec::G729 => "G.729",
            Codec::Gsm => "GSM",
            Codec::Amr => "AMR",
            Codec::AmrWb => "AMR-WB",
            Codec::Opus => "Opus",
            Codec::Other => "other",
        })
    }

    /// Equipment impairment Ie and packet-loss robustness Bpl (G.113 appendix I). Where that has no Bpl it is 10, the least that it has for a codec
    /// that conceals losses; codecs that it does not have at all are taken for ones like G.729.
    fn factors(self) -> Option<(f64, f64)> {
        Some(match self {
            Codec::None => return None,
            Codec::G711 | Codec::G722 | Codec::AmrWb | Codec::Opus => (0.0, 25.1),
            Codec::G723 => (15.0, 16.1),
            Codec::G726 | Codec::G728 => (7.0, 10.0),
            Codec::G729 | Codec::Other => (11.0, 19.0),
            Codec::Gsm => (20.0, 10.0),
            Codec::Amr => (5.0, 10.0),
        })
    }
}

/// What was seen of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// RTP packets that came.
    pub received: u64,
    /// Those that should have come and have not.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550), in ms; 0 if it is not known.
    pub jitter_ms: f64,
    /// Round trip between relay and sender, in ms; 0 if it is not known.
    pub round_trip_ms: f64,
}

/// A mean opinion score from 1.00 to 4.50, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mos(u16);

impl Mos {
    /// In hundredths.
    pub fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Serialize for Mos {
    /// As a number: `4.41`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 100.0)
    }
}

impl<'de> Deserialize<'de> for Mos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|score| Mos((score.clamp(1.0, 5.0) * 100.0).round() as u16))
    }
}

/// The score of a stream; `None` if nothing can be said: no speech, or no packet of it has come.
pub fn estimate(codec: Codec, seen: &Seen) -> Option<Mos> {
    let (ie, bpl) = codec.factors()?;
    if seen.received == 0 {
        return None;
    }
    let loss = 100.0 * seen.lost as f64 / (seen.received + seen.lost) as f64;
    let delay = seen.round_trip_ms / 2.0 + PACKET_MS + 2.0 * seen.jitter_ms;
    let effective = ie + (95.0 - ie) * loss / (loss + bpl);
    let score = score(BASE - of_delay(delay) - effective);
    Some(Mos((score * 100.0).round() as u16))
}

/// Idd (G.107 section 7.4) for a delay in ms.
fn of_delay(delay: f64) -> f64 {
    if delay <= 100.0 {
        return 0.0;
    }
    let x = (delay / 100.0).log2();
    let root = |x: f64| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
}

/// MOS of an R (G.107 annex B). Below R = 6.5 the formula falls under 1, which is the worst that there is.
fn score(r: f64) -> f64 {
    match r {
        r if r <= 0.0 => 1.0,
        r if r >= 100.0 => 4.5,
        r => (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(received: u64, lost: u64) -> Seen {
        Seen {
            received,
            lost,
            ..Seen::default()
        }
    }

    fn shown(codec: Codec, seen: &Seen) -> String {
        estimate(codec, seen).unwrap().to_string()
    }

    #[test]
    fn scores_are_those_of_the_recommendations() {
        // R 93.2, 82.2 and 78.2 are MOS 4.41, 4.10 and 3.95 (G.107 annex B).
        assert_eq!(shown(Codec::G711, &seen(1000, 0)), "4.41");
        assert_eq!(shown(Codec::G729, &seen(1000, 0)), "4.10");
        assert_eq!(shown(Codec::G723, &seen(1000, 0)), "3.95");
        // 5 % of loss with concealment: Ie,eff 15.8; R 77.4.
        assert_eq!(shown(Codec::G711, &seen(950, 50)), "3.92");
        // All lost: R 17.3.
        assert_eq!(shown(Codec::G711, &seen(1, 1_000_000)), "1.18");
    }

    #[test]
    fn delay_counts_from_a_tenth_of_a_second() {
        let late = |round_trip_ms, jitter_ms| Seen {
            round_trip_ms,
            jitter_ms,
            ..seen(1000, 0)
        };
        assert_eq!(shown(Codec::G711, &late(160.0, 0.0)), "4.41", "80 ms and a packet");
        // G.107: Idd at 200 ms is 25 · (2^⅙ − 3 · (1 + 3⁻⁶)^⅙ + 2) = 3.044, at 400 ms 24.1.
        assert!((of_delay(200.0) - 3.044).abs() < 0.01, "{}", of_delay(200.0));
        assert!((of_delay(400.0) - 24.1).abs() < 0.2, "{}", of_delay(400.0));
        assert_eq!(
            shown(Codec::G711, &late(260.0, 25.0)),
            shown(Codec::G711, &late(360.0, 0.0))
        );
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known() {
        assert_eq!(estimate(Codec::G711, &seen(0, 0)), None);
        assert_eq!(estimate(Codec::G711, &seen(0, 10)), None);
        assert_eq!(estimate(Codec::None, &seen(10, 0)), None);
    }

    #[test]
    fn codecs_are_known_by_their_names() {
        for (name, clock, codec) in [
            ("PCMA", 8000, Codec::G711),
            ("pcmu", 8000, Codec::G711),
            ("opus", 48_000, Codec::Opus),
            ("G729", 8000, Codec::G729),
            ("G722", 8000, Codec::G722),
            ("speex", 16_000, Codec::Other),
            ("VP8", 90_000, Codec::None),
            ("telephone-event", 8000, Codec::None),
            ("t38", 0, Codec::None),
        ] {
            assert_eq!(Codec::named(name, clock), codec, "{name}");
        }
        for codec in Codec::ALL {
            assert_eq!(Codec::from_number(codec as u8), codec);
        }
        assert_eq!(Codec::from_number(200), Codec::None);
    }

    #[test]
    fn a_score_is_a_number_in_json() {
        let mos = estimate(Codec::G711, &seen(1, 0)).unwrap();
        assert_eq!(serde_json::to_string(&mos).unwrap(), "4.41");
        assert_eq!(serde_json::from_str::<Mos>("4.41").unwrap(), mos);
    }

    proptest! {
        #[test]
        fn more_trouble_is_never_better(
            received in 1u64..1 << 40, lost in 0u64..1 << 40, more in 0u64..1 << 20, jitter in 0.0f64..1e6, trip in 0.0f64..1e6,
            codec in 1u8..12
        ) {
            let codec = Codec::from_number(codec);
            let of = |lost, jitter_ms, round_trip_ms| {
                estimate(codec, &Seen { received, lost, jitter_ms, round_trip_ms }).unwrap()
            };
            let before = of(lost, jitter, trip);
            prop_assert!((100..=450).contains(&before.hundredths()));
            prop_assert!(of(lost + more, jitter, trip) <= before);
            prop_assert!(of(lost, jitter + more as f64, trip) <= before);
            prop_assert!(of(lost, jitter, trip + more as f64) <= before);
        }
    }
}
