// Which paths there are, the fastest first, and which of them this processor runs. Compiled
// without flags, so that asking is safe on every processor.
#include <cstring>

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
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

const struct {
  const Path *path;
  bool (*runs_here)();
} paths[] = {
#if defined(__x86_64__)
    {&avx512_bf16_path, has_avx512_bf16}, {&avx512_path, has_avx512}, {&avx2_path, has_avx2},
#elif defined(__aarch64__)
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
