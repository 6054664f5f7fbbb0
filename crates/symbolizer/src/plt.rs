//! Names of the stubs in procedure linkage tables, which have no symbols.
//!
//! Each stub jumps through a slot of the global offset table, and a relocation says which function that slot is for. The
//! jump itself is decoded, so that it does not matter which kind of table the linker wrote.

use std::collections::HashMap;

use object::{LittleEndian as LE, elf};

use crate::{
    elf::{ElfError, Layout, SectionHeader},
    functions::{Candidate, NameRef, Rank, for_each_record, for_each_symbol},
    limits::Limits,
    source::{ReadAt, read_exact_at},
};

/// Bytes of one procedure linkage table that are looked at.
const MAX_TABLE_BYTES: u64 = 4 << 20;
/// Stubs are aligned to this.
const STUB_ALIGNMENT: usize = 8;
/// `jmp *offset(%rip)`.
const INDIRECT_JUMP: [u8; 2] = [0xff, 0x25];
const INDIRECT_JUMP_BYTES: u64 = 6;
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const BND: u8 = 0xf2;

/// Adds a candidate for each stub whose target is known.
pub(crate) fn add_stubs(
    source: &dyn ReadAt,
    layout: &Layout,
    dynsym: &SectionHeader,
    limits: &Limits,
    candidates: &mut Vec<Candidate>,
) -> Result<(), ElfError> {
    if layout.machine != elf::EM_X86_64.0 {
        return Ok(());
    }
    let mut stubs = Vec::new();
    for section in &layout.sections {
        if section.is_code()
            && section.has_bytes()
            && section.name.starts_with(b".plt")
            && section.size <= MAX_TABLE_BYTES
        {
            read_stubs(source, section, &mut stubs)?;
        }
    }
    if stubs.is_empty() {
        return Ok(());
    }
    let slots = slot_targets(source, layout, dynsym, limits, &stubs)?;
    let resolvers = resolver_names(candidates, &slots);
    for stub in stubs {
        let name = match slots.get(&stub.slot) {
            Some(Target::Name(name)) => *name,
            Some(Target::Resolver(address)) => match resolvers.get(address) {
                Some(name) => *name,
                None => continue,
            },
            None => continue,
        };
        if candidates.len() >= limits.functions {
            break;
        }
        candidates.push(Candidate {
            start: stub.start,
            end: stub.end,
            rank: Rank::Stub,
            name: name.stub(),
        });
    }
    Ok(())
}

struct Stub {
    start: u64,
    end: u64,
    /// Link address of the slot that it jumps through.
    slot: u64,
}

/// What a slot will hold.
enum Target {
    Name(NameRef),
    /// The result of the function at this address, which picks an implementation at load time.
    Resolver(u64),
}

fn read_stubs(source: &dyn ReadAt, section: &SectionHeader, stubs: &mut Vec<Stub>) -> Result<(), ElfError> {
    let mut bytes = vec![0; section.size as usize];
    read_exact_at(source, section.offset, &mut bytes)?;
    let first = stubs.len();
    for offset in (0..bytes.len()).step_by(STUB_ALIGNMENT) {
        let start = section.address.wrapping_add(offset as u64);
        if let Some(slot) = jump_slot(&bytes[offset..], start) {
            stubs.push(Stub {
                start,
                end: start,
                slot,
            });
        }
    }
    // A stub lasts until the next one; all stubs of a table have one size.
    let step = stubs[first..]
        .windows(2)
        .map(|pair| pair[1].start - pair[0].start)
        .min();
    for stub in &mut stubs[first..] {
        stub.end = stub
            .start
            .saturating_add(step.unwrap_or(STUB_ALIGNMENT as u64))
            .min(section.end());
    }
    Ok(())
}

/// The slot that a stub at `address` jumps through, if the code is one.
fn jump_slot(code: &[u8], address: u64) -> Option<u64> {
    let mut rest = code.strip_prefix(&ENDBR64).unwrap_or(code);
    rest = rest.strip_prefix(&[BND]).unwrap_or(rest);
    let passed = (code.len() - rest.len()) as u64;
    let displacement = rest.strip_prefix(&INDIRECT_JUMP)?.first_chunk()?;
    let next = address.wrapping_add(passed + INDIRECT_JUMP_BYTES);
    Some(next.wrapping_add_signed(i64::from(i32::from_le_bytes(*displacement))))
}

fn slot_targets(
    source: &dyn ReadAt,
    layout: &Layout,
    dynsym: &SectionHeader,
    limits: &Limits,
    stubs: &[Stub],
) -> Result<HashMap<u64, Target>, ElfError> {
    let mut wanted: Vec<u64> = stubs.iter().map(|stub| stub.slot).collect();
    wanted.sort_unstable();
    let mut symbol_slots: HashMap<usize, Vec<u64>> = HashMap::new();
    let mut targets = HashMap::new();
    for section in layout
        .sections
        .iter()
        .filter(|section| matches!(&*section.name, b".rela.plt" | b".rela.dyn"))
    {
        for_each_record(
            source,
            section,
            limits,
            "bytes of relocations",
            |_, relocation: &elf::Rela64<LE>| {
                let slot = relocation.r_offset.get(LE);
                let kind = relocation.r_type(LE, false);
                let is_symbol = kind == elf::R_X86_64_JUMP_SLOT || kind == elf::R_X86_64_GLOB_DAT;
                if wanted.binary_search(&slot).is_err() {
                    return Ok(());
                }
                if is_symbol {
                    symbol_slots
                        .entry(relocation.r_sym(LE, false) as usize)
                        .or_default()
                        .push(slot);
                } else if kind == elf::R_X86_64_IRELATIVE {
                    targets.insert(slot, Target::Resolver(relocation.r_addend.get(LE).cast_unsigned()));
                }
                Ok(())
            },
        )?;
    }
    for_each_symbol(source, dynsym, limits, |index, symbol| {
        let name = NameRef::new(symbol.st_name.get(LE), true);
        if let (Some(slots), Some(name)) = (symbol_slots.get(&index), name) {
            targets.extend(slots.iter().map(|slot| (*slot, Target::Name(name))));
        }
        Ok(())
    })?;
    Ok(targets)
}

/// The best names of the functions that pick implementations.
fn resolver_names(candidates: &[Candidate], slots: &HashMap<u64, Target>) -> HashMap<u64, NameRef> {
    let resolvers = slots.values().filter_map(|target| match target {
        Target::Resolver(address) => Some((*address, None)),
        Target::Name(_) => None,
    });
    let mut names: HashMap<u64, Option<Candidate>> = resolvers.collect();
    if !names.is_empty() {
        for candidate in candidates {
            if let Some(best) = names.get_mut(&candidate.start)
                && best.is_none_or(|best| candidate.rank < best.rank)
            {
                *best = Some(*candidate);
            }
        }
    }
    names
        .into_iter()
        .filter_map(|(address, best)| Some((address, best?.name)))
        .collect()
}
