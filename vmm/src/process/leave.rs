//! The last step from this program to the guest: its memory goes, and nothing of it stays in a register.
//!
//! A guest may look at every address it likes. What must not be there is this program: its environment
//! and arguments, the names of host files, keys of its own allocator, where the host put what. So the
//! jump to the guest goes by a page of code at the monitor's place in the plan, which the image leaves
//! free. It unmaps everything around the plan's mappings and the kernel's vdso, which was moved to its place
//! in the plan: this program and its stack go. It takes the processor's state back to what a new program finds, and jumps. The page stays;
//! what it holds follows from the plan.
//!
//! ```text
//! 0x000  code                       0x440  entry point
//! 0x200  state of FPU, SSE, AVX     0x448  stack pointer
//!        as a new program finds it  0x450  which state to load, how many gaps
//!                                   0x460  gaps: address and length each
//! ```
//!
//! The state says of all its parts that they are as the processor comes, so nothing is read from behind its header. The processor
//! looks all the same whether it could: to the end of the last part that it is told to load.

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;

use crate::extended::{self, Parts};
use crate::plan::Plan;
use crate::vdso::Moved;

const STATE: usize = 0x200;
const ENTRY: usize = 0x440;
const STACK: usize = 0x448;
const EXTENDED: usize = 0x450;
const COUNT: usize = 0x458;
const GAPS: usize = 0x460;

/// `FXSAVE` layout: control words of x87 and SSE after reset, as Linux sets them for a new program.
const X87_CONTROL: (usize, u16) = (STATE, 0x37f);
const SSE_CONTROL: (usize, u32) = (STATE + 24, 0x1f80);

/// Parts that are left as they are: protection keys, whose first state is not all zeros under Linux, and tiles (AMX), of
/// which the kernel lets only such programs have any as ask for them. They alone take 8 KiB.
const LEFT: u64 = 1 << 9 | 1 << 17 | 1 << 18;
/// Parts up to AVX-512, and where the last of them ends on any processor (Intel SDM volume 1, 13.5; AMD's end before).
const USUAL: u64 = 0xe7;
const USUAL_BYTES: usize = 2688;

std::arch::global_asm!(
    ".pushsection .text.poolvmm_leave, \"ax\", @progbits",
    ".balign 64",
    ".globl poolvmm_leave",
    ".hidden poolvmm_leave",
    "poolvmm_leave:",
    ".Lpoolvmm_leave:",
    "lea rbx, [rip + .Lpoolvmm_leave]",
    "mov r12, [rbx + {COUNT}]",
    "lea r13, [rbx + {GAPS}]",
    "2:",
    "test r12, r12",
    "jz 3f",
    "mov rdi, [r13]",
    "mov rsi, [r13 + 8]",
    "mov eax, {MUNMAP}",
    "syscall",
    "test rax, rax",
    "jnz 6f",
    "add r13, 16",
    "dec r12",
    "jmp 2b",
    "3:",
    "xor esi, esi",
    "mov edi, {SET_FS}",
    "mov eax, {ARCH_PRCTL}",
    "syscall",
    "test rax, rax",
    "jnz 6f",
    "mov edi, {SET_GS}",
    "mov eax, {ARCH_PRCTL}",
    "syscall",
    "test rax, rax",
    "jnz 6f",
    "mov rax, [rbx + {EXTENDED}]",
    "test rax, rax",
    "jz 4f",
    "mov rdx, rax",
    "shr rdx, 32",
    "xrstor [rbx + {STATE}]",
    "jmp 5f",
    "4:",
    "fxrstor [rbx + {STATE}]",
    "5:",
    "mov rsp, [rbx + {STACK}]",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    // Zero says that there is nothing to call at exit.
    "xor edx, edx",
    "xor esi, esi",
    "xor edi, edi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "cld",
    "jmp qword ptr [rip + .Lpoolvmm_leave + {ENTRY}]",
    // Something of this program could not be unmapped: nothing runs beside it. The tracer knows this
    // stop from one that the guest makes here by R15, a number that only it and this program know.
    "6:",
    "ud2",
    ".globl poolvmm_leave_end",
    ".hidden poolvmm_leave_end",
    "poolvmm_leave_end:",
    ".popsection",
    COUNT = const COUNT,
    GAPS = const GAPS,
    EXTENDED = const EXTENDED,
    STATE = const STATE,
    STACK = const STACK,
    ENTRY = const ENTRY,
    MUNMAP = const libc::SYS_munmap,
    ARCH_PRCTL = const libc::SYS_arch_prctl,
    SET_FS = const 0x1002,
    SET_GS = const 0x1001,
);

unsafe extern "C" {
    static poolvmm_leave: u8;
    static poolvmm_leave_end: u8;
}

/// The code as it was assembled; it runs wherever it is copied to.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const poolvmm_leave, &raw const poolvmm_leave_end);
    // SAFETY: both symbols lie in one section, in this order, and code is never written.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The page (or pages, if the image has very many gaps or the processor much state) that turns this process into the guest of
/// `plan`, whose stack pointer is `stack` and whose vdso is `vdso`: to be mapped at the monitor's address, executable.
pub(super) fn page(plan: &Plan, stack: u64, vdso: Option<&Moved>) -> Vec<u8> {
    let monitor = plan.rooms.monitor.0;
    // The page itself is one thing to keep: its length depends on the gaps, of which it makes one more.
    let mut kept = kept(plan);
    kept.extend(vdso.map(|vdso| (vdso.all().start, vdso.all().end)));
    kept.push((monitor, monitor + PAGE_SIZE));
    kept.sort_unstable();
    let loaded = extended::of_this_process() & !LEFT;
    let most = (GAPS + 16 * (kept.len() + 1)).max(STATE + looked_at(loaded));
    let length = most.next_multiple_of(PAGE_SIZE as usize);
    let own = kept.partition_point(|&(start, _)| start < monitor);
    kept[own].1 = monitor + length as u64;
    let gaps = gaps(&kept);

    let mut page = vec![0; length];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, code());
    put(X87_CONTROL.0, &X87_CONTROL.1.to_le_bytes());
    put(SSE_CONTROL.0, &SSE_CONTROL.1.to_le_bytes());
    put(ENTRY, &plan.entry.0.to_le_bytes());
    put(STACK, &stack.to_le_bytes());
    put(EXTENDED, &loaded.to_le_bytes());
    put(COUNT, &(gaps.len() as u64).to_le_bytes());
    for (at, (start, end)) in gaps.iter().enumerate() {
        put(GAPS + 16 * at, &start.to_le_bytes());
        put(GAPS + 16 * at + 8, &(end - start).to_le_bytes());
    }
    page
}

/// Bytes of a state that have to be there when the parts `loaded` are: those that no processor has yet are asked for.
fn looked_at(loaded: u64) -> usize {
    let others = loaded & !USUAL;
    Parts::of(others).length(others).max(USUAL_BYTES)
}

/// Start and end of what the plan maps.
fn kept(plan: &Plan) -> Vec<(u64, u64)> {
    let image = plan.mappings.iter().map(|m| (m.address.0, m.end()));
    let stack = (plan.rooms.stack_low.0, plan.rooms.stack_high.0);
    image.chain([stack]).collect()
}

/// What lies between `kept` (sorted, not overlapping) and around it, of all user addresses.
fn gaps(kept: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let starts = kept.iter().map(|&(start, _)| start);
    let ends = kept.iter().map(|&(_, end)| end);
    let between = std::iter::once(0).chain(ends);
    between
        .zip(starts.chain([USER_ADDRESS_END]))
        .filter(|(start, end)| start < end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_what_is_kept_make_the_whole_address_space() {
        let kept = [(0x1000, 0x3000), (0x3000, 0x4000), (0x8000, 0x9000)];
        let expected = [(0, 0x1000), (0x4000, 0x8000), (0x9000, USER_ADDRESS_END)];
        assert_eq!(gaps(&kept), expected);
        assert_eq!(gaps(&[]), [(0, USER_ADDRESS_END)]);
        assert_eq!(gaps(&[(0, USER_ADDRESS_END)]), []);
    }

    #[test]
    fn the_code_fits_its_place() {
        assert!(code().len() <= STATE, "{} bytes", code().len());
        assert_eq!(&code()[code().len() - 2..], [0x0f, 0x0b]);
        assert!(STATE.is_multiple_of(64) && STATE + 576 <= ENTRY);
    }

    /// XRSTOR faults otherwise, on processors that have tiles for one.
    #[test]
    fn there_is_room_for_all_that_the_processor_looks_at() {
        let loaded = extended::of_this_process() & !LEFT;
        let all = Parts::of(loaded).length(loaded);
        assert!(looked_at(loaded) >= all);
        assert!(STATE + USUAL_BYTES <= PAGE_SIZE as usize);
    }
}
