//! Any bytes as an object, for what the walker needs of it: rows, segments, build id, identity.

use profiler_unwinding::{BuildId, CallFrames, Limits, Segments};

use crate::rows;

const GRANULE: u64 = 4096;

/// Runs one input.
pub fn run(data: &[u8]) {
    rows::check(data);
    if let Ok(segments) = Segments::parse(data) {
        check_segments(&segments);
    }
    if let Ok(Some(id)) = BuildId::read(data) {
        assert!((1..=64).contains(&id.as_bytes().len()));
        assert_eq!(id.to_string().len(), 2 * id.as_bytes().len());
    }
    if let Ok(call_frames) = CallFrames::read(data, &Limits::default()) {
        assert_eq!(call_frames.content_id(), call_frames.clone().content_id());
        assert!(call_frames.bytes().len() <= data.len());
    }
}

fn check_segments(segments: &Segments) {
    let executable = segments.executable();
    assert!(executable.is_sorted_by_key(|segment| segment.link_address));
    for segment in executable {
        assert!(segment.size > 0 && segment.link_range().end > segment.link_address);
        // A mapping at the segment's first page belongs to some segment that begins there.
        let first_page = segment.file_offset & !(GRANULE - 1);
        for mapping_start in [0, 0x5555_5555_4000, !(GRANULE - 1)] {
            let bias = segments.bias(mapping_start, first_page);
            let Some(bias) = bias else {
                panic!("{segment:?} has no bias")
            };
            let is_of_segment = executable.iter().any(|other| {
                let within = first_page.wrapping_sub(other.file_offset);
                mapping_start.wrapping_sub(bias) == other.link_address.wrapping_add(within)
            });
            assert!(is_of_segment, "{bias:#x} fits no segment");
        }
    }
}
