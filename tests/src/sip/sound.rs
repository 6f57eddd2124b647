//! What a phone has heard: the pitch of a recorded tone, so that a test knows whose voice came through.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Samples per second of the recordings (RFC 3551 §4.5.14, PCMU).
const RATE: usize = 8000;
/// A quarter of a second.
const WINDOW: usize = RATE / 4;
/// What is quieter is silence. Phones play at about a third of the full scale.
const QUIET: i16 = 1000;

/// The pitch in Hz, rounded to 10, of the last quarter of a second of a recording (WAV, one channel of 16 bits, 8000 per second);
/// `None` for silence, for what is not one clear tone, and for too short a recording.
pub fn pitch(file: &Path) -> Result<Option<u32>> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    // The header is 44 bytes; its length field is right only once the recorder has ended.
    let (pairs, _) = bytes.get(44..).unwrap_or_default().as_chunks::<2>();
    let samples: Vec<i16> = pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    Ok(samples
        .len()
        .checked_sub(WINDOW)
        .and_then(|start| pitch_of(&samples[start..])))
}

fn pitch_of(samples: &[i16]) -> Option<u32> {
    if samples.iter().map(|sample| sample.saturating_abs()).max()? < QUIET {
        return None;
    }
    let crossings: Vec<usize> = (1..samples.len())
        .filter(|at| samples[at - 1] < 0 && samples[*at] >= 0)
        .collect();
    let periods: Vec<usize> = crossings.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (shortest, longest) = (periods.iter().min()?, periods.iter().max()?);
    // A lost packet makes one period wrong; a mixture of voices makes them all differ.
    let usual = periods.iter().filter(|period| **period <= shortest + 2).count();
    if longest - shortest > 2 && usual * 10 < periods.len() * 9 {
        return None;
    }
    let span = crossings.last()? - crossings.first()?;
    let hertz = (periods.len() * RATE) as f64 / span as f64;
    Some((hertz / 10.0).round() as u32 * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, length: usize) -> Vec<i16> {
        let sample = |at: usize| (at as f64 * hertz * std::f64::consts::TAU / RATE as f64).sin() * 9000.0;
        (0..length).map(|at| sample(at) as i16).collect()
    }

    #[test]
    fn tones_are_told_apart() {
        for hertz in [300, 440, 620, 1000] {
            assert_eq!(pitch_of(&tone(hertz.into(), WINDOW)), Some(hertz));
        }
        assert_eq!(pitch_of(&vec![0; WINDOW]), None);
        let mixed: Vec<i16> = tone(440.0, WINDOW)
            .iter()
            .zip(tone(710.0, WINDOW))
            .map(|(a, b)| a + b)
            .collect();
        assert_eq!(pitch_of(&mixed), None);
    }
}
