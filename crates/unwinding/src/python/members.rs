//! The interpreter's own description of its code objects: `PyCode_Type.tp_members`, a list of names with offsets.
//!
//! It is what `co_filename` and the like are read by in Python, so it is right whoever built the interpreter. The offsets that
//! are to be used are held against it.

use super::error::PythonError;
use super::memory::{ProcessMemory, Reads, word_at};
use super::offsets::Offsets;

/// Size of an entry, `PyMemberDef`: name, kind, offset, flags, documentation.
const ENTRY_BYTES: u64 = 40;
/// Where its offset lies.
const ENTRY_OFFSET: u32 = 16;
/// Most entries; code objects have some twenty.
const MAX_ENTRIES: u64 = 64;
/// Most bytes of a name that are read, longer than any that is looked for.
const NAME_BYTES: usize = 16;

/// Holds the offsets against the list.
///
/// # Errors
/// [`PythonError::OffsetDiffers`] if one of them is another in the list, or [`PythonError::Unreadable`] if there is no list.
pub(super) fn compare(
    memory: &(impl ProcessMemory + ?Sized),
    code_type: u64,
    offsets: &Offsets,
) -> Result<(), PythonError> {
    let unreadable = PythonError::Unreadable {
        what: "the members of code objects",
    };
    let expected = expected(offsets);
    let mut found = 0;
    let list = memory
        .word(code_type.wrapping_add(u64::from(offsets.object.members)))
        .ok_or(unreadable.clone())?;
    for index in 0..MAX_ENTRIES {
        let entry: [u8; ENTRY_BYTES as usize] = memory
            .array(list.wrapping_add(index * ENTRY_BYTES))
            .ok_or(unreadable.clone())?;
        let (Some(name), Some(value)) = (word_at(&entry, 0), word_at(&entry, ENTRY_OFFSET)) else {
            break;
        };
        if name == 0 {
            break;
        }
        let name: [u8; NAME_BYTES] = memory.array(name).ok_or(unreadable.clone())?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        for (field, offset) in expected.iter().copied() {
            if name[..length] != *field.as_bytes() {
                continue;
            }
            if value != u64::from(offset) {
                return Err(PythonError::OffsetDiffers {
                    field,
                    expected: offset,
                    found: value,
                });
            }
            found += 1;
        }
    }
    // These three have been in the list of every version.
    if found < 3 {
        return Err(unreadable);
    }
    Ok(())
}

fn expected(offsets: &Offsets) -> Vec<(&'static str, u32)> {
    let code = offsets.code;
    let mut expected = vec![
        ("co_argcount", code.argument_count),
        ("co_firstlineno", code.first_line),
        ("co_filename", code.filename),
        ("co_name", code.name),
    ];
    expected.extend(code.qualified_name.map(|offset| ("co_qualname", offset)));
    expected
}
