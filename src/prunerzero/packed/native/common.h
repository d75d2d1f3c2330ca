// Numbers of 16 bits and the end of a sum, the same on every path.
#pragma once

#include <cstring>

#include "packed.h"

namespace prunerzero {
namespace {

// Bytes of values that a kernel asks for ahead: processors by themselves see only so far.
constexpr int64_t kAhead = 3072;

inline void ask_ahead(const uint8_t *values) { __builtin_prefetch(values + kAhead); }

inline float float_of_bits(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}

inline uint32_t bits_of_float(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return bits;
}

inline float float_of_bfloat16(uint16_t bits) { return float_of_bits(uint32_t(bits) << 16); }

inline float float_of_float16(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest >= 0x400) return float_of_bits(sign | ((rest << 13) + 0x38000000));
  float number = float(rest) * 0x1p-24f; // a subnormal number
  return sign ? -number : number;
}

// To the nearest, ties to even.
inline uint16_t bfloat16_of_float(float number) {
  uint32_t bits = bits_of_float(number);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t float16_of_float(float number) {
  uint32_t bits = bits_of_float(number), sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00); // rounds beyond the largest
  if (bits < 0x38800000) // subnormal: adding 1/2 leaves the bits that float16 holds
    return uint16_t(sign | (bits_of_float(float_of_bits(bits) + 0.5f) - 0x3f000000));
  return uint16_t(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

inline float read_number(InputType type, const void *numbers, int64_t index) {
  if (type == InputType::float32) return static_cast<const float *>(numbers)[index];
  uint16_t bits = static_cast<const uint16_t *>(numbers)[index];
  return type == InputType::bfloat16 ? float_of_bfloat16(bits) : float_of_float16(bits);
}

inline void write_number(InputType type, void *numbers, int64_t index, float number) {
  if (type == InputType::float32)
    static_cast<float *>(numbers)[index] = number;
  else
    static_cast<uint16_t *>(numbers)[index] =
        type == InputType::bfloat16 ? bfloat16_of_float(number) : float16_of_float(number);
}

inline int64_t rows_of_group(const Matrix &matrix, int64_t group) {
  int64_t left = matrix.rows - group * kGroupRows;
  return left < kGroupRows ? left : kGroupRows;
}

// Write the 16 sums of a group for a token.
template <InputType type>
inline void write_sums_as(const Matrix &matrix, const Result &result, int64_t group, int64_t token,
                          const float *sums) {
  int64_t first = group * kGroupRows, count = rows_of_group(matrix, group);
  int64_t place = token * matrix.rows + first;
  auto write = [&](int64_t row) {
    float bias = result.bias ? read_number(type, result.bias, first + row) : -0.0f;
    write_number(type, result.data, place + row, sums[row] + bias);
  };
  if (count == kGroupRows) // a number that the compiler knows
    for (int64_t row = 0; row < kGroupRows; row++) write(row);
  else
    for (int64_t row = 0; row < count; row++) write(row);
}

inline void write_sums(const Matrix &matrix, const Result &result, int64_t group, int64_t token,
                       const float *sums) {
  switch (result.type) {
  case InputType::bfloat16:
    return write_sums_as<InputType::bfloat16>(matrix, result, group, token, sums);
  case InputType::float16:
    return write_sums_as<InputType::float16>(matrix, result, group, token, sums);
  case InputType::float32:
    return write_sums_as<InputType::float32>(matrix, result, group, token, sums);
  }
}

// The same for exact sums: scaled and given a bias in double, on each path in this order.
inline void write_exact_sums(const Matrix &matrix, const Inputs &inputs, const Result &result,
                             int64_t group, int64_t token, const int64_t *sums) {
  int64_t first = group * kGroupRows, count = rows_of_group(matrix, group);
  float scaled[kGroupRows] = {0};
  for (int64_t row = 0; row < count; row++) {
    double sum = double(sums[row]) * (double(inputs.units[token]) * double(matrix.scales[first + row]));
    if (result.bias) sum += double(read_number(result.type, result.bias, first + row));
    scaled[row] = float(sum);
  }
  write_sums(matrix, {result.type, nullptr, result.data}, group, token, scaled);
}

// The scales of a group's rows for a part of the inputs, and the sums of a part added to those of
// the parts before it: a product of an integer of 24 bits with a bfloat16 is exact in double, so that
// each path, which adds part after part, gives the same bits.
inline void add_part(const Matrix &matrix, int64_t group, int64_t part, const int32_t *sums,
                     double *totals) {
  const uint16_t *scales = matrix.scales_of(group, part);
  for (int64_t row = 0; row < kGroupRows; row++)
    totals[row] += double(sums[row]) * double(float_of_bfloat16(scales[row]));
}

// Sums that are scaled but for what an integer of the inputs stands for.
inline void write_shared_sums(const Matrix &matrix, const Inputs &inputs, const Result &result,
                              int64_t group, int64_t token, const double *sums) {
  int64_t first = group * kGroupRows, count = rows_of_group(matrix, group);
  float scaled[kGroupRows] = {0};
  for (int64_t row = 0; row < count; row++) {
    double sum = sums[row] * double(inputs.units[token]);
    if (result.bias) sum += double(read_number(result.type, result.bias, first + row));
    scaled[row] = float(sum);
  }
  write_sums(matrix, {result.type, nullptr, result.data}, group, token, scaled);
}

} // namespace
} // namespace prunerzero
