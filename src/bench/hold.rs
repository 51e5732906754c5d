//! How long memory that was made present is held before a load takes it, so that it is still present then.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::node::balloon::balloon;
use crate::node::source::Source;
use crate::os::cancel::Cancel;

/// Linux tells the host of free memory in passes: two seconds after some is freed (`PAGE_REPORTING_DELAY` of its
/// mm/page_reporting.c), of all that is free by then. What is held over a pass is left out of it, and the next pass comes two
/// seconds after that was given back.
const PASS: Duration = Duration::from_millis(2500);
/// Less memory is taken in a moment, into which a pass seldom falls.
const HELD_FROM_BYTES: u64 = 1 << 30;
const LOOK: Duration = Duration::from_millis(20);

/// What is to be waited before each load into so much memory.
pub fn time(into_host: bool, bytes: u64) -> Duration {
    let worth_it = into_host && bytes >= HELD_FROM_BYTES;
    let told =
        || balloon(&Source::live(false)).ok().flatten().is_some_and(|balloon| balloon.free_page_reporting);
    if worth_it && told() { PASS } else { Duration::ZERO }
}

/// Waits so long, or until it is cancelled.
pub fn wait(time: Duration, cancel: &Cancel) {
    let began = Instant::now();
    while began.elapsed() < time && !cancel.is_set() {
        sleep(LOOK.min(time.saturating_sub(began.elapsed())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_waited_for_little_memory_or_for_a_gpus_or_once_cancelled() {
        assert_eq!(time(true, HELD_FROM_BYTES - 1), Duration::ZERO);
        assert_eq!(time(false, u64::MAX), Duration::ZERO);
        let (cancel, began) = (Cancel::new(), Instant::now());
        cancel.set();
        wait(Duration::from_secs(3600), &cancel);
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
