/* The least that runs one instruction of a guest: the floor under the start of any virtual machine monitor.
 * Real mode, one page, one vCPU; prints microseconds from its first argument (CLOCK_MONOTONIC,
 * nanoseconds) to the return from that instruction. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

static int need(const char *what, int got)
{
    if (got < 0) {
        perror(what);
        exit(1);
    }
    return got;
}
#define NEED(call) need(#call, call)

int main(int count, char **arguments)
{
    if (count != 2) {
        fputs("usage: floor NANOSECONDS\n", stderr);
        return 2;
    }
    int kvm = NEED(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    int vm = NEED(ioctl(kvm, KVM_CREATE_VM, 0L));
    unsigned char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 0xf4; /* HLT */
    struct kvm_userspace_memory_region region = {.guest_phys_addr = 0x1000, .memory_size = 4096};
    region.userspace_addr = (unsigned long)page;
    NEED(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
    int vcpu = NEED(ioctl(vm, KVM_CREATE_VCPU, 0L));
    int size = NEED(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0L));
    struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs special;
    NEED(ioctl(vcpu, KVM_GET_SREGS, &special));
    special.cs.base = special.cs.selector = 0;
    NEED(ioctl(vcpu, KVM_SET_SREGS, &special));
    struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
    NEED(ioctl(vcpu, KVM_SET_REGS, &registers));
    NEED(ioctl(vcpu, KVM_RUN, 0L));
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (run->exit_reason != KVM_EXIT_HLT) {
        fprintf(stderr, "floor: exit reason %u instead of HLT\n", run->exit_reason);
        return 1;
    }
    long long since = strtoll(arguments[1], 0, 10);
    printf("%.1f\n", (now.tv_sec * 1000000000LL + now.tv_nsec - since) / 1e3);
    return 0;
}
