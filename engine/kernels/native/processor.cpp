// Returns the instruction sets that a program may use on this processor, with their names in Linux's /proc/cpuinfo. Python asks
// this library in addition to that file, because not every system has the file, and under an emulator it is that of the host
// (engine/hardware/cpus.py).
//
// On x86 an instruction set is available if CPUID has it and the operating system saves its registers, as XGETBV tells. So the
// library leaves out what a hypervisor hides or the system does not support. The bits are those of Intel's Software Developer's
// Manual, volume 2A, CPUID.

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace {

// Writes names with spaces between them. A name that does not fit is left out.
class Names {
    char *const first, *next, *const end;

public:
    Names(char* first, int bytes) : first(first), next(first), end(first + bytes) { *first = 0; }

    void add(const char* name, bool present) {
        const size_t length = std::strlen(name);
        const bool space = next != first;
        if (!present || next + space + length >= end) return;
        if (space) *next++ = ' ';
        std::memcpy(next, name, length + 1);
        next += length;
    }
};

#if defined(__x86_64__)

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Returns zeros if the processor does not have the leaf.
Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    Registers found;
    __get_cpuid_count(leaf, subleaf, &found.eax, &found.ebx, &found.ecx, &found.edx);
    return found;
}

// XCR0: the registers that the operating system saves when it switches threads.
uint64_t saved_registers() {
    if (!(cpuid(1).ecx >> 27 & 1)) return 0;  // OSXSAVE: without it there is no XGETBV
    uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

void add_instructions(Names& names) {
    constexpr uint64_t AVX = 0x6, AVX512 = 0xe0 | AVX, AMX = 0x60000;
    const Registers basic = cpuid(1), extended = cpuid(7), further = extended.eax ? cpuid(7, 1) : Registers{};
    const uint64_t saved = saved_registers();
    const bool avx = (saved & AVX) == AVX, amx = (saved & AMX) == AMX;
#ifdef __APPLE__
    // macOS sets the bits of AVX512 when a thread first uses it, and saves the registers from then on.
    const bool avx512 = avx;
#else
    const bool avx512 = (saved & AVX512) == AVX512;
#endif
    const auto bit = [](uint32_t word, int number) { return bool(word >> number & 1); };
    names.add("sse4_1", bit(basic.ecx, 19));
    names.add("fma", avx && bit(basic.ecx, 12));
    names.add("avx", avx && bit(basic.ecx, 28));
    names.add("f16c", avx && bit(basic.ecx, 29));
    names.add("avx2", avx && bit(extended.ebx, 5));
    names.add("avx_vnni", avx && bit(further.eax, 4));
    names.add("avx512f", avx512 && bit(extended.ebx, 16));
    names.add("avx512dq", avx512 && bit(extended.ebx, 17));
    names.add("avx512cd", avx512 && bit(extended.ebx, 28));
    names.add("avx512bw", avx512 && bit(extended.ebx, 30));
    names.add("avx512vl", avx512 && bit(extended.ebx, 31));
    names.add("avx512_vnni", avx512 && bit(extended.ecx, 11));
    names.add("avx512_fp16", avx512 && bit(extended.edx, 23));
    names.add("avx512_bf16", avx512 && bit(further.eax, 5));
    names.add("amx_bf16", amx && bit(extended.edx, 22));
    names.add("amx_tile", amx && bit(extended.edx, 24));
    names.add("amx_int8", amx && bit(extended.edx, 25));
}

#elif defined(__APPLE__)

bool is_set(const char* setting) {
    int value = 0;
    size_t bytes = sizeof(value);
    return sysctlbyname(setting, &value, &bytes, nullptr, 0) == 0 && value != 0;
}

// The settings are described in Apple's "Determining instruction set characteristics". macOS has them from version 12 on.
void add_instructions(Names& names) {
    names.add("asimd", true);    // all of arm64
    names.add("asimddp", true);  // all of Apple's own processors for the Mac, the M1 and later
    names.add("i8mm", is_set("hw.optional.arm.FEAT_I8MM"));
    names.add("bf16", is_set("hw.optional.arm.FEAT_BF16"));
}

#elif defined(__linux__) && defined(__aarch64__)

// Reads what Linux, or an emulator of it, tells each process about all processors. The bits are those of the header asm/hwcap.h.
// They are written as numbers, because older versions of it lack some.
void add_instructions(Names& names) {
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    names.add("asimd", first >> 1 & 1);
    names.add("asimddp", first >> 20 & 1);
    names.add("i8mm", second >> 13 & 1);
    names.add("bf16", second >> 14 & 1);
}

#else

void add_instructions(Names&) {}

#endif

}  // namespace

extern "C" {

// The version of these functions. It is increased here and in engine/hardware/cpus.py whenever their arguments or results change.
int crossrt_processor_interface() { return 2; }

// Writes the names to `names` [bytes], with spaces between them and a zero at the end. `bytes` must be at least 1.
void crossrt_processor_instructions(char* names, int bytes) {
    Names found(names, bytes);
    add_instructions(found);
}
}
