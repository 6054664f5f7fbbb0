//! Which objects have the same rows.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::call_frames::CallFrames;

/// Goes into each digest, so that ids made for another layout of rows never match.
const DOMAIN: &[u8] = b"profiler unwind rows 2\0";

/// A digest (SHA-256) over all that rows are made of: the call frame information, its address, the executable
/// segments, the procedure linkage table, and the code that nothing describes. Objects with equal ids compile to equal rows under equal limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    pub(crate) fn of(call_frames: &CallFrames<'_>) -> Self {
        let mut digest = Sha256::new();
        digest.update(DOMAIN);
        digest.update(call_frames.link_address().to_le_bytes());
        let segments = call_frames.segments().executable();
        digest.update((segments.len() as u64).to_le_bytes());
        for segment in segments {
            digest.update(segment.file_offset.to_le_bytes());
            digest.update(segment.link_address.to_le_bytes());
            digest.update(segment.size.to_le_bytes());
        }
        let linkage = call_frames
            .linkage()
            .map(|linkage| linkage.range.clone())
            .unwrap_or_default();
        digest.update(linkage.start.to_le_bytes());
        digest.update(linkage.end.to_le_bytes());
        for undescribed in call_frames.undescribed() {
            digest.update(undescribed.start.to_le_bytes());
            digest.update((undescribed.bytes.len() as u64).to_le_bytes());
            digest.update(undescribed.bytes);
        }
        digest.update((call_frames.undescribed().len() as u64).to_le_bytes());
        digest.update(call_frames.bytes());
        Self(digest.finalize().into())
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}
