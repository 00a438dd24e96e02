use std::cell::OnceCell;

use goblin::elf::reloc::{R_X86_64_32, R_X86_64_32S, R_X86_64_64, R_X86_64_PC32};

use goblin::elf::section_header::SHF_EXECINSTR;

use super::*;
use crate::link::object::{Binding, Object, Place, Section, Symbol};

/// What becomes of the first relocation of a section of `bytes`, whose symbols are at `symbols`. That one is about what is
/// elsewhere, further ones about the first of the symbols.
fn made_of(
    bytes: &[u8],
    relocations: &[(u64, u32, i64)],
    symbols: &[u64],
    addresses: bool,
) -> Option<Rewritten> {
    let relocations: Vec<Relocation> = relocations
        .iter()
        .enumerate()
        .map(|(at, (offset, kind, addend))| Relocation {
            offset: *offset,
            kind: *kind,
            symbol: if at == 0 { symbols.len() } else { 0 },
            addend: *addend,
        })
        .collect();
    let first = relocations[0];
    let section = Section {
        name: ".text",
        size: bytes.len() as u64,
        bytes,
        flags: u64::from(SHF_EXECINSTR),
        relocations,
        is_content: true,
        ..Section::default()
    };
    let symbol = |(value, place): (u64, Place)| Symbol {
        name: "label",
        value,
        size: 0,
        binding: Binding::Local,
        kind: 0,
        visibility: 0,
        place,
    };
    let sections = vec![section];
    let labels = symbols.iter().map(|value| (*value, Place::Section(0)));
    let elsewhere = (0, Place::Undefined);
    let symbols: Vec<Symbol<'_>> = labels.chain([elsewhere]).map(symbol).collect();
    let object = Object {
        name: "object.o".to_owned(),
        entered: OnceCell::new(),
        sections,
        symbols,
        groups: Vec::new(),
    };
    let code = Instructions::read(&object, 0)?;
    through_slot(&code, &first, addresses)
}

fn made(bytes: &[u8], field: u64, addend: i64) -> Option<Rewritten> {
    made_of(bytes, &[(field, R_X86_64_PC32, addend)], &[0], false)
}

/// The instructions of a detour.
fn instructions(detour: &Detour) -> Vec<Instruction> {
    Decoder::with_ip(64, &detour.code, 0, DecoderOptions::NONE)
        .into_iter()
        .collect()
}

/// A detour that saves a register has the stack further down, and is not left by a jump.
#[test]
fn no_jump_through_a_table_is_taken_by_a_detour() {
    // jmp *table(,%rax,8); jmp *table(,%r8,8); call *table(,%rax,8)
    for (bytes, field) in [
        (&[0xff, 0x24, 0xc5, 0, 0, 0, 0][..], 3),
        (&[0x42, 0xff, 0x24, 0xc5, 0, 0, 0, 0][..], 4),
        (&[0xff, 0x14, 0xc5, 0, 0, 0, 0][..], 3),
    ] {
        let made = made_of(bytes, &[(field, R_X86_64_32S, 0)], &[0], false);
        assert!(made.is_none(), "{bytes:x?}");
    }
    // mov table(,%rax,8), %rcx
    let load = [0x48, 0x8b, 0x0c, 0xc5, 0, 0, 0, 0];
    assert!(made_of(&load, &[(4, R_X86_64_32S, 0)], &[0], false).is_some());
}

#[test]
fn an_address_is_loaded_from_the_slot() {
    // lea x+16(%rip), %r9
    let lea = [0x4c, 0x8d, 0x0d, 0, 0, 0, 0];
    for addresses in [false, true] {
        let made = made_of(&lea, &[(3, R_X86_64_PC32, 12)], &[0], addresses).unwrap();
        assert_eq!(made.bytes, [0x4c, 0x8b, 0x0d, 0, 0, 0, 0]);
        assert_eq!((made.patch.field, made.patch.addend), (0, -4));
        assert_eq!(made.patch.value, Value::EntryDistance);
        assert_eq!(made.patch.entry, 16);
        assert_eq!(made.detour, None);
    }
    // mov $x+8, %rsi; movabs $x+8, %r10
    for (bytes, field, kind, expected) in [
        (
            vec![0x48, 0xc7, 0xc6, 0, 0, 0, 0],
            3,
            R_X86_64_32S,
            vec![0x48, 0x8b, 0x35, 0, 0, 0, 0],
        ),
        (
            vec![0x49, 0xba, 0, 0, 0, 0, 0, 0, 0, 0],
            2,
            R_X86_64_64,
            vec![0x4c, 0x8b, 0x15, 0, 0, 0, 0, 0x0f, 0x1f, 0],
        ),
    ] {
        let made = made_of(&bytes, &[(field, kind, 8)], &[0], true).unwrap();
        assert_eq!(made.bytes, expected);
        assert_eq!(made.patch.field + field as i64, 3);
        assert_eq!(made.patch.entry, 8);
    }
}

#[test]
fn a_result_is_where_the_address_comes_to_lie() {
    // mov x(%rip), %rdi
    let made = made(&[0x48, 0x8b, 0x3d, 0, 0, 0, 0], 3, -4).unwrap();
    assert_eq!(made.bytes, [0xe9, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90]);
    assert_eq!(made.patch.field, -2);
    let detour = made.detour.unwrap();
    let expected = [
        &[0x48, 0x8b, 0x3d, 0, 0, 0, 0][..], // mov slot(%rip), %rdi
        &[0x48, 0x8b, 0xbf, 0, 0, 0, 0],     // mov 0(%rdi), %rdi
        &[0xe9, 0, 0, 0, 0],
    ];
    assert_eq!(detour.code, expected.concat());
    assert_eq!((detour.slot_at, detour.back), (3, Some((15, 7))));
}

#[test]
fn what_has_no_result_has_a_register_saved() {
    // addq %rax, x+8(%rip)
    let made = made(&[0x48, 0x01, 0x05, 0, 0, 0, 0], 3, 4).unwrap();
    let detour = made.detour.unwrap();
    let does = instructions(&detour);
    let mnemonics: Vec<Mnemonic> = does.iter().map(Instruction::mnemonic).collect();
    let expected = [
        Mnemonic::Lea,
        Mnemonic::Push,
        Mnemonic::Mov,
        Mnemonic::Add,
        Mnemonic::Pop,
        Mnemonic::Lea,
        Mnemonic::Jmp,
    ];
    assert_eq!(mnemonics, expected);
    assert_eq!(does[3].memory_base(), Register::RCX);
    assert_eq!(does[3].memory_displacement64(), 8);
    assert_eq!(does[2].op0_register(), Register::RCX);
}

#[test]
fn what_uses_the_stack_stays() {
    // push x(%rip); mov %rsp, x(%rip)
    assert_eq!(made(&[0xff, 0x35, 0, 0, 0, 0], 2, -4), None);
    assert_eq!(made(&[0x48, 0x89, 0x25, 0, 0, 0, 0], 3, -4), None);
}

#[test]
fn only_addresses_are_taken_where_a_unit_has_its_own() {
    let load = [0x48, 0x8b, 0x3d, 0, 0, 0, 0];
    assert_eq!(made_of(&load, &[(3, R_X86_64_PC32, -4)], &[0], true), None);
    let short = [0xbf, 0, 0, 0, 0]; // mov $x, %edi
    assert_eq!(made_of(&short, &[(1, R_X86_64_32, 0)], &[0], true), None);
    let detour = made_of(&short, &[(1, R_X86_64_32, 24)], &[0], false).unwrap();
    assert_eq!(detour.bytes, [0xe9, 0x90, 0x90, 0x90, 0x90]);
    assert_eq!(detour.patch.entry, 24);
}

#[test]
fn an_instruction_that_only_looks_like_another_is_itself() {
    // vpermw x(%rip), %zmm0, %zmm0: its last bytes are those of a lea.
    let made = made(&[0x62, 0xf2, 0xfd, 0x48, 0x8d, 0x05, 0, 0, 0, 0], 6, -4).unwrap();
    let does = instructions(&made.detour.unwrap());
    assert_eq!(does[3].mnemonic(), Mnemonic::Vpermw);
    assert_eq!(does[3].memory_base(), Register::RAX);
}

#[test]
fn what_is_not_certain_is_left_alone() {
    // je past the prefix of: lock incq x(%rip)
    let skipped = [0x74, 0x01, 0xf0, 0x48, 0xff, 0x05, 0, 0, 0, 0];
    assert_eq!(made(&skipped, 6, -4), None);
    // A label in the middle.
    let load = [0x48, 0x8b, 0x3d, 0, 0, 0, 0];
    assert_eq!(
        made_of(&load, &[(3, R_X86_64_PC32, -4)], &[0, 2], false),
        None
    );
    // Data before it that is no instruction, and data that swallows its beginning.
    assert_eq!(made(&[&[0x06][..], &load].concat(), 4, -4), None);
    assert_eq!(made(&[&[0x48, 0xb8][..], &load].concat(), 5, -4), None);
    // Another field: movq $y, x(%rip)
    let two = [0x48, 0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0];
    let relocations = [(3, R_X86_64_PC32, -8), (7, R_X86_64_32S, 0)];
    assert_eq!(made_of(&two, &relocations, &[0], false), None);
    assert!(made_of(&two, &relocations[..1], &[0], false).is_some());
    // An address in the middle, as an instruction takes it (lea), and as one holds it (movabs).
    for (into, is_left) in [(2, true), (0, false)] {
        let taken = [&[0x48, 0x8d, 0x05, into, 0, 0, 0][..], &load].concat();
        assert_eq!(made(&taken, 10, -4).is_none(), is_left);
        let held = [&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0][..], &load].concat();
        let address = (2, R_X86_64_64, 10 + i64::from(into));
        let relocations = [(13, R_X86_64_PC32, -4), address];
        assert_eq!(made_of(&held, &relocations, &[0], false).is_none(), is_left);
    }
    // A distance where an instruction has a number: add $x, %eax
    let number = [&[0x05, 0, 0, 0, 0][..], &load].concat();
    let relocations = [(8, R_X86_64_PC32, -4), (1, R_X86_64_PC32, -4)];
    assert_eq!(made_of(&number, &relocations, &[0], false), None);
    let relocations = [(8, R_X86_64_PC32, -4), (1, R_X86_64_32, 0)];
    assert!(made_of(&number, &relocations, &[0], false).is_some());
}

#[test]
fn calls_by_pointers_see_their_own_return_address() {
    let call = made(&[0xff, 0x15, 0, 0, 0, 0], 2, -4).unwrap();
    assert_eq!(call.bytes, [0x67, 0xe8, 0, 0, 0, 0]);
    assert_eq!(call.patch.field, 0);
    let detour = call.detour.unwrap();
    assert_eq!(detour.back, None);
    let does = instructions(&detour);
    assert_eq!(does[1].mnemonic(), Mnemonic::Jmp);
    assert_eq!(does[1].memory_base(), Register::R11);
    // What is jumped to may be a label of the same function, to which all registers mean something.
    assert_eq!(made(&[0xff, 0x25, 0, 0, 0, 0], 2, -4), None);
}

/// An image that has them can't start where addresses are longer.
#[test]
fn half_an_address_is_known_as_such() {
    let is_cut = |bytes: &[u8], field, kind| {
        let made = made_of(bytes, &[(field, kind, 0)], &[0], false);
        made.unwrap().is_cut
    };
    // lea x(%rip), %eax, and %rax
    assert!(is_cut(&[0x8d, 0x05, 0, 0, 0, 0], 2, R_X86_64_PC32));
    assert!(!is_cut(&[0x48, 0x8d, 0x05, 0, 0, 0, 0], 3, R_X86_64_PC32));
    // lea x(,%rbx,8), %eax, and %rax
    assert!(is_cut(&[0x8d, 0x04, 0xdd, 0, 0, 0, 0], 3, R_X86_64_32S));
    assert!(!is_cut(
        &[0x48, 0x8d, 0x04, 0xdd, 0, 0, 0, 0],
        4,
        R_X86_64_32S
    ));
    // cmp $x, %eax, and %rax; movl $x, (%rcx), and movq
    assert!(is_cut(&[0x3d, 0, 0, 0, 0], 1, R_X86_64_32));
    assert!(!is_cut(&[0x48, 0x3d, 0, 0, 0, 0], 2, R_X86_64_32S));
    assert!(is_cut(&[0xc7, 0x01, 0, 0, 0, 0], 2, R_X86_64_32));
    assert!(!is_cut(&[0x48, 0xc7, 0x01, 0, 0, 0, 0], 3, R_X86_64_32S));
}

#[test]
fn operands_in_memory_are_found_at_a_base_and_an_index() {
    // mov x+8(%rax,%r12,8), %rdx
    let bytes = [0x4a, 0x8b, 0x94, 0xe0, 0, 0, 0, 0];
    let made = made_of(&bytes, &[(4, R_X86_64_32S, 8)], &[0], false).unwrap();
    let does = instructions(&made.detour.unwrap());
    assert_eq!(does[0].op0_register(), Register::RDX);
    assert_eq!(
        (does[1].memory_base(), does[1].memory_index()),
        (Register::RAX, Register::RDX)
    );
    let operand = &does[2];
    assert_eq!(
        (operand.memory_base(), operand.memory_index()),
        (Register::RDX, Register::R12)
    );
    assert_eq!(operand.memory_index_scale(), 8);
    assert_eq!(operand.memory_displacement64(), 8);
    // movq $x, 16(%rsp): the stack is further down.
    let bytes = [0x48, 0xc7, 0x44, 0x24, 0x10, 0, 0, 0, 0];
    let made = made_of(&bytes, &[(5, R_X86_64_32S, 0)], &[0], false).unwrap();
    let does = instructions(&made.detour.unwrap());
    assert_eq!(does[3].memory_base(), Register::RSP);
    assert_eq!(does[3].memory_displacement64(), 16 + 136);
}
