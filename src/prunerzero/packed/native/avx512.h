// What both AVX-512 files share: a step expanded into one vector, a 32-bit lane for each row.
#pragma once

#include <immintrin.h>

#include "common.h"

namespace prunerzero {

// What a path with more instructions does not do better.
Kernel avx512_kernel(ValueType, InputType, int64_t tokens);
Kernel avx512_bf16_kernel(ValueType, InputType, int64_t tokens);
void avx512_expand(const Matrix &, uint16_t *, int64_t, int64_t);

namespace {

// Zeros of which the compiler does not know that they are zeros. Merged into them, an expand does
// not wait for the register that it writes, as its form with zeroing does on Zen 4 to 6.
inline __m512i hidden_zeros() {
  __m512i zeros = _mm512_setzero_si512();
  asm volatile("" : "+v"(zeros));
  return zeros;
}

// Reads the steps of a group, one after another.
struct Steps {
  const uint8_t *mask;
  const uint8_t *values;
  __m512i zeros;
  __m512i blanks; // 128 in each byte

  Steps() = default;
  Steps(const Matrix &matrix, int64_t group)
      : mask(matrix.mask_of(group)), values(matrix.values_of(group)), zeros(hidden_zeros()),
        blanks(_mm512_xor_si512(zeros, _mm512_set1_epi8(int8_t(-128)))) {}

  __m512i next16() { // 16 rows x 2 values
    uint32_t word;
    std::memcpy(&word, mask, 4);
    __m512i packed = _mm512_loadu_si512(values);
    ask_ahead(values);
    mask += 4;
    values += 2 * _mm_popcnt_u32(word);
    return _mm512_mask_expand_epi16(zeros, word, packed);
  }

  __m512i next8() { // 16 rows x 4 values
    uint64_t word;
    std::memcpy(&word, mask, 8);
    __m512i packed = _mm512_loadu_si512(values);
    ask_ahead(values);
    mask += 8;
    values += _mm_popcnt_u64(word);
    return _mm512_mask_expand_epi8(zeros, word, packed);
  }

  __m512i next4() { // 16 rows x 4 values, each an integer + 128
    uint64_t word;
    std::memcpy(&word, mask, 8);
    __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(values)));
    ask_ahead(values);
    mask += 8;
    values += (_mm_popcnt_u64(word) + 1) >> 1;
    const __m512i halves = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)),
                                            _mm512_set1_epi8(15));
    const __m512i odd = _mm512_broadcast_i32x4(_mm_setr_epi8(
        113, 115, 117, 119, 121, 123, 125, 127, -127, -125, -123, -121, -119, -117, -115, -113));
    return _mm512_mask_expand_epi8(blanks, word, _mm512_shuffle_epi8(odd, halves));
  }
};

// 32 bits of inputs in every lane.
inline __m512i inputs32(const uint8_t *place) {
  int32_t bits;
  std::memcpy(&bits, place, 4);
  return _mm512_set1_epi32(bits);
}

// Run Block::run<tokens, groups>(…, group, token) over everything: up to `Tokens` at once, so that
// a step is expanded once for them, and two groups at once where the tokens are few, so that the
// positions of one, each known only after the one before it, do not hold up the other.
template <class Block, int Tokens>
void run_tokens(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                int64_t last, int64_t token, int64_t count) {
  if (count < Tokens) {
    if constexpr (Tokens > 1)
      run_tokens<Block, Tokens - 1>(matrix, inputs, result, first, last, token, count);
    return;
  }
  int64_t group = first;
  if constexpr (Tokens <= 4)
    for (; group + 2 <= last; group += 2)
      Block::template run<Tokens, 2>(matrix, inputs, result, group, token);
  for (; group < last; group++)
    Block::template run<Tokens, 1>(matrix, inputs, result, group, token);
}

template <class Block, int Tokens>
void run_blocks(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                int64_t last) {
  for (int64_t token = 0; token < inputs.tokens; token += Tokens)
    run_tokens<Block, Tokens>(matrix, inputs, result, first, last, token,
                              inputs.tokens - token < Tokens ? inputs.tokens - token : Tokens);
}

} // namespace
} // namespace prunerzero
