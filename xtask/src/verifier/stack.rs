//! How deep the stack of a program gets, counted as kernels do that have one stack of 512 bytes for a whole chain of calls.
//!
//! Newer kernels (6.13 on x86) can give functions stacks of their own and say nothing about a chain that is too deep
//! for others, so it is found in the object: what each function touches below its frame pointer, and who calls whom.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// What a chain may take.
pub const LIMIT: u32 = 512;
/// Each function's part is rounded up to this, by kernels that compile programs.
const STEP: u32 = 16;

/// Number of the section, and the offset in it.
type Place = (usize, u64);

/// The deepest chain of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What it takes.
    pub bytes: u32,
    /// The functions, outermost first, with what each takes.
    pub functions: Vec<(String, u32)>,
}

/// The deepest chain that begins in `program`.
pub fn deepest(object: &[u8], program: &str) -> Result<Chain> {
    let functions = functions(object)?;
    let start = functions.iter().find(|(_, function)| function.name == program);
    let (start, _) = start.with_context(|| format!("no program {program} in the object"))?;
    let mut known = HashMap::new();
    chain(&functions, *start, &mut known)
}

struct Function {
    name: String,
    bytes: u32,
    calls: Vec<Place>,
}

fn chain(functions: &BTreeMap<Place, Function>, at: Place, known: &mut HashMap<Place, Chain>) -> Result<Chain> {
    if let Some(chain) = known.get(&at) {
        return Ok(chain.clone());
    }
    let Some(function) = functions.get(&at) else {
        bail!(
            "a call leads to offset {} of section {}, where no function is",
            at.1,
            at.0
        );
    };
    // The kernel takes no recursion, so this ends.
    let mut below = Chain::default();
    for call in &function.calls {
        let candidate = chain(functions, *call, known)?;
        if candidate.bytes > below.bytes {
            below = candidate;
        }
    }
    let own = function.bytes.max(1).next_multiple_of(STEP);
    let mut all = vec![(function.name.clone(), own)];
    all.extend(below.functions);
    let result = Chain {
        bytes: own + below.bytes,
        functions: all,
    };
    known.insert(at, result.clone());
    Ok(result)
}

fn functions(object: &[u8]) -> Result<BTreeMap<Place, Function>> {
    let file = File::parse(object).context("the object is no ELF file")?;
    let mut targets = HashMap::new();
    for section in file.sections() {
        for (offset, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = file.symbol_by_index(index)?;
                let Some(of) = symbol.section_index() else { continue };
                let kind = symbol.kind();
                targets.insert((section.index().0, offset), (of.0, symbol.address(), kind));
            }
        }
    }
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index)?;
        let code = section.data()?;
        let (start, end) = (symbol.address(), symbol.address() + symbol.size());
        let code = code
            .get(start as usize..end as usize)
            .with_context(|| format!("{} is not whole", symbol.name().unwrap_or("a function")))?;
        let mut function = Function {
            name: symbol.name()?.to_owned(),
            bytes: depth(code),
            calls: Vec::new(),
        };
        for (number, instruction) in code.as_chunks::<8>().0.iter().enumerate() {
            if !is_call(instruction) {
                continue;
            }
            let offset = start + number as u64 * 8;
            let behind = |from: u64| from.wrapping_add_signed((i64::from(immediate(instruction)) + 1) * 8);
            function.calls.push(match targets.get(&(index.0, offset)) {
                Some((section, address, SymbolKind::Text)) => (*section, *address),
                Some((section, address, _)) => (*section, behind(*address)),
                None => (index.0, behind(offset)),
            });
        }
        functions.insert((index.0, start), function);
    }
    Ok(functions)
}

// The instruction set (RFC 9669): class in the low three bits of the first byte, registers in the second one.
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const CALL: u8 = 0x85;
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;
/// Marks a call of another function of the program.
const LOCAL_CALL: u8 = 1;
const FRAME_POINTER: u8 = 10;

/// How far below its frame pointer a function goes, in bytes.
fn depth(code: &[u8]) -> u32 {
    let mut lowest = 0;
    // Registers that hold the frame pointer itself.
    let mut holds = [false; 16];
    for instruction in code.as_chunks::<8>().0 {
        let (operation, registers) = (instruction[0], instruction[1]);
        let (destination, source) = (registers & 15, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        match operation & 7 {
            ST | STX if destination == FRAME_POINTER => lowest = lowest.min(offset),
            LDX if source == FRAME_POINTER => lowest = lowest.min(offset),
            _ => {}
        }
        let writes = !matches!(operation & 7, ST | STX | 5 | 6);
        if operation == ADD_IMMEDIATE && holds[usize::from(destination)] {
            lowest = lowest.min(immediate(instruction));
        }
        if writes {
            holds[usize::from(destination)] = operation == MOVE && source == FRAME_POINTER;
        }
    }
    lowest.unsigned_abs()
}

fn is_call(instruction: &[u8; 8]) -> bool {
    instruction[0] == CALL && instruction[1] >> 4 == LOCAL_CALL
}

fn immediate(instruction: &[u8; 8]) -> i32 {
    i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_the_frame_pointer_counts() {
        // *(u64 *)(r10 - 24) = r1; r2 = r10; r2 += -40; r3 = *(u64 *)(r1 - 99); exit
        #[rustfmt::skip]
        let code = [
            0x7b, 0x1a, 0xe8, 0xff, 0, 0, 0, 0,
            0xbf, 0xa2, 0, 0, 0, 0, 0, 0,
            0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff,
            0x79, 0x13, 0x9d, 0xff, 0, 0, 0, 0,
            0x95, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(depth(&code), 40);
        assert_eq!(depth(&code[..8]), 24);
        assert_eq!(depth(&code[24..]), 0);
    }

    #[test]
    fn the_deepest_of_several_ways_counts() {
        let function = |name: &str, bytes, calls: &[u64]| Function {
            name: name.into(),
            bytes,
            calls: calls.iter().map(|place| (1, *place)).collect(),
        };
        let functions = BTreeMap::from([
            ((1, 0), function("a", 20, &[8, 16])),
            ((1, 8), function("b", 0, &[16])),
            ((1, 16), function("c", 100, &[])),
        ]);
        let chain = chain(&functions, (1, 0), &mut HashMap::new()).unwrap();
        assert_eq!(chain.bytes, 32 + 16 + 112);
        let names: Vec<&str> = chain.functions.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
