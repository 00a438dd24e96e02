//! The monitor's two pages: what the processor needs to run CPL 3 code and to leave it.
//!
//! The guest has no kernel. Its tables (GDT, TSS, IDT) and one small stack for the processor lie
//! on a supervisor page; the code that a system call or a fault enters is a few OUT instructions
//! on a page of its own, and every OUT leaves to the VMM, which does the rest and sets the
//! registers to go on from.
//!
//! - SYSCALL enters at LSTAR. On VT-x and AMD-V the processor is then at CPL 0; on a host
//!   whose guests run on shadow page tables without hardware support it stays at CPL 3, so the
//!   page must be accessible to CPL 3. The VMM sets RIP, RFLAGS and the CPL 3 segments either way.
//! - The TSS grants every port that the stubs use: an I/O permission bitmap of zeros.
//! - Faults arrive through the IDT at CPL 0, one stub per vector, with the processor's frame
//!   (Intel SDM volume 3A, 6.14) on the monitor's stack.

use pool_core::PAGE_SIZE;

/// Port written by the system call stub.
pub(super) const SYSCALL_PORT: u16 = 0x7f;
/// Port written by the fault stubs.
pub(super) const FAULT_PORT: u16 = 0x7e;

/// Selector of CPL 0 code; its stack segment follows it.
pub(super) const KERNEL_CODE: u16 = 0x08;
/// Selector of CPL 0 data.
pub(super) const KERNEL_DATA: u16 = 0x10;
/// Selector of CPL 3 data, as Linux numbers it.
pub(super) const USER_DATA: u16 = 0x2b;
/// Selector of CPL 3 64-bit code, as Linux numbers it.
pub(super) const USER_CODE: u16 = 0x33;
/// Selector of the task state segment.
pub(super) const TASK: u16 = 0x38;

const GDT: usize = 0;
const GDT_ENTRIES: usize = 9;
const TSS: usize = 0x80;
const IO_BITMAP: usize = 0x68;
/// Covers ports 0 to 0xff, and the byte of ones that must follow.
const IO_BITMAP_BYTES: usize = 0x21;
const IDT: usize = 0x200;
const VECTORS: usize = 32;
/// Offset of the system call stub in the code page.
const SYSCALL_STUB: u64 = 0x200;
const STUB_STRIDE: u64 = 16;
const TABLE_BYTES: usize = IDT + VECTORS * 16;
const CODE_BYTES: usize = SYSCALL_STUB as usize + STUB_STRIDE as usize;
/// The lowest byte of the processor's stack in the table page.
const STACK_LOW: u64 = 0x800;

/// `limit` of the GDT.
pub(super) const GDT_LIMIT: u16 = (GDT_ENTRIES * 8 - 1) as u16;
/// `limit` of the IDT.
pub(super) const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;
/// `limit` of the TSS, bitmap included.
pub(super) const TSS_LIMIT: u32 = (IO_BITMAP + IO_BITMAP_BYTES - 1) as u32;

/// Where things are, for a monitor whose two pages lie at `base`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Monitor {
    /// Guest virtual address of the table page; the code page follows it.
    pub(super) base: u64,
}

impl Monitor {
    pub(super) fn gdt(self) -> u64 {
        self.base + GDT as u64
    }

    pub(super) fn idt(self) -> u64 {
        self.base + IDT as u64
    }

    pub(super) fn tss(self) -> u64 {
        self.base + TSS as u64
    }

    pub(super) fn syscall_stub(self) -> u64 {
        self.base + PAGE_SIZE + SYSCALL_STUB
    }

    /// The vector whose stub `rip` is in, if it is in one.
    pub(super) fn vector_at(self, rip: u64) -> Option<u8> {
        let offset = rip.checked_sub(self.base + PAGE_SIZE)?;
        let vector = offset / STUB_STRIDE;
        (vector < VECTORS as u64).then_some(vector as u8)
    }

    /// Offset of the processor's stack pointer in the table page, if it points into that stack.
    pub(super) fn stack_offset(self, rsp: u64) -> Option<u64> {
        let offset = rsp.checked_sub(self.base)?;
        (STACK_LOW..PAGE_SIZE).contains(&offset).then_some(offset)
    }

    /// The first bytes of the table page; the rest stays zero.
    pub(super) fn tables(self) -> [u8; TABLE_BYTES] {
        let mut page = [0; TABLE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let tss = self.tss();
        let mut gdt = [0u64; GDT_ENTRIES];
        gdt[usize::from(KERNEL_CODE >> 3)] = 0x00af_9b00_0000_ffff;
        gdt[usize::from(KERNEL_DATA >> 3)] = 0x00cf_9300_0000_ffff;
        gdt[usize::from(USER_DATA >> 3)] = 0x00cf_f300_0000_ffff;
        gdt[usize::from(USER_CODE >> 3)] = 0x00af_fb00_0000_ffff;
        gdt[usize::from(TASK >> 3)] =
            u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
        gdt[usize::from(TASK >> 3) + 1] = tss >> 32;
        for (at, entry) in gdt.iter().enumerate() {
            put(GDT + at * 8, &entry.to_le_bytes());
        }
        // RSP0, and where the I/O bitmap begins; the bitmap itself stays zero.
        put(TSS + 4, &(self.base + PAGE_SIZE).to_le_bytes());
        put(TSS + 0x66, &(IO_BITMAP as u16).to_le_bytes());
        put(TSS + IO_BITMAP + IO_BITMAP_BYTES - 1, &[0xff]);
        for vector in 0..VECTORS {
            put(IDT + vector * 16, &self.gate(vector));
        }
        page
    }

    /// An interrupt gate; INT3 and INTO may be executed at CPL 3.
    fn gate(self, vector: usize) -> [u8; 16] {
        let stub = self.base + PAGE_SIZE + vector as u64 * STUB_STRIDE;
        let callable = matches!(vector, 3 | 4);
        let kind: u64 = if callable { 0xee } else { 0x8e };
        let low = (stub & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | kind << 40
            | (stub >> 16 & 0xffff) << 48;
        let mut gate = [0; 16];
        gate[..8].copy_from_slice(&low.to_le_bytes());
        gate[8..].copy_from_slice(&(stub >> 32).to_le_bytes());
        gate
    }
}

/// The first bytes of the code page; the rest stays zero.
pub(super) fn code() -> [u8; CODE_BYTES] {
    /// `out %al, $port`, then a jump back to it: a stub that is entered again leaves again.
    const fn stub(port: u16) -> [u8; 4] {
        [0xe6, port as u8, 0xeb, 0xfc]
    }
    let mut page = [0xcc; CODE_BYTES];
    for vector in 0..VECTORS {
        let at = vector * STUB_STRIDE as usize;
        page[at..at + 4].copy_from_slice(&stub(FAULT_PORT));
    }
    let at = SYSCALL_STUB as usize;
    page[at..at + 4].copy_from_slice(&stub(SYSCALL_PORT));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONITOR: Monitor = Monitor { base: 0x3f40_0000 };

    #[test]
    fn stubs_are_told_apart() {
        let code = MONITOR.base + PAGE_SIZE;
        assert_eq!(MONITOR.vector_at(code + 14 * 16), Some(14));
        assert_eq!(MONITOR.vector_at(code + 14 * 16 + 2), Some(14));
        assert_eq!(MONITOR.vector_at(MONITOR.syscall_stub()), None);
        assert_eq!(MONITOR.vector_at(0x40_1000), None);
    }

    #[test]
    fn only_the_monitors_stack_is_believed() {
        assert_eq!(MONITOR.stack_offset(MONITOR.base + 0xfd0), Some(0xfd0));
        assert_eq!(MONITOR.stack_offset(MONITOR.base + PAGE_SIZE), None);
        assert_eq!(MONITOR.stack_offset(0x7fff_0000), None);
    }

    #[test]
    fn gates_point_at_their_stubs() {
        let (tables, code) = (MONITOR.tables(), code());
        let gate = &tables[IDT + 14 * 16..][..16];
        let target = u64::from(u16::from_le_bytes([gate[0], gate[1]]))
            | u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16;
        assert_eq!(MONITOR.vector_at(target), Some(14));
        assert_eq!(gate[5] & 0x60, 0, "CPL 3 may not raise a page fault itself");
        assert_eq!(code[14 * 16..][..2], [0xe6, FAULT_PORT as u8]);
    }
}
