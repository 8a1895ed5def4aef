//! Reads the next frames on threads of their own while the network is at work on this one.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Gives `take` each item with what `make` made of it, in the order of the items; `make` runs ahead on `threads`
/// threads (at least one), each by at most two items, so that memory is bounded.
///
/// # Errors
/// The first error of `take`, which ends it; a thread that cannot be started.
pub fn ahead<T: Sync, R: Send, E: From<io::Error>>(
    items: &[T],
    threads: usize,
    make: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.clamp(1, items.len().max(1));
    let make = &make;
    thread::scope(|scope| {
        let mut made = Vec::new();
        for first in 0..threads {
            let (sender, receiver) = sync_channel(1);
            let work = move || {
                for item in items.iter().skip(first).step_by(threads) {
                    // Nobody waits for more after an error.
                    if sender.send(make(item)).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().name(format!("read_ahead_{first}")).spawn_scoped(scope, work)?;
            made.push(receiver);
        }
        for (item, receiver) in items.iter().zip((0..threads).cycle().map(|i| &made[i])) {
            // A thread that ends early has panicked, which the scope passes on.
            let Ok(result) = receiver.recv() else { break };
            take(item, result)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everything_comes_in_order() {
        let items: Vec<usize> = (0..37).collect();
        for threads in [0, 1, 3, 100] {
            let mut seen = Vec::new();
            let take = |&item: &usize, square: usize| {
                assert_eq!(square, item * item);
                seen.push(item);
                Ok::<_, io::Error>(())
            };
            ahead(&items, threads, |i| i * i, take).expect("no error");
            assert_eq!(seen, items);
        }
        ahead(&[] as &[usize], 2, |i| *i, |_, _| Ok::<_, io::Error>(())).expect("nothing to do");
    }

    #[test]
    fn an_error_ends_it_and_it_does_not_run_far_ahead() {
        let items: Vec<usize> = (0..1000).collect();
        let made = AtomicUsize::new(0);
        let make = |&i: &usize| {
            made.fetch_add(1, Ordering::SeqCst);
            i
        };
        let take = |_: &usize, i: usize| if i == 5 { Err(io::Error::other("stop")) } else { Ok(()) };
        assert_eq!(ahead(&items, 2, make, take).expect_err("stopped").to_string(), "stop");
        // Six were taken; each of two threads may have one in its channel, one in hand, and one that it could not send.
        assert!(made.load(Ordering::SeqCst) <= 12, "{made:?}");
    }
}
