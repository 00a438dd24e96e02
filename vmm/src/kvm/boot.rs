//! The monitor's pages: what the processor needs to run CPL 3 code and to leave it.
//!
//! The guest has no kernel. The code that a system call or a fault enters is a few OUT
//! instructions, and every OUT leaves to the VMM, which does the rest and says where to go on.
//!
//! | page | CPL 3 may | holds |
//! |---|---|---|
//! | tables | nothing | GDT, TSS, IDT, and the stack on which the processor puts a fault's frame: one a processor |
//! | gates | nothing | a stub a vector; the entry of system calls that arrive at CPL 0 |
//! | entry | execute | the entry of system calls that arrive at CPL 3; the probe |
//!
//! How SYSCALL arrives is the host's business (see [`super::entry`]). On AMD-V and VT-x it is at
//! CPL 0, in the gates page, and SYSRETQ goes back. On a host whose guests run on shadow page
//! tables without hardware support it is at CPL 3, in the entry page, and that OUT is the one
//! thing that the I/O permission bitmap grants; a guest may jump there or make such an OUT
//! anywhere, so the VMM looks at where it came from.
//!
//! Every gate of the IDT names the monitor's stack (IST 1): nothing is ever pushed onto a stack that
//! a guest chose, whatever the privilege level was. (Intel SDM volume 3A, 6.14.5 and volume 1, 19.5.2.)

use pool_core::PAGE_SIZE;

use crate::memory::MonitorPage;

/// Port written by the system call stubs.
pub(super) const CALL_PORT: u16 = 0x7f;
/// Port written by the fault stubs. Not 0x7e, which KVM treats in a way of its own.
pub(super) const FAULT_PORT: u16 = 0x7d;

/// Selector of CPL 0 code; its stack segment follows it.
pub(super) const KERNEL_CODE: u16 = 0x08;
/// Selector of CPL 0 data.
pub(super) const KERNEL_DATA: u16 = 0x10;
/// Selector of CPL 3 data, as Linux numbers it.
pub(super) const USER_DATA: u16 = 0x2b;
/// Selector of CPL 3 64-bit code, as Linux numbers it. There is no 32-bit code segment.
pub(super) const USER_CODE: u16 = 0x33;
/// Selector of the task state segment.
pub(super) const TASK: u16 = 0x38;
/// Selector whose limit is the processor's number, as Linux has it (`__CPUNODE_SEG`): the vdso asks for it.
const PROCESSOR: u16 = 0x7b;

const GDT: usize = 0;
const GDT_ENTRIES: usize = 16;
const TSS: usize = 0x80;
/// Places in the TSS (Intel SDM volume 3A, 8.7).
const TSS_RSP0: usize = 4;
const TSS_IST1: usize = 0x24;
const TSS_IO_BASE: usize = 0x66;
const IO_BITMAP: usize = 0x68;
/// Covers ports 0 to 0xff, and the byte of ones that must follow.
const IO_BITMAP_BYTES: usize = 0x21;
const IDT: usize = 0x200;
const VECTORS: usize = 32;
const TABLE_BYTES: usize = IDT + VECTORS * 16;

const STUB_STRIDE: u64 = 16;
/// Offset of the system call stub in the gates page.
const PRIVILEGED_CALL: u64 = 0x200;
/// Offset of what a system call of 32-bit code would enter.
const COMPATIBILITY_CALL: u64 = 0x210;
const GATES_BYTES: usize = 0x220;

/// Offset of the system call stub in the entry page.
const UNPRIVILEGED_CALL: u64 = 0;
const PROBE: u64 = 0x10;
const ENTRY_BYTES: usize = 0x20;
/// Reads the processor's counter into EDX:EAX.
const RDTSC: [u8; 2] = [0x0f, 0x31];

/// `out %al, $port`.
pub(super) const OUT: u8 = 0xe6;
/// Bytes of that instruction. KVM may show RIP at it or behind it when it has left.
const OUT_LENGTH: u64 = 2;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];
const UD2: [u8; 2] = [0x0f, 0x0b];
const INT3: u8 = 0xcc;

/// `limit` of the GDT.
pub(super) const GDT_LIMIT: u16 = (GDT_ENTRIES * 8 - 1) as u16;
/// `limit` of the IDT.
pub(super) const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;
/// `limit` of a TSS that grants CPL 3 the port of system calls.
pub(super) const TSS_LIMIT_CALL_PORT: u32 = (IO_BITMAP + IO_BITMAP_BYTES - 1) as u32;
/// `limit` of a TSS that grants CPL 3 no port at all: it ends before the bitmap.
pub(super) const TSS_LIMIT_NO_PORTS: u32 = (IO_BITMAP - 1) as u32;

/// Where things are for one processor, in a monitor whose pages begin at `base`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Monitor {
    /// Guest virtual address of the first processor's table page. The gates and the entry page follow it,
    /// then the table pages of others.
    pub(super) base: u64,
    /// Which processor.
    pub(super) processor: u16,
}

impl Monitor {
    pub(super) fn gdt(self) -> u64 {
        self.tables() + GDT as u64
    }

    pub(super) fn idt(self) -> u64 {
        self.tables() + IDT as u64
    }

    pub(super) fn tss(self) -> u64 {
        self.tables() + TSS as u64
    }

    /// First address past the processor's stack, which is the end of the table page.
    pub(super) fn stack(self) -> u64 {
        self.tables() + PAGE_SIZE
    }

    /// The same in guest physical memory, where the monitor's pages come first.
    pub(super) fn physical_stack(self) -> u64 {
        self.stack() - self.base
    }

    /// Where SYSCALL arrives at CPL 0.
    pub(super) fn privileged_call(self) -> u64 {
        self.gates() + PRIVILEGED_CALL
    }

    /// Where SYSCALL arrives at CPL 3.
    pub(super) fn unprivileged_call(self) -> u64 {
        self.entry() + UNPRIVILEGED_CALL
    }

    /// Where SYSCALL of 32-bit code would arrive.
    pub(super) fn compatibility_call(self) -> u64 {
        self.gates() + COMPATIBILITY_CALL
    }

    /// Code that reads the processor's counter and makes one system call at CPL 3, and the call's return
    /// address.
    pub(super) fn probe(self) -> (u64, u64) {
        let probe = self.entry() + PROBE;
        (probe, probe + (RDTSC.len() + SYSCALL.len()) as u64)
    }

    /// The vector whose stub the processor has left at `rip`, if it has left one.
    pub(super) fn vector_at(self, rip: u64) -> Option<u8> {
        let offset = rip.checked_sub(self.gates())?;
        let vector = offset / STUB_STRIDE;
        let left = matches!(offset % STUB_STRIDE, 0 | OUT_LENGTH);
        (left && vector < VECTORS as u64).then_some(vector as u8)
    }

    /// True for addresses in these pages.
    pub(super) fn holds(self, address: u64) -> bool {
        (self.gates()..self.gates() + 2 * PAGE_SIZE).contains(&address)
            || (self.tables()..self.stack()).contains(&address)
    }

    /// The first bytes of each page of a monitor at `base` for so many processors; the rest stays zero.
    pub(super) fn pages(base: u64, processors: u16) -> Vec<(MonitorPage, Vec<u8>)> {
        let tables = |processor| {
            let monitor = Self { base, processor };
            (MonitorPage::Tables, monitor.table_page().to_vec())
        };
        let mut pages = vec![
            tables(0),
            (MonitorPage::Gates, gates().to_vec()),
            (MonitorPage::Entry, entry().to_vec()),
        ];
        pages.extend((1..processors).map(tables));
        pages
    }

    fn tables(self) -> u64 {
        match u64::from(self.processor) {
            0 => self.base,
            other => self.base + (2 + other) * PAGE_SIZE,
        }
    }

    fn gates(self) -> u64 {
        self.base + PAGE_SIZE
    }

    fn entry(self) -> u64 {
        self.base + 2 * PAGE_SIZE
    }

    fn table_page(self) -> [u8; TABLE_BYTES] {
        let mut page = [0; TABLE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let tss = self.tss();
        let mut gdt = [0u64; GDT_ENTRIES];
        gdt[usize::from(KERNEL_CODE >> 3)] = 0x00af_9b00_0000_ffff;
        gdt[usize::from(KERNEL_DATA >> 3)] = 0x00cf_9300_0000_ffff;
        gdt[usize::from(USER_DATA >> 3)] = 0x00cf_f300_0000_ffff;
        gdt[usize::from(USER_CODE >> 3)] = 0x00af_fb00_0000_ffff;
        gdt[usize::from(TASK >> 3)] = u64::from(TSS_LIMIT_NO_PORTS)
            | (tss & 0xff_ffff) << 16
            | 0x8b << 40
            | (tss >> 24 & 0xff) << 56;
        gdt[usize::from(TASK >> 3) + 1] = tss >> 32;
        gdt[usize::from(PROCESSOR >> 3)] = 0x0000_f500_0000_0000 | u64::from(self.processor);
        for (at, entry) in gdt.iter().enumerate() {
            put(GDT + at * 8, &entry.to_le_bytes());
        }
        for stack in [TSS_RSP0, TSS_IST1] {
            put(TSS + stack, &self.stack().to_le_bytes());
        }
        put(TSS + TSS_IO_BASE, &(IO_BITMAP as u16).to_le_bytes());
        let mut bitmap = [0xff; IO_BITMAP_BYTES];
        bitmap[usize::from(CALL_PORT / 8)] &= !(1 << (CALL_PORT % 8));
        put(TSS + IO_BITMAP, &bitmap);
        for vector in 0..VECTORS {
            put(IDT + vector * 16, &self.gate(vector));
        }
        page
    }

    /// An interrupt gate on the monitor's stack; INT3 and INTO may be executed at CPL 3.
    fn gate(self, vector: usize) -> [u8; 16] {
        const IST1: u64 = 1 << 32;
        let stub = self.gates() + vector as u64 * STUB_STRIDE;
        let callable = matches!(vector, 3 | 4);
        let kind: u64 = if callable { 0xee } else { 0x8e };
        let low = (stub & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | IST1
            | kind << 40
            | (stub >> 16 & 0xffff) << 48;
        let mut gate = [0; 16];
        gate[..8].copy_from_slice(&low.to_le_bytes());
        gate[8..].copy_from_slice(&(stub >> 32).to_le_bytes());
        gate
    }
}

/// True when the processor, at `rip`, has left by the OUT at `stub`.
pub(super) fn has_left(stub: u64, rip: u64) -> bool {
    rip == stub || rip == stub + OUT_LENGTH
}

/// The instruction behind the OUT at `stub`.
pub(super) fn behind_out(stub: u64) -> u64 {
    stub + OUT_LENGTH
}

fn gates() -> [u8; GATES_BYTES] {
    let mut page = [INT3; GATES_BYTES];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    for vector in 0..VECTORS {
        let at = vector * STUB_STRIDE as usize;
        put(at, &[OUT, FAULT_PORT as u8]);
        put(at + OUT_LENGTH as usize, &UD2);
    }
    let call = PRIVILEGED_CALL as usize;
    put(call, &[OUT, CALL_PORT as u8]);
    put(call + OUT_LENGTH as usize, &SYSRETQ);
    put(COMPATIBILITY_CALL as usize, &UD2);
    page
}

fn entry() -> [u8; ENTRY_BYTES] {
    let mut page = [INT3; ENTRY_BYTES];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let call = UNPRIVILEGED_CALL as usize;
    put(call, &[OUT, CALL_PORT as u8]);
    put(call + OUT_LENGTH as usize, &UD2);
    put(PROBE as usize, &[RDTSC, SYSCALL, UD2].concat());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONITOR: Monitor = Monitor {
        base: 0x3f40_0000,
        processor: 0,
    };

    #[test]
    fn stubs_are_told_apart() {
        let gates = MONITOR.base + PAGE_SIZE;
        let stub = gates + 14 * 16;
        assert_eq!(MONITOR.vector_at(stub), Some(14), "at the OUT");
        assert_eq!(MONITOR.vector_at(stub + 2), Some(14), "behind the OUT");
        for other in [
            stub + 1,
            stub + 4,
            MONITOR.base,
            MONITOR.privileged_call(),
            MONITOR.unprivileged_call(),
            MONITOR.compatibility_call(),
            0x40_1000,
        ] {
            assert_eq!(MONITOR.vector_at(other), None, "{other:#x}");
        }
        assert!(has_left(stub, stub) && has_left(stub, stub + 2));
        assert!(!has_left(stub, stub + 1) && !has_left(stub, stub - 2));
    }

    #[test]
    fn gates_point_at_their_stubs_and_at_the_monitors_stack() {
        let (tables, code) = (MONITOR.table_page(), gates());
        for vector in 0..VECTORS {
            let gate = &tables[IDT + vector * 16..][..16];
            let target = u64::from(u16::from_le_bytes([gate[0], gate[1]]))
                | u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16;
            assert_eq!(MONITOR.vector_at(target), Some(vector as u8));
            assert_eq!(gate[4], 1, "the stack of IST 1");
            assert_eq!(gate[5] & 0x60 == 0x60, matches!(vector, 3 | 4));
            assert_eq!(code[vector * 16..][..2], [OUT, FAULT_PORT as u8]);
        }
        let word = |at: usize| u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
        assert_eq!(word(TSS + TSS_RSP0), MONITOR.stack());
        assert_eq!(word(TSS + TSS_IST1), MONITOR.stack());
    }

    #[test]
    fn the_bitmap_grants_one_port_and_the_short_tss_none() {
        let tables = MONITOR.table_page();
        let bitmap = &tables[TSS + IO_BITMAP..][..IO_BITMAP_BYTES];
        let granted: Vec<u16> = (0..IO_BITMAP_BYTES as u16 * 8)
            .filter(|port| bitmap[usize::from(port / 8)] >> (port % 8) & 1 == 0)
            .collect();
        assert_eq!(granted, [CALL_PORT]);
        assert_eq!(bitmap.last(), Some(&0xff));
        assert!(TSS_LIMIT_NO_PORTS < IO_BITMAP as u32);
        assert_eq!(
            TSS_LIMIT_CALL_PORT as usize,
            IO_BITMAP + IO_BITMAP_BYTES - 1
        );
    }

    #[test]
    fn system_calls_arriving_at_cpl_0_go_back_by_sysretq() {
        let offset = (MONITOR.privileged_call() - MONITOR.gates()) as usize;
        let code = gates();
        assert_eq!(code[offset..][..2], [OUT, CALL_PORT as u8]);
        let back = (behind_out(MONITOR.privileged_call()) - MONITOR.gates()) as usize;
        assert_eq!(code[back..][..3], SYSRETQ);
    }

    #[test]
    fn each_processor_has_tables_and_a_stack_of_its_own() {
        let base = MONITOR.base;
        let pages = Monitor::pages(base, 3);
        let kinds: Vec<_> = pages.iter().map(|(kind, _)| *kind).collect();
        let (tables, gates, entry) = (MonitorPage::Tables, MonitorPage::Gates, MonitorPage::Entry);
        assert_eq!(kinds, [tables, gates, entry, tables, tables]);
        for processor in 0..3 {
            let monitor = Monitor { base, processor };
            let page = (monitor.gdt() - base) / PAGE_SIZE;
            assert_eq!(kinds[page as usize], tables);
            assert_eq!(monitor.physical_stack(), (page + 1) * PAGE_SIZE);
            assert!(monitor.holds(monitor.stack() - 1) && monitor.holds(monitor.probe().0));
            let number = &pages[page as usize].1[usize::from(PROCESSOR >> 3) * 8..][..2];
            assert_eq!(number, processor.to_le_bytes());
        }
        let second = Monitor { base, processor: 1 };
        assert!(!second.holds(base) && !MONITOR.holds(second.gdt()));
    }
}
