//! Repetitions of a piece of work, and what is made of their times.

use crate::frame::clock::{nanoseconds, Percentiles};
use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How often something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Repetitions {
    /// Before anything is measured.
    pub warm_up: usize,
    /// Measured; at least 1.
    pub measured: usize,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (of n - 1); `None` of a single one.
    pub deviation: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Median (nearest rank, as all percentiles).
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

const NS_A_MS: f64 = 1e6;

impl Spread {
    /// Of nanoseconds; `None` of nothing.
    pub fn of(values_ns: &[u64]) -> Option<Self> {
        let Percentiles { p50, p95, p99, max } = Percentiles::of(values_ns.to_vec())?;
        let count = values_ns.len() as f64;
        let mean_ns = values_ns.iter().map(|&v| v as f64).sum::<f64>() / count;
        let squares: f64 = values_ns.iter().map(|&v| (v as f64 - mean_ns).powi(2)).sum();
        let ms = |ns: u64| ns as f64 / NS_A_MS;
        Some(Self {
            count: values_ns.len(),
            mean: mean_ns / NS_A_MS,
            deviation: (values_ns.len() > 1).then(|| (squares / (count - 1.0)).sqrt() / NS_A_MS),
            min: ms(values_ns.iter().copied().min()?),
            p50: ms(p50),
            p95: ms(p95),
            p99: ms(p99),
            max: ms(max),
        })
    }
}

/// What the repetitions of one piece of work took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// By the monotonic clock.
    pub wall_ms: Spread,
    /// Processor time of all threads of this process: what other programs do is not in it.
    pub cpu_ms: Spread,
}

/// Processor time of all threads of this process so far.
pub fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Collects the times of repetitions.
#[derive(Debug, Default)]
pub struct Stopwatch {
    wall_ns: Vec<u64>,
    cpu_ns: Vec<u64>,
}

impl Stopwatch {
    /// Times one repetition; a failed one is not counted.
    ///
    /// # Errors
    /// What `work` says.
    pub fn time<T, E>(&mut self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (cpu, wall) = (processor_time(), Instant::now());
        let answer = work()?;
        self.wall_ns.push(nanoseconds(wall.elapsed()));
        self.cpu_ns.push(nanoseconds(processor_time().saturating_sub(cpu)));
        Ok(answer)
    }

    /// Of what was timed so far; `None` of nothing.
    pub fn timing(&self) -> Option<Timing> {
        Some(Timing { wall_ms: Spread::of(&self.wall_ns)?, cpu_ms: Spread::of(&self.cpu_ns)? })
    }
}

/// Does `work` as often as asked and times each measured repetition.
///
/// # Errors
/// What `work` says. `Ok(None)`: nothing was asked for.
pub fn repeat<E>(times: Repetitions, mut work: impl FnMut() -> Result<(), E>) -> Result<Option<Timing>, E> {
    for _ in 0..times.warm_up {
        work()?;
    }
    let mut stopwatch = Stopwatch::default();
    for _ in 0..times.measured {
        stopwatch.time(&mut work)?;
    }
    Ok(stopwatch.timing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn a_spread_is_of_the_sample() {
        assert_eq!(Spread::of(&[]), None);
        let one = Spread::of(&[2_000_000]).expect("a value");
        assert_eq!((one.mean, one.deviation, one.p50, one.max), (2.0, None, 2.0, 2.0));
        // 2, 4, 4, 4, 5, 5, 7, 9 ms: mean 5, squares 32, sample deviation sqrt(32 / 7).
        let ms = [9, 2, 4, 5, 4, 7, 4, 5].map(|v: u64| v * 1_000_000);
        let s = Spread::of(&ms).expect("values");
        assert_eq!((s.count, s.mean, s.min, s.p50, s.p95, s.p99, s.max), (8, 5.0, 2.0, 4.0, 9.0, 9.0, 9.0));
        assert!((s.deviation.expect("of several") - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn only_measured_repetitions_count() {
        let mut done = 0;
        let timing = repeat(Repetitions { warm_up: 3, measured: 4 }, || {
            done += 1;
            Ok::<_, Infallible>(())
        })
        .expect("it cannot fail")
        .expect("something was measured");
        assert_eq!((done, timing.wall_ms.count, timing.cpu_ms.count), (7, 4, 4));
        let failed = repeat(Repetitions { warm_up: 0, measured: 2 }, || Err("why"));
        assert_eq!(failed, Err("why"));
    }

    #[test]
    fn processor_time_passes_with_work_of_any_thread() {
        let before = processor_time();
        let worker = std::thread::Builder::new().name("worker".into()).spawn(move || {
            // Until the kernel has counted some of it, however long that takes here.
            while processor_time() == before {
                std::hint::black_box(0);
            }
        });
        worker.expect("a thread").join().expect("its end");
        assert!(processor_time() > before);
    }
}
