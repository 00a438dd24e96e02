//! What a relocation does: which bytes change, and to what value.
//!
//! Pure: decided from the relocation, the instruction around it, and facts about its target.
//! The scan that sizes tables and the pass that writes bytes both ask here, so they cannot
//! disagree. Source: System V ABI, AMD64 supplement, 1.0, chapters 4.4 (relocations) and B
//! (linker optimizations), and Ulrich Drepper's "ELF handling for thread-local storage".
//!
//! A static executable needs neither dynamic thread-local storage nor, where addresses are
//! known, loads from an offset table: both become direct.

use goblin::elf::reloc as r;

/// Facts about a relocation's target that decide between forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetFacts {
    /// Who settles what it is.
    pub(super) settled: Settled,
    /// It is a number, not a place: it may be too far for an instruction-relative operand.
    pub(super) is_number: bool,
    /// Zero stands for it if the program has no such thing. Zero does not move with the image, so it is found through the
    /// offset table.
    pub(super) may_be_absent: bool,
    /// What the section is.
    pub(super) place: Referrer,
}

/// What refers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Referrer {
    Data,
    /// Code, of which accesses to thread-local variables are rewritten.
    Code,
    /// Code that reaches other units through an offset table, too: a library's, or that of an application whose
    /// libraries can move by themselves.
    CodeWithTable,
}

/// Who settles what a reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The image: an import.
    ByImage,
    /// The unit, but programs are known to have one of their own, so that it is found through the offset table.
    Replaceable,
    /// The unit, but it is one of several copies, and the program may count another: so its address is found through the
    /// offset table. Any will do to be called.
    Copy,
    /// The unit.
    ByUnit,
}

impl TargetFacts {
    /// Its address is known when the unit is linked.
    pub(super) fn is_known(self) -> bool {
        self.settled != Settled::ByImage
    }

    /// Other units are reached through an offset table.
    pub(super) fn has_table(self) -> bool {
        self.place == Referrer::CodeWithTable
    }

    fn in_code(self) -> bool {
        self.place != Referrer::Data
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    /// Bytes to replace, at offsets relative to the relocation.
    pub(super) edits: Vec<(i64, &'static [u8])>,
    /// Where the field is, relative to the relocation.
    pub(super) field: i64,
    pub(super) width: Width,
    pub(super) value: Value,
    /// Replaces the relocation's addend.
    pub(super) addend: i64,
    /// What the entry of the offset table adds to the target's address.
    pub(super) entry: i64,
    /// Where the next relocation is, relative to this: that of the call to `__tls_get_addr`, which has nothing to do.
    pub(super) takes_next: Option<i64>,
}

/// The field's size and which values fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    None,
    Signed(u8),
    Unsigned(u8),
    /// Signed or unsigned.
    Either(u8),
    Eight,
}

/// What the field is set to. S: the target, A: the addend, P: the field's address, G: the
/// target's entry in the unit's offset table, T: that table, TP: the thread pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nothing,
    /// S + A
    Address,
    /// S + A - P
    Distance,
    /// S + A - P, where a stub may stand in for S
    Branch,
    /// G + A - P
    EntryDistance,
    /// G + A - T
    EntryOffset,
    /// T + A - P
    TableDistance,
    /// S + A - T
    TableOffset,
    /// S + A - TP
    ThreadOffset,
    /// G + A - P, for an entry that holds S - TP
    ThreadEntryDistance,
    /// D + A - P, where D is the detour that the instruction takes
    Detour,
    /// S + A - the start of the image's thread-local block
    BlockOffset,
    /// size of S + A
    Size,
}

impl Value {
    /// True when the target's address itself goes into the section.
    pub(super) fn is_direct(self) -> bool {
        matches!(
            self,
            Self::Address
                | Self::Distance
                | Self::TableOffset
                | Self::ThreadOffset
                | Self::BlockOffset
                | Self::Size
        )
    }
}

const MOV_FS0_RAX: &[u8] = b"\x64\x48\x8b\x04\x25\x00\x00\x00\x00";

/// The patch for a relocation of type `kind` at `offset` in `code`.
pub(super) fn patch(
    kind: u32,
    addend: i64,
    code: &[u8],
    offset: u64,
    facts: TargetFacts,
) -> Result<Patch, String> {
    let plain = |width, value| Patch {
        edits: Vec::new(),
        field: 0,
        width,
        value,
        addend,
        entry: 0,
        takes_next: None,
    };
    let at = Code { code, offset };
    Ok(match kind {
        r::R_X86_64_NONE => plain(Width::None, Value::Nothing),
        r::R_X86_64_64 => plain(Width::Eight, Value::Address),
        r::R_X86_64_32 => plain(Width::Unsigned(4), Value::Address),
        r::R_X86_64_32S => plain(Width::Signed(4), Value::Address),
        r::R_X86_64_16 => plain(Width::Either(2), Value::Address),
        r::R_X86_64_8 => plain(Width::Either(1), Value::Address),
        r::R_X86_64_PC64 => plain(Width::Eight, Value::Distance),
        r::R_X86_64_PC32
            if facts.has_table()
                && facts.settled != Settled::ByUnit
                && addend == -4
                && at.is_branch() =>
        {
            plain(Width::Signed(4), Value::Branch)
        }
        r::R_X86_64_PC32 => plain(Width::Signed(4), Value::Distance),
        r::R_X86_64_PC16 => plain(Width::Signed(2), Value::Distance),
        r::R_X86_64_PC8 => plain(Width::Signed(1), Value::Distance),
        // A stub stands for the function's beginning alone.
        r::R_X86_64_PLT32
            if facts.in_code() && facts.settled != Settled::ByUnit && addend != -4 =>
        {
            plain(Width::Signed(4), Value::Distance)
        }
        r::R_X86_64_PLT32 => plain(Width::Signed(4), Value::Branch),
        r::R_X86_64_GOTPCREL => plain(Width::Signed(4), Value::EntryDistance),
        r::R_X86_64_GOTPCREL64 => plain(Width::Eight, Value::EntryDistance),
        r::R_X86_64_GOTPCRELX | r::R_X86_64_REX_GOTPCRELX => {
            let is_near =
                facts.settled == Settled::ByUnit && !facts.is_number && !facts.may_be_absent;
            let direct = (is_near && addend == -4)
                .then(|| without_table(&at))
                .flatten();
            direct.unwrap_or_else(|| plain(Width::Signed(4), Value::EntryDistance))
        }
        r::R_X86_64_GOT32 => plain(Width::Signed(4), Value::EntryOffset),
        r::R_X86_64_GOT64 | r::R_X86_64_GOTPLT64 => plain(Width::Eight, Value::EntryOffset),
        r::R_X86_64_GOTPC32 => plain(Width::Signed(4), Value::TableDistance),
        r::R_X86_64_GOTPC64 => plain(Width::Eight, Value::TableDistance),
        r::R_X86_64_GOTOFF64 | r::R_X86_64_PLTOFF64 => plain(Width::Eight, Value::TableOffset),
        r::R_X86_64_TPOFF32 => plain(Width::Signed(4), Value::ThreadOffset),
        r::R_X86_64_TPOFF64 => plain(Width::Eight, Value::ThreadOffset),
        // Code adds it to what __tls_get_addr returned, which is now the thread pointer.
        r::R_X86_64_DTPOFF32 if facts.in_code() => plain(Width::Signed(4), Value::ThreadOffset),
        r::R_X86_64_DTPOFF64 if facts.in_code() => plain(Width::Eight, Value::ThreadOffset),
        r::R_X86_64_DTPOFF32 => plain(Width::Signed(4), Value::BlockOffset),
        r::R_X86_64_DTPOFF64 => plain(Width::Eight, Value::BlockOffset),
        r::R_X86_64_GOTTPOFF => initial_exec(&at, addend, facts)
            .unwrap_or_else(|| plain(Width::Signed(4), Value::ThreadEntryDistance)),
        r::R_X86_64_TLSGD => general_dynamic(&at, addend, facts)?,
        r::R_X86_64_TLSLD => local_dynamic(&at)?,
        r::R_X86_64_GOTPC32_TLSDESC => descriptor(&at, addend, facts)?,
        r::R_X86_64_TLSDESC_CALL => Patch {
            edits: vec![(0, b"\x66\x90")],
            ..plain(Width::None, Value::Nothing)
        },
        r::R_X86_64_SIZE32 => plain(Width::Either(4), Value::Size),
        r::R_X86_64_SIZE64 => plain(Width::Eight, Value::Size),
        other => {
            return Err(format!(
                "relocation R_{} cannot occur in a static link: compile without -fPIC extensions or \
                 the large code model",
                r::r_to_str(other, goblin::elf::header::EM_X86_64)
            ));
        }
    })
}

/// The bytes around a relocation.
struct Code<'a> {
    code: &'a [u8],
    offset: u64,
}

impl Code<'_> {
    fn byte(&self, relative: i64) -> Option<u8> {
        let at = usize::try_from(self.offset as i64 + relative).ok()?;
        self.code.get(at).copied()
    }

    fn is(&self, relative: i64, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .enumerate()
            .all(|(i, b)| self.byte(relative + i as i64) == Some(*b))
    }

    /// A call, jump or conditional jump, whose opcodes are no instruction's with an operand at a distance.
    fn is_branch(&self) -> bool {
        match self.byte(-1) {
            Some(0xe8 | 0xe9) => true,
            Some(0x80..=0x8f) => self.byte(-2) == Some(0x0f),
            _ => false,
        }
    }
}

/// `mov sym@GOTPCREL(%rip), reg` to `lea sym(%rip), reg`; `call *` and `jmp *` to direct ones.
fn without_table(at: &Code<'_>) -> Option<Patch> {
    let patch = |edits, field| Patch {
        edits,
        field,
        width: Width::Signed(4),
        value: Value::Distance,
        addend: -4,
        entry: 0,
        takes_next: None,
    };
    match (at.byte(-2)?, at.byte(-1)?) {
        (0x8b, modrm) if modrm & 0xc7 == 0x05 => Some(patch(vec![(-2, b"\x8d")], 0)),
        // The prefix keeps the length; it changes nothing.
        (0xff, 0x15) => Some(patch(vec![(-2, b"\x67\xe8")], 0)),
        (0xff, 0x25) => Some(patch(vec![(-2, b"\xe9"), (3, b"\x90")], -1)),
        _ => None,
    }
}

/// `mov sym@gottpoff(%rip), reg` and `add` to their immediate forms.
fn initial_exec(at: &Code<'_>, addend: i64, facts: TargetFacts) -> Option<Patch> {
    if facts.settled != Settled::ByUnit || addend != -4 {
        return None;
    }
    let modrm = at.byte(-1)?;
    if modrm & 0xc7 != 0x05 {
        return None;
    }
    let register = usize::from(modrm >> 3 & 7);
    let opcode: &'static [[u8; 3]; 8] = match (at.byte(-3)?, at.byte(-2)?) {
        (0x48, 0x8b) => &immediate::MOV,
        (0x4c, 0x8b) => &immediate::MOV_HIGH,
        (0x48, 0x03) => &immediate::ADD,
        (0x4c, 0x03) => &immediate::ADD_HIGH,
        _ => return None,
    };
    Some(Patch {
        edits: vec![(-3, &opcode[register])],
        field: 0,
        width: Width::Signed(4),
        value: Value::ThreadOffset,
        addend: 0,
        entry: 0,
        takes_next: None,
    })
}

/// Instructions with an immediate operand, by register.
mod immediate {
    macro_rules! by_register {
        ($rex:literal, $opcode:literal) => {
            [
                [$rex, $opcode, 0xc0],
                [$rex, $opcode, 0xc1],
                [$rex, $opcode, 0xc2],
                [$rex, $opcode, 0xc3],
                [$rex, $opcode, 0xc4],
                [$rex, $opcode, 0xc5],
                [$rex, $opcode, 0xc6],
                [$rex, $opcode, 0xc7],
            ]
        };
    }
    pub(super) static MOV: [[u8; 3]; 8] = by_register!(0x48, 0xc7);
    pub(super) static MOV_HIGH: [[u8; 3]; 8] = by_register!(0x49, 0xc7);
    pub(super) static ADD: [[u8; 3]; 8] = by_register!(0x48, 0x81);
    pub(super) static ADD_HIGH: [[u8; 3]; 8] = by_register!(0x49, 0x81);
}

pub(super) fn unknown_sequence(what: &str) -> String {
    format!(
        "unknown instructions around the {what} access to a thread-local variable: compile with -ftls-model=local-exec or \
         initial-exec"
    )
}

/// Where the call's own relocation is in the large code model.
const LARGE_CALL: i64 = 6;

/// The call of the large code model behind an access: `movabs $__tls_get_addr@pltoff, %rax; add %rbx, %rax; call *%rax`,
/// or with `%r15`, where the table is.
fn is_large_call(at: &Code<'_>) -> bool {
    let adds = at.is(14, b"\x48\x01\xd8") || at.is(14, b"\x4c\x01\xf8");
    at.is(-3, b"\x48\x8d\x3d") && at.is(4, b"\x48\xb8") && adds && at.is(17, b"\xff\xd0")
}

/// The general dynamic sequence to local exec, or to initial exec for an import.
fn general_dynamic(at: &Code<'_>, addend: i64, facts: TargetFacts) -> Result<Patch, String> {
    let (operation, value, rest): (&'static [u8], _, _) = if facts.settled == Settled::ByUnit {
        (b"\x48\x8d\x80", Value::ThreadOffset, 0)
    } else {
        (b"\x48\x03\x05", Value::ThreadEntryDistance, -4)
    };
    let patch = |edits, field, call| Patch {
        edits,
        field,
        width: Width::Signed(4),
        value,
        addend: rest,
        entry: 0,
        takes_next: Some(call),
    };
    if is_large_call(at) && addend == -4 {
        let nop: &[u8] = b"\x66\x0f\x1f\x44\x00\x00";
        let edits = vec![(-3, MOV_FS0_RAX), (6, operation), (13, nop)];
        return Ok(patch(edits, 9, LARGE_CALL));
    }
    let calls = at.is(4, b"\x66\x66\x48\xe8") || at.is(4, b"\x66\x48\xff\x15");
    if !at.is(-4, b"\x66\x48\x8d\x3d") || !calls || addend != -4 || at.byte(11).is_none() {
        return Err(unknown_sequence("general dynamic"));
    }
    Ok(patch(vec![(-4, MOV_FS0_RAX), (5, operation)], 8, 8))
}

/// The local dynamic sequence: the module's block is found from the thread pointer.
fn local_dynamic(at: &Code<'_>) -> Result<Patch, String> {
    let (edits, call): (Vec<(i64, &'static [u8])>, _) = if !at.is(-3, b"\x48\x8d\x3d") {
        return Err(unknown_sequence("local dynamic"));
    } else if at.is(4, b"\xe8") && at.byte(8).is_some() {
        (vec![(-3, b"\x66\x66\x66"), (0, MOV_FS0_RAX)], 5)
    } else if at.is(4, b"\xff\x15") && at.byte(9).is_some() {
        (vec![(-3, b"\x66\x66\x66\x66"), (1, MOV_FS0_RAX)], 6)
    } else if is_large_call(at) {
        // A nop of 13 bytes.
        let nop: &[u8] = b"\x66\x66\x66\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00";
        (vec![(-3, nop), (10, MOV_FS0_RAX)], LARGE_CALL)
    } else {
        return Err(unknown_sequence("local dynamic"));
    };
    Ok(Patch {
        edits,
        field: 0,
        width: Width::None,
        value: Value::Nothing,
        addend: 0,
        entry: 0,
        takes_next: Some(call),
    })
}

/// The descriptor's `lea` to a `mov` into the same register; its call becomes a nop.
fn descriptor(at: &Code<'_>, addend: i64, facts: TargetFacts) -> Result<Patch, String> {
    let (prefix, modrm) = match (at.byte(-3), at.byte(-1)) {
        (Some(prefix @ (0x48 | 0x4c)), Some(modrm)) if modrm & 0xc7 == 0x05 => (prefix, modrm),
        _ => return Err(unknown_sequence("descriptor")),
    };
    if !at.is(-2, b"\x8d") || addend != -4 {
        return Err(unknown_sequence("descriptor"));
    }
    if facts.settled != Settled::ByUnit {
        return Ok(Patch {
            edits: vec![(-2, b"\x8b")],
            field: 0,
            width: Width::Signed(4),
            value: Value::ThreadEntryDistance,
            addend: -4,
            entry: 0,
            takes_next: None,
        });
    }
    let opcodes = if prefix == 0x48 {
        &immediate::MOV
    } else {
        &immediate::MOV_HIGH
    };
    Ok(Patch {
        edits: vec![(-3, &opcodes[usize::from(modrm >> 3 & 7)])],
        field: 0,
        width: Width::Signed(4),
        value: Value::ThreadOffset,
        addend: 0,
        entry: 0,
        takes_next: None,
    })
}

/// Writes `value` into a field, or says that it does not fit.
pub(super) fn store(field: &mut [u8], width: Width, value: i128) -> Result<(), ()> {
    let (bytes, fits) = match width {
        Width::None => return Ok(()),
        Width::Eight => (8, (-(1i128 << 63)..1i128 << 64).contains(&value)),
        Width::Signed(n) => (n, signed(n).contains(&value)),
        Width::Unsigned(n) => (n, (0..1i128 << (8 * n)).contains(&value)),
        Width::Either(n) => (
            n,
            signed(n).contains(&value) || (0..1i128 << (8 * n)).contains(&value),
        ),
    };
    let field = field.get_mut(..usize::from(bytes)).ok_or(())?;
    if !fits {
        return Err(());
    }
    field.copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
    Ok(())
}

fn signed(bytes: u8) -> std::ops::Range<i128> {
    let half = 1i128 << (8 * bytes - 1);
    -half..half
}

impl Width {
    /// Bytes of the field.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Eight => 8,
            Self::Signed(n) | Self::Unsigned(n) | Self::Either(n) => usize::from(n),
        }
    }
}
