//! Any bytes as the `.eh_frame` of a sound object.
//!
//! The first byte says how the object is built; the others are the section.

use crate::{
    rows,
    support::{CODE, CODE_BYTES, EhFrame, Object},
};

/// Where code lies that real tables describe, which lie behind their code: they are moved here to a low address.
const BEFORE: [(u64, u64); 2] = [(0xffff_ffff_ff80_0000, 0x7f_0000), (0, 0x1000)];

/// Runs one input.
pub fn run(data: &[u8]) {
    let [shape, eh_frame @ ..] = data else { return };
    let mut object = Object::new(&EhFrame {
        bytes: eh_frame.to_vec(),
    });
    object.section_headers = shape & 1 == 0;
    object.eh_frame_hdr = shape & 3 != 0;
    object.code = match shape >> 2 & 3 {
        0 => BEFORE.to_vec(),
        1 => vec![(CODE, CODE_BYTES), BEFORE[1]],
        2 => vec![(CODE, 0x80), (CODE + 0x80, 0x1_0000), (CODE + 0x1_0000, 0x80)],
        _ => vec![(CODE, CODE_BYTES)],
    };
    if shape >> 4 & 15 == 15 {
        object.claimed_bytes = Some(u64::MAX);
    }
    rows::check(&object.file());
}
