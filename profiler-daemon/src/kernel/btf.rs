//! Offsets of members of kernel structures, from the running kernel's BTF.
//!
//! In: the bytes of `/sys/kernel/btf/vmlinux`. Out: byte offsets. The format is that of
//! Documentation/bpf/btf.rst; only structures, unions and what must be skipped between them are understood.

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Anonymous members that may lie within each other.
const MAX_NESTING: u32 = 8;

/// The BTF cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF, or cut off.
    #[error("the kernel's BTF is malformed at byte {offset}")]
    Malformed {
        /// Where it stopped making sense.
        offset: usize,
    },
    /// A kind of type that this reader does not know the length of.
    #[error("the kernel's BTF has a type of unknown kind {kind}")]
    UnknownKind {
        /// Its number.
        kind: u32,
    },
}

/// The structures of a kernel.
#[derive(Debug)]
pub(super) struct Structures<'a> {
    /// By type id: offset of the type's own record.
    types: Vec<u32>,
    data: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structures<'a> {
    /// Finds the types in the bytes of a BTF file.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let word = |offset: usize| read_u32(data, offset).ok_or(BtfError::Malformed { offset });
        if word(0)? as u16 != MAGIC {
            return Err(BtfError::Malformed { offset: 0 });
        }
        let header = word(4)? as usize;
        let section = |offset: u32, length: u32| {
            let start = header.checked_add(offset as usize)?;
            data.get(start..start.checked_add(length as usize)?)
        };
        let malformed_header = BtfError::Malformed { offset: 8 };
        let types_data = section(word(8)?, word(12)?).ok_or(malformed_header)?;
        let strings = section(word(16)?, word(20)?).ok_or(BtfError::Malformed { offset: 16 })?;
        // Type 0 is `void` and has no record.
        let mut types = vec![u32::MAX];
        let mut offset = 0;
        while offset < types_data.len() {
            let information = read_u32(types_data, offset + 4).ok_or(BtfError::Malformed { offset })?;
            types.push(offset as u32);
            offset += 12 + record_length(information)?;
        }
        Ok(Self {
            types,
            data: types_data,
            strings,
        })
    }

    /// Byte offset of a member of a structure, members of anonymous members included.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.bit_offset(structure, member).map(|bits| bits / 8)
    }

    /// The same in bits, for members of a few bits.
    pub(super) fn bit_offset(&self, structure: &str, member: &str) -> Option<u64> {
        let id = (1..self.types.len()).find(|id| {
            let Some((name, information, _)) = self.header(*id) else {
                return false;
            };
            kind(information) == KIND_STRUCT
                && information & 0xffff != 0
                && self.name(name) == Some(structure.as_bytes())
        })?;
        self.member(id, member, MAX_NESTING)
    }

    fn member(&self, id: usize, member: &str, nesting: u32) -> Option<u64> {
        let nesting = nesting.checked_sub(1)?;
        let (_, information, record) = self.header(id)?;
        let bitfields = information >> 31 == 1;
        for index in 0..(information & 0xffff) as usize {
            let at = record + 12 + index * 12;
            let (name, kind_id, bits) = (
                read_u32(self.data, at)?,
                read_u32(self.data, at + 4)?,
                read_u32(self.data, at + 8)?,
            );
            let offset = u64::from(if bitfields { bits & 0xff_ffff } else { bits });
            if name != 0 {
                if self.name(name) == Some(member.as_bytes()) {
                    return Some(offset);
                }
                continue;
            }
            let is_compound = self
                .header(kind_id as usize)
                .is_some_and(|(_, information, _)| matches!(kind(information), KIND_STRUCT | KIND_UNION));
            if is_compound && let Some(inner) = self.member(kind_id as usize, member, nesting) {
                return Some(offset + inner);
            }
        }
        None
    }

    /// Name, information word and offset of a type's record.
    fn header(&self, id: usize) -> Option<(u32, u32, usize)> {
        let record = *self.types.get(id)? as usize;
        Some((
            read_u32(self.data, record)?,
            read_u32(self.data, record.checked_add(4)?)?,
            record,
        ))
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn kind(information: u32) -> u32 {
    (information >> 24) & 0x1f
}

/// Bytes after the common 12 of a type.
fn record_length(information: u32) -> Result<usize, BtfError> {
    let members = (information & 0xffff) as usize;
    match kind(information) {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => Ok(0),
        // Integers, variables, declaration tags.
        1 | 14 | 17 => Ok(4),
        // Arrays.
        3 => Ok(12),
        KIND_STRUCT | KIND_UNION | 15 | 19 => Ok(12 * members),
        // Enumerations, function prototypes.
        6 | 13 => Ok(8 * members),
        unknown => Err(BtfError::UnknownKind { kind: unknown }),
    }
}

fn read_u32(data: &[u8], offset: usize) -> Option<u32> {
    let bytes = data.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_running_kernel() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        let structures = Structures::parse(&data).unwrap();
        let (pid, tgid) = (
            structures.offset("task_struct", "pid"),
            structures.offset("task_struct", "tgid"),
        );
        // They have been neighbours of four bytes each since before there was BTF.
        assert_eq!(tgid, pid.map(|pid| pid + 4));
        assert_eq!(structures.offset("task_struct", "no_such_member"), None);
        // Two members of one bit each.
        let bit = |member| structures.bit_offset("task_struct", member).unwrap();
        assert_ne!(bit("in_iowait"), bit("in_execve"));
        // A member of an anonymous union in an anonymous structure.
        assert!(structures.offset("page", "mapping").is_some());
    }

    #[test]
    fn refuses_what_is_cut_off_or_not_btf() {
        assert_eq!(Structures::parse(b"").unwrap_err(), BtfError::Malformed { offset: 0 });
        assert_eq!(
            Structures::parse(&[0; 64]).unwrap_err(),
            BtfError::Malformed { offset: 0 }
        );
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        for length in (0..2000).chain([data.len() / 2, data.len() - 1]) {
            assert!(Structures::parse(&data[..length]).is_err(), "cut at {length}");
        }
    }
}
