// Which paths there are, the fastest first, and which of them this processor runs. Compiled
// without flags, so that asking is safe on every processor; HAS_… names what was compiled.
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
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
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Linux gives a process the tiles' large state only when it asks.
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  const unsigned bits = 1u << 22 | 1u << 24 | 1u << 25; // AMX-BF16, AMX-TILE, AMX-INT8
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bits) != bits)
    return false;
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
