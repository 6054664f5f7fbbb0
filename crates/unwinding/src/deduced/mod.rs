//! Rules of code that nothing describes, deduced from its instructions.
//!
//! In: bytes of code between functions that call frame information describes: kernels of numeric libraries written in
//! assembly, and code that is made while a program runs. Out: rules for the functions in it that can be followed whole.
//!
//! From what is taken to be a function's first instruction all ways through it are followed, and with them what has become of
//! the stack pointer and of `rbp`. It counts as a function only if every way ends as it must: at a return, or a jump to
//! other code, with the stack pointer and `rbp` back where they were at the call, or at a trap. Otherwise, or where ways
//! meet code that was followed before and disagree with it, nothing of it gets a rule. What is taken for
//! granted is what call frame information takes for granted, too: that a function that is called gives back the registers
//! that it has to preserve, and that nobody writes to a frame but its function.

mod state;
mod step;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use profiler_common::row::Row;

use state::State;
use step::{Next, step};

/// What functions are aligned to.
const ALIGNMENT: u64 = 16;
/// Most instructions of one function.
const MAX_INSTRUCTIONS: usize = 1 << 17;
/// Most different states of one function.
const MAX_STATES: usize = 1 << 12;
/// Ways that wait to be followed.
const MAX_WAYS: usize = 1 << 12;
/// Instructions that may be looked at for each byte of code: a failed function is looked at again from further places.
const EFFORT_PER_BYTE: u64 = 4;

/// What was deduced for a piece of code.
#[derive(Debug, Default)]
pub(crate) struct Deduced {
    /// Rules by their first address: the address after the last, and the rule.
    rules: BTreeMap<u64, (u64, Row)>,
    /// Functions that were followed whole.
    pub(crate) functions: u64,
}

impl Deduced {
    /// The rules, in the order of addresses.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (Range<u64>, Row)> {
        self.rules.iter().map(|(start, (end, rule))| (*start..*end, *rule))
    }

    /// Bytes of code with a rule.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.rules().map(|(range, _)| range.end - range.start).sum()
    }

    fn rule(&self, address: u64) -> Option<Row> {
        let (_, (end, rule)) = self.rules.range(..=address).next_back()?;
        (*end > address).then_some(*rule)
    }

    /// Where the rules that follow one another from an address end, as far as some other address.
    fn end_of_known(&self, mut address: u64, until: u64) -> u64 {
        while address < until
            && let Some((_, (end, _))) = self.rules.range(..=address).next_back()
            && *end > address
        {
            address = *end;
        }
        address
    }

    /// Whether none of these rules contradicts another.
    fn agrees(&self, rules: &[(Range<u64>, Row)]) -> bool {
        rules.iter().all(|(range, rule)| {
            let mut overlapping = self.rules.range(..range.end).rev();
            overlapping
                .by_ref()
                .take_while(|(_, (end, _))| *end > range.start)
                .all(|(_, (_, known))| known.rule() == rule.rule())
        })
    }

    fn add(&mut self, rules: &[(Range<u64>, Row)]) {
        for (range, rule) in rules {
            let mut start = range.start;
            while start < range.end {
                start = self.end_of_known(start, range.end);
                let next = self.rules.range(start..).next().map_or(u64::MAX, |(next, _)| *next);
                let end = range.end.min(next);
                if start < end {
                    self.rules.insert(start, (end, *rule));
                }
                start = end.max(start);
                if next >= range.end {
                    break;
                }
            }
        }
    }
}

/// Deduces the rules of code that begins at a link address, where a function begins or padding.
pub(crate) fn deduce(code: &[u8], start: u64) -> Deduced {
    let mut deduced = Deduced::default();
    // What cannot be is not searched; addresses behind the last one are reckoned with below.
    let Some(end) = start.checked_add(code.len() as u64 + ALIGNMENT) else {
        return deduced;
    };
    let end = end - ALIGNMENT;
    let mut effort = (code.len() as u64).saturating_mul(EFFORT_PER_BYTE);
    let mut address = start;
    while address < end && effort > 0 {
        address = behind_padding(code, start, address);
        if deduced.rule(address).is_some() {
            address = deduced.end_of_known(address, end);
            continue;
        }
        let mut function = Function::new(code, start, address);
        let outcome = function.follow(&deduced, &mut effort).and_then(|()| function.rules());
        let behind = match outcome {
            Some(rules) if deduced.agrees(&rules) => {
                deduced.add(&rules);
                deduced.functions += 1;
                deduced.end_of_known(address, end)
            }
            _ => behind_failed(code, start, address, &mut effort),
        };
        address = behind.max(address + 1);
    }
    deduced
}

fn decoder(code: &[u8], start: u64, address: u64) -> Decoder<'_> {
    let rest = address
        .checked_sub(start)
        .and_then(|offset| code.get(usize::try_from(offset).ok()?..));
    Decoder::with_ip(64, rest.unwrap_or_default(), address, DecoderOptions::NONE)
}

/// The next address that is no padding: instructions that do nothing, traps, or zeros up to the next function.
fn behind_padding(code: &[u8], start: u64, mut address: u64) -> u64 {
    let mut decoder = decoder(code, start, address);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        match instruction.mnemonic() {
            Mnemonic::Nop | Mnemonic::Int3 => address = instruction.next_ip(),
            _ => break,
        }
    }
    let offset = (address - start) as usize;
    let zeros = code.iter().skip(offset).take_while(|byte| **byte == 0).count() as u64;
    if zeros == 0 {
        return address;
    }
    let (aligned, behind) = ((address + zeros) & !(ALIGNMENT - 1), address + zeros);
    // A function may begin with a zero byte, though none does; what follows zeros is tried where functions are aligned.
    if aligned > address { aligned } else { behind }
}

/// Where the next function may begin, behind code that could not be followed: aligned, behind an instruction that leads
/// nowhere else.
fn behind_failed(code: &[u8], start: u64, address: u64, effort: &mut u64) -> u64 {
    let mut instruction = Instruction::default();
    let mut decoder = decoder(code, start, address);
    while decoder.can_decode() && *effort > 0 {
        *effort -= 1;
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // What comes here is no code, or none in this place.
            return (instruction.next_ip() + 1).next_multiple_of(ALIGNMENT);
        }
        let ends = matches!(
            instruction.mnemonic(),
            Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2 | Mnemonic::Int3 | Mnemonic::Hlt
        );
        if ends {
            let next = behind_padding(code, start, instruction.next_ip());
            if next.is_multiple_of(ALIGNMENT) {
                return next;
            }
            // Each trap among the padding would lead to the same place.
            *effort = effort.saturating_sub(next - instruction.next_ip());
            decoder = self::decoder(code, start, next);
        }
    }
    u64::MAX
}

/// What is known at an instruction, by its number, and how long the instruction is.
#[derive(Clone, Copy, Debug)]
struct Place {
    state: u16,
    length: u8,
}

/// One function while it is followed.
#[derive(Debug)]
struct Function<'code> {
    code: &'code [u8],
    /// Address of the first byte of the code.
    start: u64,
    places: BTreeMap<u64, Place>,
    states: Vec<State>,
    numbers: HashMap<State, u16>,
    ways: Vec<(u64, u16)>,
    /// Ways that ended as they must.
    exits: u32,
}

impl<'code> Function<'code> {
    fn new(code: &'code [u8], start: u64, entry: u64) -> Self {
        let mut function = Self {
            code,
            start,
            places: BTreeMap::new(),
            states: Vec::new(),
            numbers: HashMap::new(),
            ways: Vec::new(),
            exits: 0,
        };
        let first = function.number(State::at_entry());
        function.ways.extend(first.map(|first| (entry, first)));
        function
    }

    fn number(&mut self, state: State) -> Option<u16> {
        if let Some(number) = self.numbers.get(&state) {
            return Some(*number);
        }
        let number = u16::try_from(self.states.len()).ok()?;
        if self.states.len() >= MAX_STATES {
            return None;
        }
        self.states.push(state);
        self.numbers.insert(state, number);
        Some(number)
    }

    /// Follows all ways. `None` if one of them leads nowhere that it may, or if it takes too long.
    fn follow(&mut self, known: &Deduced, effort: &mut u64) -> Option<()> {
        while let Some((address, state)) = self.ways.pop() {
            self.follow_way(address, state, known, effort)?;
        }
        (self.exits > 0).then_some(())
    }

    fn follow_way(&mut self, mut address: u64, mut number: u16, known: &Deduced, effort: &mut u64) -> Option<()> {
        let mut decoder = decoder(self.code, self.start, address);
        let mut instruction = Instruction::default();
        loop {
            let mut state = *self.states.get(usize::from(number))?;
            let mut before = state;
            if let Some(place) = self.places.get(&address).copied() {
                let met = state.meet(self.states.get(usize::from(place.state))?);
                let met_number = self.number(met)?;
                if met_number == place.state {
                    return Some(());
                }
                (state, before, number) = (met, met, met_number);
            }
            if let Some(rule) = known.rule(address) {
                // It was followed before, to its end.
                self.exits += 1;
                return (rule.rule() == state.rule().rule()).then_some(());
            }
            *effort = effort.checked_sub(1)?;
            if !decoder.can_decode() || self.places.len() >= MAX_INSTRUCTIONS {
                return None;
            }
            decoder.decode_out(&mut instruction);
            let length = instruction.len() as u8;
            self.places.insert(address, Place { state: number, length });
            match step(&instruction, &mut state) {
                Next::Behind => {}
                Next::Either(target) => self.go(target, state)?,
                Next::Jump(target) => return self.go(target, state),
                // Through a table within the function, or to another one: only the latter is known to be right.
                Next::Return | Next::Elsewhere => return self.leave(&state),
                Next::Nowhere => return Some(()),
                Next::Unknown => return None,
            }
            // Most instructions change nothing of it.
            if state != before {
                number = self.number(state)?;
            }
            address = instruction.next_ip();
        }
    }

    fn leave(&mut self, state: &State) -> Option<()> {
        self.exits += 1;
        state.may_leave().then_some(())
    }

    /// Notes a way to be followed, or that it leaves the code.
    fn go(&mut self, target: u64, state: State) -> Option<()> {
        let is_here = target
            .checked_sub(self.start)
            .is_some_and(|offset| offset < self.code.len() as u64);
        if !is_here {
            return self.leave(&state);
        }
        let number = self.number(state)?;
        if self.ways.len() >= MAX_WAYS {
            return None;
        }
        self.ways.push((target, number));
        Some(())
    }

    /// The rules of what was followed. `None` if instructions lie within others.
    fn rules(&self) -> Option<Vec<(Range<u64>, Row)>> {
        let by_state: Vec<Row> = self.states.iter().map(State::rule).collect();
        let mut rules: Vec<(Range<u64>, Row)> = Vec::new();
        for (address, place) in &self.places {
            let rule = *by_state.get(usize::from(place.state))?;
            let end = address.checked_add(place.length.into())?;
            match rules.last_mut() {
                Some((range, _)) if range.end > *address => return None,
                Some((range, last)) if range.end == *address && *last == rule => range.end = end,
                _ => rules.push((*address..end, rule)),
            }
        }
        Some(rules)
    }
}

#[cfg(test)]
mod tests;
