// A library for LD_PRELOAD: instructions that this processor has look absent to everything that asks CPUID for them.
//
//     CROSSRT_HIDDEN_CPUID="7.0.1.16 7.1.0.4" LD_PRELOAD=./hide_instructions.so COMMAND
//
// Each word is leaf.subleaf.register.bit, with registers EAX = 0 to EDX = 3. Linux can make CPUID fault (ARCH_SET_CPUID, arch_prctl(2)),
// for a thread and for all threads that it creates. The handler of SIGSEGV then executes CPUID itself, clears the bits and
// returns after the instruction. Programs that the process starts see the whole processor again, unless they load this library too.

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012, MOST = 64 };
static struct { unsigned leaf, subleaf, reg, bit; } hidden[MOST];
static int count;

static void handle(int number, siginfo_t* info, void* context) {
    (void)number, (void)info;
    greg_t* at = ((ucontext_t*)context)->uc_mcontext.gregs;
    const uint8_t* code = (const uint8_t*)at[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) {  // another fault: the instruction runs again, and ends the process
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    const uint32_t leaf = (uint32_t)at[REG_RAX], subleaf = (uint32_t)at[REG_RCX];
    uint32_t words[4] = {leaf, 0, subleaf, 0};
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "+a"(words[0]), "=b"(words[1]), "+c"(words[2]), "=d"(words[3]));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    for (int n = 0; n < count; n++)
        if (hidden[n].leaf == leaf && hidden[n].subleaf == subleaf) words[hidden[n].reg] &= ~(1u << hidden[n].bit);
    at[REG_RAX] = words[0];
    at[REG_RBX] = words[1];
    at[REG_RCX] = words[2];
    at[REG_RDX] = words[3];
    at[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char* text = getenv("CROSSRT_HIDDEN_CPUID");
    for (int read = 0; text && count < MOST; text += read, count++)
        if (sscanf(text, " %u.%u.%u.%u%n", &hidden[count].leaf, &hidden[count].subleaf, &hidden[count].reg, &hidden[count].bit,
                   &read) != 4 || hidden[count].reg > 3 || hidden[count].bit > 31)
            break;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("this system cannot hide instructions: CPUID does not fault here\n", stderr);
        _exit(1);
    }
}
