// int8 values by integers of 16 bits, in bytes: the instruction multiplies unsigned bytes with
// signed ones, so the values are made unsigned by adding 128, and 128 times the sum of the inputs
// is taken off at the end.
//
// What reads the steps is a parameter: a benchmark runs the same code on weights that are not packed.
#pragma once

#include "avx512.h"

namespace prunerzero {
namespace {

template <class Reader> struct Bytes {
  template <int Tokens, int Groups>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Reader steps[Groups];
    int64_t totals[Groups][Tokens][kGroupRows] = {};
    for (int g = 0; g < Groups; g++) steps[g] = Reader(matrix, group + g);
    const int64_t plane = inputs.tokens * 4, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 4;
    const __m512i sign = _mm512_set1_epi8(int8_t(-128));
    for (int64_t begin = 0; begin < count; begin += kExactSteps) {
      int64_t end = count - begin < kExactSteps ? count : begin + kExactSteps;
      __m512i sums[Groups][2][Tokens]; // of the high bytes and of the low ones
      for (auto &group_sums : sums)
        for (auto &each : group_sums)
          for (auto &sum : each) sum = _mm512_setzero_si512();
      for (int64_t step = begin; step < end; step++, place += 2 * plane)
        for (int g = 0; g < Groups; g++) {
          __m512i weights = _mm512_xor_si512(steps[g].next8(), sign);
          for (int t = 0; t < Tokens; t++)
            for (int i = 0; i < 2; i++)
              sums[g][i][t] = _mm512_dpbusd_epi32(sums[g][i][t], weights,
                                                  inputs32(place + i * plane + 4 * t));
        }
      for (int g = 0; g < Groups; g++)
        for (int t = 0; t < Tokens; t++) {
          int32_t high[kGroupRows], low[kGroupRows];
          _mm512_storeu_si512(high, sums[g][0][t]);
          _mm512_storeu_si512(low, sums[g][1][t]);
          for (int row = 0; row < kGroupRows; row++)
            totals[g][t][row] += 256 * int64_t(high[row]) + low[row];
        }
    }
    for (int g = 0; g < Groups; g++)
      for (int t = 0; t < Tokens; t++) {
        for (int row = 0; row < kGroupRows; row++)
          totals[g][t][row] -= 128 * inputs.totals[token + t];
        write_exact_sums(matrix, inputs, result, group + g, token + t, totals[g][t]);
      }
  }
};

} // namespace
} // namespace prunerzero
