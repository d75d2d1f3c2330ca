// Which paths there are, the fastest first, and which of them this processor runs. Compiled
// without flags, so that asking is safe on every processor; HAS_… names what was compiled.
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#include <initializer_list>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "packed.h"

namespace prunerzero {
namespace {

bool always() { return true; }

#if defined(__x86_64__)
// What the processor has, and what the system keeps for each process (compilers know different
// names of features, so they are not asked).
struct Processor {
  unsigned ecx1 = 0, ebx7 = 0, ecx7 = 0, edx7 = 0, eax71 = 0;
  uint64_t kept = 0;

  Processor() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &ecx1, &d)) return;
    if (ecx1 >> 27 & 1) { // OSXSAVE: the next instruction exists
      unsigned low, high;
      asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      kept = uint64_t(high) << 32 | low;
    }
    if (__get_cpuid_count(7, 0, &a, &ebx7, &ecx7, &edx7) && a >= 1)
      __get_cpuid_count(7, 1, &eax71, &b, &c, &d);
  }
};

bool all(uint64_t has, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(has >> bit & 1)) return false;
  return true;
}

bool has_avx2() {
  Processor is;
  return all(is.kept, {1, 2}) && all(is.ecx1, {12, 23, 28, 29}) && // FMA, POPCNT, AVX, F16C
         all(is.ebx7, {5});
}

bool has_avx512() {
  Processor is;
  return has_avx2() && all(is.kept, {5, 6, 7}) && all(is.ebx7, {16, 17, 30, 31}) && // F, DQ, BW, VL
         all(is.ecx7, {6, 11});                                                     // VBMI2, VNNI
}

bool has_avx512_bf16() { return has_avx512() && all(Processor().eax71, {5}); }

// Linux gives a process the tiles' large state only when it asks.
bool has_amx() {
#if defined(__linux__)
  Processor is; // AMX-BF16, AMX-TILE, AMX-INT8
  if (!has_avx512_bf16() || !all(is.kept, {17, 18}) || !all(is.edx7, {22, 24, 25})) return false;
  const long ask = 0x1023, tiles = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ask, tiles) == 0;
#else
  return false;
#endif
}
#endif

const struct {
  const Path *path;
  bool (*runs_here)();
} paths[] = {
#if defined(HAS_AMX)
    {&amx_path, has_amx},
#endif
#if defined(HAS_AVX512_BF16)
    {&avx512_bf16_path, has_avx512_bf16},
#endif
#if defined(HAS_AVX512)
    {&avx512_path, has_avx512},
#endif
#if defined(HAS_AVX2)
    {&avx2_path, has_avx2},
#endif
#if defined(HAS_NEON)
    {&neon_path, always},
#endif
    {&portable_path, always},
};

} // namespace

const Path *best_path() {
  for (const auto &each : paths)
    if (each.runs_here()) return each.path;
  return &portable_path;
}

const Path *path_named(const char *name) {
  for (const auto &each : paths)
    if (std::strcmp(each.path->name, name) == 0 && each.runs_here()) return each.path;
  return nullptr;
}

} // namespace prunerzero
