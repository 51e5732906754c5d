//! How a counter that should stand still moved.

/// How a counter moved.
pub enum Moved {
    Still,
    Grew(u64),
    /// Not read on one side, or set back between.
    Untold,
}

pub fn moved(before: Option<u64>, after: Option<u64>) -> Moved {
    match (before, after) {
        (Some(before), Some(after)) if after == before => Moved::Still,
        (Some(before), Some(after)) if after > before => Moved::Grew(after - before),
        _ => Moved::Untold,
    }
}
