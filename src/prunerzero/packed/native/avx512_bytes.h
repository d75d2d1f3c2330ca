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

// The same of int4 values, whose sums are scaled part after part.
struct HalfBytes {
  template <int Tokens, int Groups>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps[Groups];
    __m512d totals[Groups][Tokens][2]; // of the first 8 rows and of the others
    for (int g = 0; g < Groups; g++) {
      steps[g] = Steps(matrix, group + g);
      for (auto &each : totals[g]) each[0] = each[1] = _mm512_setzero_pd();
    }
    const int64_t plane = inputs.tokens * 4, count = matrix.steps(), parts = matrix.parts();
    const uint8_t *place = inputs.data + token * 4;
    for (int64_t part = 0; part < parts; part++) {
      __m512i sums[Groups][2][Tokens]; // of the high bytes and of the low ones
      for (int t = 0; t < Tokens; t++) {
        const int64_t total = inputs.totals[(token + t) * parts + part];
        for (int g = 0; g < Groups; g++) {
          sums[g][0][t] = _mm512_setzero_si512();
          sums[g][1][t] = _mm512_set1_epi32(int32_t(-128 * total));
        }
      }
      auto add = [&] {
        for (int g = 0; g < Groups; g++) {
          __m512i weights = steps[g].next4();
          for (int t = 0; t < Tokens; t++)
            for (int i = 0; i < 2; i++)
              sums[g][i][t] = _mm512_dpbusd_epi32(sums[g][i][t], weights,
                                                  inputs32(place + i * plane + 4 * t));
        }
        place += 2 * plane;
      };
      const int64_t left = count - part * kSharing;
      if (left >= kSharing)
        for (int64_t step = 0; step < kSharing; step++) add(); // a number that the compiler knows
      else
        for (int64_t step = 0; step < left; step++) add();
      for (int g = 0; g < Groups; g++) {
        __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(
                reinterpret_cast<const __m256i *>(matrix.scales_of(group + g, part)))),
            16));
        __m512d upper[2] = {
            _mm512_cvtps_pd(_mm512_castps512_ps256(scales)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps(scales, 1))};
        for (int t = 0; t < Tokens; t++) {
          __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sums[g][0][t], 8), sums[g][1][t]);
          __m256i halves[2] = {_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1)};
          for (int i = 0; i < 2; i++)
            totals[g][t][i] =
                _mm512_fmadd_pd(_mm512_cvtepi32_pd(halves[i]), upper[i], totals[g][t][i]);
        }
      }
    }
    for (int g = 0; g < Groups; g++)
      for (int t = 0; t < Tokens; t++) {
        double lanes[kGroupRows];
        for (int i = 0; i < 2; i++) _mm512_storeu_pd(lanes + 8 * i, totals[g][t][i]);
        write_shared_sums(matrix, inputs, result, group + g, token + t, lanes);
      }
  }
};

} // namespace
} // namespace prunerzero
