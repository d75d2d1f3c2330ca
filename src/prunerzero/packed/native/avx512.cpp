// AVX-512 with VBMI2 and VNNI: what Ice Lake, Sapphire Rapids, Zen 4 and later have.
#include "avx512_bytes.h"

namespace prunerzero {
namespace {

// bfloat16 values by float32 inputs: a bfloat16 is the upper half of a float32.
struct Halves {
  template <int Tokens, int Groups>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps[Groups];
    __m512 sums[Groups][2][Tokens]; // of the first inputs and of the second ones
    for (int g = 0; g < Groups; g++) {
      steps[g] = Steps(matrix, group + g);
      for (auto &each : sums[g])
        for (auto &sum : each) sum = _mm512_setzero_ps();
    }
    const int64_t stride = inputs.tokens * 8, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 8;
    const __m512i upper = _mm512_set1_epi32(int32_t(0xffff0000));
    for (int64_t step = 0; step < count; step++, place += stride)
      for (int g = 0; g < Groups; g++) {
        __m512i pairs = steps[g].next16();
        __m512 weights[2] = {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
                             _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))};
        for (int t = 0; t < Tokens; t++)
          for (int i = 0; i < 2; i++)
            sums[g][i][t] =
                _mm512_fmadd_ps(weights[i], _mm512_castsi512_ps(inputs32(place + 8 * t + 4 * i)),
                                sums[g][i][t]);
      }
    for (int g = 0; g < Groups; g++)
      for (int t = 0; t < Tokens; t++) {
        float lanes[kGroupRows];
        _mm512_storeu_ps(lanes, _mm512_add_ps(sums[g][0][t], sums[g][1][t]));
        write_sums(matrix, result, group + g, token + t, lanes);
      }
  }
};

// float16 values: 8 rows become 16 float32, two of each row.
struct Converted {
  template <int Tokens, int Groups>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps[Groups];
    __m512 sums[Groups][2][Tokens]; // of the first 8 rows and of the others
    for (int g = 0; g < Groups; g++) {
      steps[g] = Steps(matrix, group + g);
      for (auto &each : sums[g])
        for (auto &sum : each) sum = _mm512_setzero_ps();
    }
    const int64_t stride = inputs.tokens * 8, count = matrix.steps();
    const uint8_t *place = inputs.data + token * 8;
    for (int64_t step = 0; step < count; step++, place += stride)
      for (int g = 0; g < Groups; g++) {
        __m512i pairs = steps[g].next16();
        __m512 weights[2] = {_mm512_cvtph_ps(_mm512_castsi512_si256(pairs)),
                             _mm512_cvtph_ps(_mm512_extracti64x4_epi64(pairs, 1))};
        for (int t = 0; t < Tokens; t++) {
          int64_t both;
          std::memcpy(&both, place + 8 * t, 8);
          __m512 pair = _mm512_castsi512_ps(_mm512_set1_epi64(both));
          for (int i = 0; i < 2; i++)
            sums[g][i][t] = _mm512_fmadd_ps(weights[i], pair, sums[g][i][t]);
        }
      }
    for (int g = 0; g < Groups; g++)
      for (int t = 0; t < Tokens; t++) {
        float lanes[2 * kGroupRows], rows[kGroupRows];
        _mm512_storeu_ps(lanes, sums[g][0][t]);
        _mm512_storeu_ps(lanes + kGroupRows, sums[g][1][t]);
        for (int row = 0; row < kGroupRows; row++) rows[row] = lanes[2 * row] + lanes[2 * row + 1];
        write_sums(matrix, result, group + g, token + t, rows);
      }
  }
};

// 16 vectors of 16 lanes: lane j of vector i becomes lane i of vector j.
void transpose(__m512i (&v)[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; k++) {
      b[i + 2 * k] = _mm512_unpacklo_epi64(a[i + k], a[i + 2 + k]);
      b[i + 2 * k + 1] = _mm512_unpackhi_epi64(a[i + k], a[i + 2 + k]);
    }
  // b[4 * q + k] holds, in its quarter p, lanes of row 4 * p + k from vectors 4 * q to 4 * q + 3
  for (int k = 0; k < 4; k++) {
    __m512i low01 = _mm512_shuffle_i32x4(b[k], b[4 + k], 0x44);
    __m512i high01 = _mm512_shuffle_i32x4(b[k], b[4 + k], 0xee);
    __m512i low23 = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0x44);
    __m512i high23 = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0xee);
    v[k] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    v[4 + k] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    v[8 + k] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    v[12 + k] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}

__m256i bfloat16_of_int8(__m128i values) {
  __m512 numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(numbers), 16));
}

// Write the first `count` of the 16-bit values of a row.
void write_row(uint16_t *place, const __m512i *parts, int64_t count) {
  for (; count > 0; count -= 32, place += 32, parts++) {
    __mmask32 within = count >= 32 ? ~__mmask32(0) : (__mmask32(1) << count) - 1;
    _mm512_mask_storeu_epi16(place, within, *parts);
  }
}

} // namespace

Kernel avx512_kernel(ValueType values, InputType, int64_t) {
  if (values == ValueType::int8) return {Form::bytes, run_blocks<Bytes<Steps>, 8>};
  if (values == ValueType::int4) return {Form::bytes, run_blocks<HalfBytes, 8>};
  if (values == ValueType::float16) return {Form::float32, run_blocks<Converted, 8>};
  return {Form::float32, run_blocks<Halves, 8>};
}

void avx512_expand(const Matrix &matrix, uint16_t *rows, int64_t first, int64_t last) {
  const bool bytes = matrix.integers(), halves = matrix.type == ValueType::int4;
  const __m512i sign = _mm512_set1_epi8(int8_t(-128));
  const int64_t wide = matrix.inputs_of_step(), count = matrix.steps();
  for (int64_t group = first; group < last; group++) {
    uint16_t *block = rows + (group - first) * kGroupRows * matrix.columns;
    int64_t within = rows_of_group(matrix, group);
    Steps steps(matrix, group);
    for (int64_t step = 0; step < count; step += 16) {
      __m512i lanes[16];
      for (int i = 0; i < 16; i++)
        lanes[i] = step + i >= count ? _mm512_setzero_si512()
                   : halves          ? _mm512_xor_si512(steps.next4(), sign)
                   : bytes           ? steps.next8()
                                     : steps.next16();
      transpose(lanes);
      int64_t column = step * wide, left = matrix.columns - column;
      if (left > 16 * wide) left = 16 * wide;
      for (int64_t row = 0; row < within; row++) {
        uint16_t *place = block + row * matrix.columns + column;
        if (!bytes) {
          write_row(place, &lanes[row], left);
          continue;
        }
        __m512i parts[2];
        for (int half = 0; half < 2; half++) {
          __m256i pair = half ? _mm512_extracti64x4_epi64(lanes[row], 1)
                              : _mm512_castsi512_si256(lanes[row]);
          parts[half] = _mm512_inserti64x4(
              _mm512_castsi256_si512(bfloat16_of_int8(_mm256_castsi256_si128(pair))),
              bfloat16_of_int8(_mm256_extracti128_si256(pair, 1)), 1);
        }
        write_row(place, parts, left);
      }
    }
  }
}

const Path avx512_path = {"avx512", avx512_kernel, avx512_expand};

} // namespace prunerzero
