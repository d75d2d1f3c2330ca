// AVX2 with FMA and F16C: 8 bits of the mask choose one of 256 shuffles.
#include <immintrin.h>

#include <type_traits>

#include "common.h"
#include "one_group.h"
#include "shuffles.h"

namespace prunerzero {
namespace {

// Reads the steps of a group, one after another.
struct Steps {
  const uint8_t *mask;
  const uint8_t *values;

  Steps(const Matrix &matrix, int64_t group)
      : mask(matrix.mask_of(group)), values(matrix.values_of(group)) {}

  // 16 rows x 2 values of 16 bits, 4 rows in a vector.
  void next16(__m128i (&rows)[4]) {
    uint32_t word;
    std::memcpy(&word, mask, 4);
    for (int i = 0; i < 4; i++) {
      const uint8_t *place = values + 2 * _mm_popcnt_u32(i ? word & (0xffffffffu >> (32 - 8 * i)) : 0);
      rows[i] = _mm_shuffle_epi8(
          _mm_loadu_si128(reinterpret_cast<const __m128i *>(place)),
          _mm_load_si128(reinterpret_cast<const __m128i *>(kShuffles16.index[word >> 8 * i & 255])));
    }
    ask_ahead(values);
    mask += 4;
    values += 2 * _mm_popcnt_u32(word);
  }

  // 16 rows x 4 values of 8 bits, 4 rows in a vector.
  void next8(__m128i (&rows)[4]) {
    values += spread(values, rows);
  }

  // The same of 4 bits, which become bytes first.
  void next4(__m128i (&rows)[4]) {
    alignas(32) uint8_t bytes[64];
    const __m128i odd = _mm_setr_epi8(-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15);
    for (int i = 0; i < 2; i++) {
      __m256i wide = _mm256_cvtepu8_epi16(
          _mm_loadu_si128(reinterpret_cast<const __m128i *>(values + 16 * i)));
      __m256i halves = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)),
                                        _mm256_set1_epi8(15));
      _mm256_store_si256(reinterpret_cast<__m256i *>(bytes) + i,
                         _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(odd), halves));
    }
    values += (spread(bytes, rows) + 1) / 2;
  }

private:
  // Where the next mask wants the bytes of a step, and how many they are.
  int64_t spread(const uint8_t *bytes, __m128i (&rows)[4]) {
    uint64_t word;
    std::memcpy(&word, mask, 8);
    __m128i pairs[8];
    for (int i = 0; i < 8; i++) {
      const uint8_t *place = bytes + _mm_popcnt_u64(i ? word & (~uint64_t(0) >> (64 - 8 * i)) : 0);
      pairs[i] = _mm_shuffle_epi8(
          _mm_loadl_epi64(reinterpret_cast<const __m128i *>(place)),
          _mm_loadl_epi64(reinterpret_cast<const __m128i *>(kShuffles8.index[word >> 8 * i & 255])));
    }
    for (int i = 0; i < 4; i++) rows[i] = _mm_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]);
    ask_ahead(values);
    mask += 8;
    return _mm_popcnt_u64(word);
  }
};

// bfloat16 values by float32 inputs: a bfloat16 is the upper half of a float32.
struct Halves {
  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    __m256 sums[2][Tokens]; // of the first 8 rows and of the others
    for (auto &each : sums)
      for (auto &sum : each) sum = _mm256_setzero_ps();
    const int64_t stride = inputs.tokens * 8, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 8;
    const __m256i upper = _mm256_set1_epi32(int32_t(0xffff0000));
    for (int64_t step = 0; step < count; step++, place += stride) {
      __m128i rows[4];
      steps.next16(rows);
      for (int half = 0; half < 2; half++) {
        __m256i pairs = _mm256_set_m128i(rows[2 * half + 1], rows[2 * half]);
        __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        __m256 second = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
        for (int t = 0; t < Tokens; t++) {
          const float *pair = reinterpret_cast<const float *>(place) + 2 * t;
          sums[half][t] = _mm256_fmadd_ps(first, _mm256_broadcast_ss(pair), sums[half][t]);
          sums[half][t] = _mm256_fmadd_ps(second, _mm256_broadcast_ss(pair + 1), sums[half][t]);
        }
      }
    }
    for (int t = 0; t < Tokens; t++) {
      float lanes[kGroupRows];
      _mm256_storeu_ps(lanes, sums[0][t]);
      _mm256_storeu_ps(lanes + 8, sums[1][t]);
      write_sums(matrix, result, group, token + t, lanes);
    }
  }
};

// float16 values: 4 rows become 8 float32, two of each row.
struct Converted {
  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    __m256 sums[4][Tokens];
    for (auto &each : sums)
      for (auto &sum : each) sum = _mm256_setzero_ps();
    const int64_t stride = inputs.tokens * 8, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 8;
    for (int64_t step = 0; step < count; step++, place += stride) {
      __m128i rows[4];
      steps.next16(rows);
      for (int i = 0; i < 4; i++)
        for (int t = 0; t < Tokens; t++) {
          __m256 pair = _mm256_castpd_ps(
              _mm256_broadcast_sd(reinterpret_cast<const double *>(place) + t));
          sums[i][t] = _mm256_fmadd_ps(_mm256_cvtph_ps(rows[i]), pair, sums[i][t]);
        }
    }
    for (int t = 0; t < Tokens; t++) {
      float lanes[2 * kGroupRows], row_sums[kGroupRows];
      for (int i = 0; i < 4; i++) _mm256_storeu_ps(lanes + 8 * i, sums[i][t]);
      for (int row = 0; row < kGroupRows; row++)
        row_sums[row] = lanes[2 * row] + lanes[2 * row + 1];
      write_sums(matrix, result, group, token + t, row_sums);
    }
  }
};

// int8 or int4 values by integers of 16 bits: two products and their sum in 32 bits.
template <bool Four> struct Integers {
  // 128 steps x 2 products of 32512 x 128 each are below 2^31.
  static constexpr int64_t kSteps = Four ? kSharing : 128;

  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    std::conditional_t<Four, double, int64_t> totals[Tokens][kGroupRows] = {};
    const int64_t stride = inputs.tokens * 8, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 8;
    for (int64_t begin = 0; begin < count; begin += kSteps) {
      int64_t end = count - begin < kSteps ? count : begin + kSteps;
      __m256i sums[4][Tokens]; // 4 rows each, two lanes a row
      for (auto &each : sums)
        for (auto &sum : each) sum = _mm256_setzero_si256();
      for (int64_t step = begin; step < end; step++, place += stride) {
        __m128i rows[4];
        if constexpr (Four)
          steps.next4(rows);
        else
          steps.next8(rows);
        for (int i = 0; i < 4; i++) {
          __m256i weights = _mm256_cvtepi8_epi16(rows[i]);
          for (int t = 0; t < Tokens; t++) {
            int64_t four;
            std::memcpy(&four, place + 8 * t, 8);
            sums[i][t] = _mm256_add_epi32(
                sums[i][t], _mm256_madd_epi16(weights, _mm256_set1_epi64x(four)));
          }
        }
      }
      for (int t = 0; t < Tokens; t++) {
        int32_t lanes[2 * kGroupRows];
        for (int i = 0; i < 4; i++)
          _mm256_storeu_si256(reinterpret_cast<__m256i *>(lanes + 8 * i), sums[i][t]);
        if constexpr (Four) {
          int32_t row_sums[kGroupRows];
          for (int row = 0; row < kGroupRows; row++)
            row_sums[row] = lanes[2 * row] + lanes[2 * row + 1];
          add_part(matrix, group, begin / kSteps, row_sums, totals[t]);
        } else {
          for (int row = 0; row < kGroupRows; row++)
            totals[t][row] += int64_t(lanes[2 * row]) + lanes[2 * row + 1];
        }
      }
    }
    for (int t = 0; t < Tokens; t++)
      if constexpr (Four)
        write_shared_sums(matrix, inputs, result, group, token + t, totals[t]);
      else
        write_exact_sums(matrix, inputs, result, group, token + t, totals[t]);
  }
};

__m128i bfloat16_of_int8(__m128i values) { // the lower 8
  __m256 numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values));
  __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(numbers), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

void expand(const Matrix &matrix, uint16_t *rows, int64_t first, int64_t last) {
  const bool bytes = matrix.integers(), halves = matrix.type == ValueType::int4;
  const int64_t count = matrix.steps();
  for (int64_t group = first; group < last; group++) {
    uint16_t *block = rows + (group - first) * kGroupRows * matrix.columns;
    int64_t within = rows_of_group(matrix, group);
    Steps steps(matrix, group);
    for (int64_t step = 0; step < count; step++) {
      __m128i vectors[4];
      alignas(16) uint16_t lanes[kGroupRows * 4];
      if (bytes) {
        if (halves)
          steps.next4(vectors);
        else
          steps.next8(vectors);
        for (int i = 0; i < 4; i++) {
          __m128i *place = reinterpret_cast<__m128i *>(lanes) + 2 * i;
          _mm_store_si128(place, bfloat16_of_int8(vectors[i]));
          _mm_store_si128(place + 1, bfloat16_of_int8(_mm_srli_si128(vectors[i], 8)));
        }
      } else {
        steps.next16(vectors);
        for (int i = 0; i < 4; i++)
          _mm_store_si128(reinterpret_cast<__m128i *>(lanes) + i, vectors[i]);
      }
      write_step(matrix, block, within, step, lanes);
    }
  }
}

Kernel kernel(ValueType values, InputType, int64_t) {
  if (values == ValueType::int8) return {Form::int16, run_blocks<Integers<false>, 2>};
  if (values == ValueType::int4) return {Form::int16, run_blocks<Integers<true>, 2>};
  if (values == ValueType::float16) return {Form::float32, run_blocks<Converted, 2>};
  return {Form::float32, run_blocks<Halves, 4>};
}

} // namespace

const Path avx2_path = {"avx2", kernel, expand};

} // namespace prunerzero
