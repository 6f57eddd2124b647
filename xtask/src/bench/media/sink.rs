//! Where media ends: every packet is counted by whether it is where it belongs, and its delay measured.

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::{Ebpf, Pod};
use tests::ns::Namespace;

use super::traffic::peer;
use crate::bench::layout::Count;
use crate::bench::media_layout::{DELAY_BUCKETS, MEDIA_OTHER, MediaWanted};
use crate::bench::{object, stand};

// SAFETY: plain numbers without padding, any bytes are a value.
unsafe impl Pod for MediaWanted {}

/// A sink on an interface; what arrives there is dropped.
pub struct Sink(Ebpf);

impl Sink {
    /// Attaches it. With `strict` a packet must be for the peer that it is meant for.
    pub fn attach(ns: &Namespace, dev: &str, strict: bool) -> Result<Self> {
        let mut ebpf = object::open()?;
        stand::attach(&mut ebpf, "bench_media_sink", ns, dev)?;
        let mut sink = Self(ebpf);
        sink.want(strict, false)?;
        Ok(sink)
    }

    /// What it does from now on.
    pub fn want(&mut self, strict: bool, delays: bool) -> Result<()> {
        let wanted = MediaWanted {
            peer: peer(0).into(),
            strict: u32::from(strict),
            delays: u32::from(delays),
            reserved: 0,
        };
        let map = self.0.map_mut("MEDIA_WANTED").context("no MEDIA_WANTED")?;
        Ok(Array::<_, MediaWanted>::try_from(map)?.set(0, &wanted, 0)?)
    }

    /// Begins to count from zero.
    pub fn reset(&mut self) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?.get() as usize;
        let map = self.0.map_mut("MEDIA_SINK").context("no MEDIA_SINK")?;
        let mut map: PerCpuArray<_, Count> = map.try_into()?;
        for kind in 0..=MEDIA_OTHER {
            map.set(kind, vec![Count::default(); cpus].try_into()?, 0)?;
        }
        let map = self.0.map_mut("MEDIA_DELAYS").context("no MEDIA_DELAYS")?;
        let mut map: PerCpuArray<_, u64> = map.try_into()?;
        for bucket in 0..DELAY_BUCKETS {
            map.set(bucket, vec![0u64; cpus].try_into()?, 0)?;
        }
        Ok(())
    }

    /// Packets of one kind, `MEDIA_*`, by core.
    pub fn read(&self, kind: u32) -> Result<Vec<Count>> {
        let map = self.0.map("MEDIA_SINK").context("no MEDIA_SINK")?;
        let map: PerCpuArray<&MapData, Count> = map.try_into()?;
        Ok(map.get(&kind, 0)?.to_vec())
    }

    /// The same of all cores.
    pub fn packets(&self, kind: u32) -> Result<u64> {
        Ok(self.read(kind)?.iter().map(|count| count.packets).sum())
    }

    /// The delays that were measured.
    pub fn delays(&self) -> Result<Delays> {
        let map = self.0.map("MEDIA_DELAYS").context("no MEDIA_DELAYS")?;
        let map: PerCpuArray<&MapData, u64> = map.try_into()?;
        let of = |bucket| Ok(map.get(&bucket, 0)?.iter().sum());
        Ok(Delays((0..DELAY_BUCKETS).map(of).collect::<Result<_>>()?))
    }
}

/// How many packets took how long.
#[derive(Clone, Debug)]
pub struct Delays(Vec<u64>);

impl Delays {
    /// The time in nanoseconds within which so many percent arrived, to a sixteenth of it; `None` if none did.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let all: u64 = self.0.iter().sum();
        let rank = (all as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.0.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        (all != 0).then(|| middle(bucket as u32))
    }
}

/// The middle of a bucket in nanoseconds.
fn middle(bucket: u32) -> f64 {
    let unit = f64::from(bucket >> 4).exp2() / 16.0;
    (f64::from(bucket & 15) + 16.5) * unit
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_buckets() {
        // 1,000 ns are in the half of a power of two that begins with 2^9: 512 * (1 + 15/16) = 992.
        let (thousand, more) = ((9 << 4 | 15) as usize, (15 << 4 | 8) as usize);
        let mut counts = vec![0; DELAY_BUCKETS as usize];
        counts[thousand] = 98;
        counts[more] = 2;
        let delays = Delays(counts);
        assert_eq!(delays.percentile(50.0), Some(1008.0));
        assert_eq!(delays.percentile(98.0), Some(1008.0));
        assert_eq!(delays.percentile(99.0), Some(50176.0));
        assert_eq!(Delays(vec![0; 4]).percentile(99.0), None);
    }
}
