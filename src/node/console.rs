//! The console that never stops the node: a pipe that nobody empties, or a terminal that somebody has stopped, would hold
//! whoever writes to it for good, and with it every thread that logs.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fstat, open, FileType, Mode, OFlags};
use rustix::io::{write, Errno};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// Bytes of one write (Linux's PIPE_BUF): a pipe takes so many in one piece or not at all.
const AT_ONCE: usize = 4096;
/// Between two tries where there is room for a part only.
const PAUSE: Duration = Duration::from_millis(1);

/// Where lines go to, and how many have been left out.
#[derive(Debug)]
pub struct Console {
    to: OwnedFd,
    left_out: u64,
    /// Whether the last line that was left out had begun.
    is_begun: bool,
}

impl Console {
    /// Of what `file` leads to.
    ///
    /// # Errors
    /// There is no file descriptor left.
    pub fn new(file: impl AsFd) -> std::io::Result<Self> {
        let file = file.as_fd();
        // A description of its own, which does not wait; another process may share the one at hand. A file never waits, and has
        // a position that a new description would not have; a socket cannot be opened anew.
        let waits = fstat(file).is_ok_and(|stat| {
            matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::CharacterDevice)
        });
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let own = if waits { open(path, flags, Mode::empty()).ok() } else { None };
        let to = own.map_or_else(|| file.try_clone_to_owned(), Ok)?;
        Ok(Self { to, left_out: 0, is_begun: false })
    }

    /// Writes a line, with its end, or leaves it out where nobody reads for so long. How many were left out is said before the
    /// next line that can be written.
    pub fn line(&mut self, text: &str, patience: Duration) {
        if self.left_out > 0 {
            let end = if self.is_begun { "\n" } else { "" };
            let note = format!("{end}... lines missing here, as nobody was reading the log: {}\n", self.left_out);
            if self.write(note.as_bytes(), Duration::ZERO) < note.len() {
                self.left_out += 1;
                return;
            }
            self.left_out = 0;
        }
        let written = self.write(text.as_bytes(), patience);
        if written < text.len() {
            self.left_out += 1;
            self.is_begun = written > 0;
        }
    }

    /// How many bytes there was room for in time. A console that is gone takes everything.
    fn write(&self, bytes: &[u8], patience: Duration) -> usize {
        let end = Instant::now() + patience;
        let mut written = 0;
        while written < bytes.len() {
            let left = end.saturating_duration_since(Instant::now());
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&limit)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return bytes.len(),
            }
            // In one write, so that neither another thread nor the middleware's own messages get into the line.
            let rest = &bytes[written..];
            match write(&self.to, &rest[..rest.len().min(AT_ONCE)]) {
                Ok(0) => return bytes.len(),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Ready for less than this.
                Err(Errno::AGAIN) if Instant::now() < end => std::thread::sleep(PAUSE),
                Err(Errno::AGAIN) => break,
                Err(_) => return bytes.len(),
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
    use std::io::{PipeReader, Read as _};

    const PATIENCE: Duration = Duration::from_millis(50);

    fn pipe() -> (PipeReader, Console) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (reader, Console::new(writer).expect("a descriptor"))
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_waited_for_once() {
        let (mut reader, mut console) = pipe();
        let line = "x".repeat(999) + "\n";
        let start = Instant::now();
        // A pipe holds 64 KiB.
        (0..2000).for_each(|_| console.line(&line, PATIENCE));
        assert!(start.elapsed() < 40 * PATIENCE, "{:?}", start.elapsed());
        assert!((1900..2000).contains(&console.left_out), "{}", console.left_out);
        let missing = console.left_out;
        // Half of what is there makes room.
        let mut half = vec![0; 32 << 10];
        reader.read_exact(&mut half).expect("there is as much");
        console.line("again\n", PATIENCE);
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let (_, end) = rest.rsplit_once("xx\n").expect("lines");
        let note = format!("... lines missing here, as nobody was reading the log: {missing}");
        assert_eq!(end.lines().collect::<Vec<_>>(), [note.as_str(), "again"]);
    }

    /// It says that it is ready where it has room for a part of a line, and one that may wait would then wait for good.
    #[test]
    fn a_terminal_that_nobody_reads_is_waited_for_once() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
        let mut console = Console::new(&terminal).expect("a descriptor");
        let start = Instant::now();
        for length in (60..200).cycle().take(3000) {
            console.line(&("x".repeat(length) + "\n"), PATIENCE);
        }
        assert!(console.left_out > 1000, "{}", console.left_out);
        assert!(start.elapsed() < 200 * PATIENCE, "{:?}", start.elapsed());
    }

    #[test]
    fn a_long_line_goes_out_in_parts_and_a_reader_that_is_gone_is_no_matter() {
        let (mut reader, mut console) = pipe();
        let line = (0..9000).map(|i| char::from(b'a' + (i % 26) as u8)).collect::<String>() + "\n";
        console.line(&line, PATIENCE);
        let mut read = vec![0; line.len()];
        reader.read_exact(&mut read).expect("all of it");
        assert_eq!(read, line.as_bytes());
        // Of one that there is no room for, what has begun is ended before the note.
        console.line(&("y".repeat(100_000) + "\n"), PATIENCE);
        assert!(console.left_out == 1 && console.is_begun);
        let mut read = vec![0; 64 << 10];
        let count = reader.read(&mut read).expect("the part");
        console.line("whole\n", PATIENCE);
        let more = reader.read(&mut read[..]).expect("the rest");
        assert!(
            count > 4096
                && read[..more].ends_with(b"\n... lines missing here, as nobody was reading the log: 1\nwhole\n")
        );
        drop(reader);
        console.line("to nobody\n", PATIENCE);
        assert_eq!(console.left_out, 0);
    }

    #[test]
    fn a_file_is_written_on_where_it_stands() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(b"before\n").expect("written");
        Console::new(&file).expect("a descriptor").line("line\n", PATIENCE);
        file.write_all(b"after\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "before\nline\nafter\n");
    }
}
