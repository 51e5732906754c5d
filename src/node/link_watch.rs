//! A GPU's PCIe link watched while bytes move: at rest it may run slower than it can.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node::nvml;
use crate::node::source::Unread;

const EVERY: Duration = Duration::from_millis(20);

/// What a watch saw: the best generation, since a link wakes up in steps, and the worst width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSeen {
    pub generation_max: u32,
    pub width_min: u32,
    pub samples: u32,
}

/// A thread that samples a link every 20 ms until it is stopped.
pub struct LinkWatch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Option<LinkSeen>>,
}

impl LinkWatch {
    /// Watches the GPU with this UUID (`GPU-…`). An error says why NVML does not tell.
    pub fn start(uuid: &str) -> Result<LinkWatch, Unread> {
        let uuid = uuid.to_string();
        LinkWatch::start_with(EVERY, move || nvml::link_sampler(&uuid))
    }

    /// `open` runs in the watching thread: a sampler need not be sent there.
    fn start_with<S: FnMut() -> Result<(u32, u32), Unread>>(
        every: Duration,
        open: impl FnOnce() -> Result<S, Unread> + Send + 'static,
    ) -> Result<LinkWatch, Unread> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("link-watch".into())
            .spawn(move || {
                let mut sample = match open() {
                    Ok(sample) => sample,
                    Err(why) => {
                        let _ = ready.send(Err(why));
                        return None;
                    }
                };
                let first = sample();
                let _ = ready.send(first.clone().map(drop));
                let (generation, width) = first.ok()?;
                let mut seen = LinkSeen { generation_max: generation, width_min: width, samples: 1 };
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    let Ok((generation, width)) = sample() else { continue };
                    seen.generation_max = seen.generation_max.max(generation);
                    seen.width_min = seen.width_min.min(width);
                    seen.samples += 1;
                }
                Some(seen)
            })
            .map_err(Unread::from)?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(LinkWatch { stop, thread }),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(Unread::Other("the link's watcher ended early".into())),
        }
    }

    /// Ends the watch. `None` only where the watching thread died.
    pub fn stop(self) -> Option<LinkSeen> {
        // A thread that is gone has nothing left to stop.
        let _ = self.stop.send(());
        self.thread.join().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_keeps_the_best_generation_and_the_worst_width() {
        let (called, calls) = mpsc::channel();
        let watch = LinkWatch::start_with(Duration::ZERO, move || {
            let mut script = [Ok((1, 16)), Err(Unread::Missing), Ok((5, 16)), Ok((4, 8))].into_iter();
            Ok(move || {
                let sample = script.next().unwrap_or(Ok((4, 16)));
                let _ = called.send(());
                sample
            })
        })
        .unwrap();
        // Each call was counted before the next began: after the fifth, the fourth's answer is in.
        for _ in 0..5 {
            calls.recv().unwrap();
        }
        let seen = watch.stop().unwrap();
        assert_eq!((seen.generation_max, seen.width_min), (5, 8));
        assert!(seen.samples >= 3, "{seen:?}");
    }

    #[test]
    fn a_link_that_is_not_told_is_no_watch() {
        let none = |why: &str| Unread::Other(why.to_string());
        let closed = LinkWatch::start_with(EVERY, move || {
            Err::<fn() -> Result<(u32, u32), Unread>, _>(none("no library"))
        });
        assert_eq!(closed.err(), Some(none("no library")));
        let mute = LinkWatch::start_with(EVERY, || Ok(|| Err(Unread::Denied)));
        assert_eq!(mute.err(), Some(Unread::Denied));
    }
}
