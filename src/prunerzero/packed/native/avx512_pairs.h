// bfloat16 values and inputs, two products and two sums in one instruction. What reads the steps is
// a parameter: a benchmark runs the same code on weights that are not packed.
#pragma once

#include "avx512.h"

namespace prunerzero {
namespace {

template <class Reader> struct Pairs {
  template <int Tokens, int Groups>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    constexpr int kSums = Tokens <= 2 ? 2 : 1; // steps in turn, to wait less for each sum
    Reader steps[Groups];
    __m512 sums[Groups][kSums][Tokens];
    for (int g = 0; g < Groups; g++) {
      steps[g] = Reader(matrix, group + g);
      for (auto &each : sums[g])
        for (auto &sum : each) sum = _mm512_setzero_ps();
    }
    const int64_t stride = inputs.tokens * 4, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 4;
    auto add = [&](int turn) {
      for (int g = 0; g < Groups; g++) {
        __m512bh weights = reinterpret_cast<__m512bh>(steps[g].next16());
        for (int t = 0; t < Tokens; t++)
          sums[g][turn][t] = _mm512_dpbf16_ps(
              sums[g][turn][t], weights, reinterpret_cast<__m512bh>(inputs32(place + 4 * t)));
      }
      place += stride;
    };
    int64_t step = 0;
    for (; step + kSums <= count; step += kSums)
      for (int turn = 0; turn < kSums; turn++) add(turn);
    if (step < count) add(0);
    for (int g = 0; g < Groups; g++)
      for (int t = 0; t < Tokens; t++) {
        __m512 sum = sums[g][0][t];
        if constexpr (kSums > 1) sum = _mm512_add_ps(sum, sums[g][1][t]);
        float lanes[kGroupRows];
        _mm512_storeu_ps(lanes, sum);
        write_sums(matrix, result, group + g, token + t, lanes);
      }
  }
};

} // namespace
} // namespace prunerzero
