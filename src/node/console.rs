//! The console that never stops the node: a pipe that nobody empties, or a terminal that somebody has stopped, would hold
//! whoever writes to it for good, and with it every thread that logs.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{write, Errno};
use std::os::fd::AsFd;
use std::time::Duration;

/// Bytes of one write (Linux's PIPE_BUF): a pipe that is ready takes so many without waiting, and in one piece.
const AT_ONCE: usize = 4096;
/// How long a line waits for a reader that is slow.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where lines go to, and how many have been left out.
#[derive(Debug)]
pub struct Console<F> {
    to: F,
    left_out: u64,
}

impl<F: AsFd> Console<F> {
    /// Of an open file.
    pub fn new(to: F) -> Self {
        Self { to, left_out: 0 }
    }

    /// Writes a line, with its end, or leaves it out where nobody reads. How many were left out is said before the next line
    /// that can be written.
    pub fn line(&mut self, text: &str) {
        if self.left_out > 0 {
            let note = format!("... {} lines of the log are missing here: nobody was reading it\n", self.left_out);
            if !self.write(note.as_bytes(), Duration::ZERO) {
                self.left_out += 1;
                return;
            }
            self.left_out = 0;
        }
        if !self.write(text.as_bytes(), PATIENCE) {
            self.left_out += 1;
        }
    }

    /// Whether there was room for all of it in time. A console that is gone takes everything.
    fn write(&self, mut bytes: &[u8], patience: Duration) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
        while !bytes.is_empty() {
            match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&limit)) {
                Ok(0) => return false,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return true,
            }
            // In one write, so that neither another thread nor the middleware's own messages get into the line.
            match write(&self.to, &bytes[..bytes.len().min(AT_ONCE)]) {
                Ok(0) => return true,
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::Instant;

    #[test]
    fn a_pipe_that_nobody_reads_is_waited_for_once() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut console = Console::new(writer);
        let line = "x".repeat(999) + "\n";
        let start = Instant::now();
        // A pipe holds 64 KiB.
        (0..2000).for_each(|_| console.line(&line));
        assert!(start.elapsed() < 20 * PATIENCE, "{:?}", start.elapsed());
        assert!((1900..2000).contains(&console.left_out), "{}", console.left_out);
        let missing = console.left_out;
        // Half of what is there makes room.
        let mut half = vec![0; 32 << 10];
        reader.read_exact(&mut half).expect("there is as much");
        console.line("again\n");
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let (_, end) = rest.rsplit_once("xx\n").expect("lines");
        let note = format!("... {missing} lines of the log are missing here: nobody was reading it");
        assert_eq!(end.lines().collect::<Vec<_>>(), [note.as_str(), "again"]);
    }

    #[test]
    fn a_long_line_goes_out_in_parts_and_a_reader_that_is_gone_is_no_matter() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut console = Console::new(writer);
        let line = (0..9000).map(|i| char::from(b'a' + (i % 26) as u8)).collect::<String>() + "\n";
        console.line(&line);
        let mut read = vec![0; line.len()];
        reader.read_exact(&mut read).expect("all of it");
        assert_eq!(read, line.as_bytes());
        drop(reader);
        console.line("to nobody\n");
        assert_eq!(console.left_out, 0);
    }
}
