//! Reads a device's health beside the executor: a driver that takes its time (NVML as it opens, a GPU that has fallen off
//! the bus) must not hold up images.

use super::device::{Gpu, Health, Processor};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::time::{Duration, Instant};

/// What a report waits for a reading, at most. Where the last one is still awaited, it does not wait at all.
const PATIENCE: Duration = Duration::from_millis(20);

/// One reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// As [`Health::values`] says it.
    pub values: Vec<(String, String)>,
    /// Empty for the processor.
    pub gpu: Gpu,
}

/// A thread that reads whenever it is asked to. It ends by itself once nobody can ask any more; a reading that hangs is not
/// waited for.
#[derive(Debug)]
pub struct Watch {
    ask: SyncSender<()>,
    answers: Receiver<Reading>,
    /// When the reading was asked for that has not come yet.
    asked: Option<Instant>,
    last: Reading,
}

impl Watch {
    /// Of the device that the network runs on.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(processor: Processor) -> std::io::Result<Self> {
        Self::with(move || {
            let mut health = Health::new(processor);
            move || Reading { values: health.values(), gpu: health.gpu().clone() }
        })
    }

    /// `make` is called on the thread, and what it makes for each reading.
    fn with<R: FnMut() -> Reading>(make: impl FnOnce() -> R + Send + 'static) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<()>(1);
        let (answer, answers) = sync_channel(1);
        std::thread::Builder::new().name("health".into()).spawn(move || {
            let mut read = make();
            while asked.recv().is_ok() && answer.send(read()).is_ok() {}
        })?;
        Ok(Self { ask, answers, asked: None, last: Reading::default() })
    }

    /// The newest reading: of now, unless the device is slow. Empty before the first.
    pub fn reading(&mut self) -> &Reading {
        let answer = if self.asked.is_some() {
            self.answers.try_recv().ok()
        } else {
            let _ = self.ask.try_send(());
            self.asked = Some(Instant::now());
            self.answers.recv_timeout(PATIENCE).ok()
        };
        if let Some(answer) = answer {
            self.last = answer;
            self.asked = None;
        }
        &self.last
    }

    /// For how long a reading has been awaited that has not come yet.
    pub fn silence(&self) -> Option<Duration> {
        self.asked.map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(number: usize) -> Reading {
        Reading { values: vec![("reading".into(), number.to_string())], gpu: Gpu::default() }
    }

    #[test]
    fn this_process_is_read_anew_for_each_report() {
        let mut watch = Watch::new(Processor::Cpu).expect("a thread");
        // The machine may be too busy for the first ones.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !watch.reading().values.iter().any(|(key, _)| key == "Process CPU (% of one core)") {
            assert!(Instant::now() < deadline, "two readings: {watch:?}");
        }
    }

    #[test]
    fn a_reading_that_hangs_is_not_waited_for() {
        let (go_on, hold) = sync_channel::<()>(0);
        let mut watch = Watch::with(move || {
            let mut number = 0;
            move || {
                hold.recv().expect("the test lives");
                number += 1;
                reading(number)
            }
        })
        .expect("a thread");
        assert_eq!(*watch.reading(), Reading::default(), "it hangs");
        assert!(watch.silence().is_some_and(|s| s >= PATIENCE));
        let start = Instant::now();
        (0..1000).for_each(|_| assert_eq!(*watch.reading(), Reading::default()));
        assert!(start.elapsed() < 500 * PATIENCE, "only the first report has waited");
        go_on.send(()).expect("the thread lives");
        let deadline = Instant::now() + Duration::from_secs(10);
        while *watch.reading() != reading(1) {
            assert!(Instant::now() < deadline, "the late reading is shown: {watch:?}");
        }
        assert_eq!(watch.silence(), None);
        assert_eq!(*watch.reading(), reading(1), "the last one, where the next one hangs");
        assert!(watch.silence().is_some());
    }

    #[test]
    fn a_reading_that_panics_is_silence() {
        let mut watch = Watch::with(|| || panic!("the driver")).expect("a thread");
        assert_eq!(*watch.reading(), Reading::default());
        assert_eq!(*watch.reading(), Reading::default());
        assert!(watch.silence().is_some());
    }
}
