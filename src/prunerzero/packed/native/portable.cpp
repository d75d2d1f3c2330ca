// Plain C++: what runs where no other path does, one weight at a time.
#include "common.h"

namespace prunerzero {
namespace {

// The mask word of a step, read byte by byte: its lowest byte comes first on every machine.
uint64_t word_at(const uint8_t *mask, int64_t bytes) {
  uint64_t word = 0;
  for (int64_t i = 0; i < bytes; i++) word |= uint64_t(mask[i]) << (8 * i);
  return word;
}

// Calls visit(step, row, input, value's index in the group) for each weight kept in a group. Values
// of int4 are counted one by one, and what fills up a step's last byte with them.
template <class Visit> void each_kept(const Matrix &matrix, int64_t group, Visit visit) {
  int64_t inputs = matrix.inputs_of_step(), bytes = 2 * inputs;
  const uint8_t *mask = matrix.mask_of(group);
  int64_t index = 0;
  for (int64_t step = 0; step < matrix.steps(); step++, mask += bytes) {
    if (matrix.type == ValueType::int4) index += index % 2;
    for (uint64_t word = word_at(mask, bytes); word; word &= word - 1, index++) {
      int64_t bit = __builtin_ctzll(word);
      visit(step, bit / inputs, bit % inputs, index);
    }
  }
}

uint16_t value16(const Matrix &matrix, int64_t group, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, matrix.values_of(group) + 2 * index, 2);
  return bits;
}

int8_t value8(const Matrix &matrix, int64_t group, int64_t index) {
  return int8_t(matrix.values_of(group)[index]);
}

int8_t value4(const Matrix &matrix, int64_t group, int64_t index) {
  return int8_t(2 * (matrix.values_of(group)[index / 2] >> 4 * (index % 2) & 15) - 15);
}

void multiply_float(const Matrix &matrix, const Inputs &inputs, const Result &result,
                    int64_t first, int64_t last) {
  const float *data = reinterpret_cast<const float *>(inputs.data);
  bool brain = matrix.type == ValueType::bfloat16;
  for (int64_t group = first; group < last; group++)
    for (int64_t token = 0; token < inputs.tokens; token++) {
      float sums[kGroupRows] = {0};
      each_kept(matrix, group, [&](int64_t step, int64_t row, int64_t input, int64_t index) {
        uint16_t bits = value16(matrix, group, index);
        sums[row] += (brain ? float_of_bfloat16(bits) : float_of_float16(bits)) *
                     data[(step * inputs.tokens + token) * 2 + input];
      });
      write_sums(matrix, result, group, token, sums);
    }
}

void multiply_int8(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                   int64_t last) {
  const int16_t *data = reinterpret_cast<const int16_t *>(inputs.data);
  for (int64_t group = first; group < last; group++)
    for (int64_t token = 0; token < inputs.tokens; token++) {
      int64_t sums[kGroupRows] = {0};
      each_kept(matrix, group, [&](int64_t step, int64_t row, int64_t input, int64_t index) {
        sums[row] += int64_t(value8(matrix, group, index)) *
                     data[(step * inputs.tokens + token) * 4 + input];
      });
      write_exact_sums(matrix, inputs, result, group, token, sums);
    }
}

void multiply_int4(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                   int64_t last) {
  const int16_t *data = reinterpret_cast<const int16_t *>(inputs.data);
  for (int64_t group = first; group < last; group++)
    for (int64_t token = 0; token < inputs.tokens; token++) {
      double totals[kGroupRows] = {0};
      int32_t sums[kGroupRows] = {0};
      int64_t part = 0;
      auto end_part = [&] {
        add_part(matrix, group, part, sums, totals);
        std::memset(sums, 0, sizeof sums);
      };
      each_kept(matrix, group, [&](int64_t step, int64_t row, int64_t input, int64_t index) {
        if (step / kSharing != part) {
          end_part();
          part = step / kSharing;
        }
        sums[row] += int32_t(value4(matrix, group, index)) *
                     data[(step * inputs.tokens + token) * 4 + input];
      });
      end_part();
      write_shared_sums(matrix, inputs, result, group, token, totals);
    }
}

void expand(const Matrix &matrix, uint16_t *rows, int64_t first, int64_t last) {
  for (int64_t group = first; group < last; group++) {
    uint16_t *block = rows + (group - first) * kGroupRows * matrix.columns;
    int64_t count = rows_of_group(matrix, group), wide = matrix.inputs_of_step();
    std::memset(block, 0, size_t(count * matrix.columns) * 2);
    each_kept(matrix, group, [&](int64_t step, int64_t row, int64_t input, int64_t index) {
      int64_t column = step * wide + input;
      if (row < count && column < matrix.columns)
        block[row * matrix.columns + column] =
            matrix.type == ValueType::int8   ? bfloat16_of_float(float(value8(matrix, group, index)))
            : matrix.type == ValueType::int4 ? bfloat16_of_float(float(value4(matrix, group, index)))
                                             : value16(matrix, group, index);
    });
  }
}

Kernel kernel(ValueType values, InputType, int64_t) {
  if (values == ValueType::int8) return {Form::int16, multiply_int8};
  if (values == ValueType::int4) return {Form::int16, multiply_int4};
  return {Form::float32, multiply_float};
}

} // namespace

const Path portable_path = {"portable", kernel, expand};

} // namespace prunerzero
