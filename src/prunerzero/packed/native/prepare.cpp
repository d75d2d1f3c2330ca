// Inputs as the kernels read them.
#include "common.h"

namespace prunerzero {
namespace {

int64_t step_bytes(Form form) { return form == Form::bfloat16 ? 4 : 8; }

// Write integers of up to kLevels and return what one stands for: NaN where an input is not
// finite, and 0 where float32 holds no normal number for it.
float round_to_integers(InputType type, const void *inputs, int64_t first, int64_t count,
                        int16_t *integers) {
  uint32_t largest = 0; // bits of magnitudes order as the magnitudes do, infinity and NaN last
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = bits_of_float(read_number(type, inputs, first + i)) & 0x7fffffff;
    if (bits > largest) largest = bits;
  }
  float unit = float_of_bits(largest) / float(kLevels);
  bool finite = largest < 0x7f800000, usable = finite && unit >= 0x1p-126f;
  const float shift = 0x1.8p23f; // adding it rounds to the nearest integer, ties to even
  for (int64_t i = 0; i < count; i++)
    integers[i] =
        usable ? int16_t((read_number(type, inputs, first + i) / unit + shift) - shift) : int16_t(0);
  if (usable) return unit;
  return finite ? 0.0f : float_of_bits(0x7fc00000);
}

} // namespace

int64_t prepared_bytes(const Matrix &matrix, Form form, int64_t tokens) {
  return matrix.steps() * tokens * step_bytes(form);
}

void prepare(const Matrix &matrix, Form form, InputType type, const void *inputs, int64_t tokens,
             uint8_t *prepared, float *units, int64_t *totals) {
  int64_t columns = matrix.columns, wide = matrix.inputs_of_step();
  int64_t bytes = step_bytes(form), stride = tokens * bytes;
  int16_t *integers = wide == 4 ? new int16_t[columns] : nullptr;
  for (int64_t token = 0; token < tokens; token++) {
    int64_t first = token * columns;
    uint8_t *place = prepared + token * bytes;
    if (integers) {
      units[token] = round_to_integers(type, inputs, first, columns, integers);
      totals[token] = 0;
      for (int64_t i = 0; i < columns; i++) totals[token] += integers[i];
    }
    for (int64_t column = 0; column < columns; column += wide, place += stride) {
      int64_t count = columns - column < wide ? columns - column : wide;
      uint8_t step[8] = {0};
      for (int64_t i = 0; i < count; i++) {
        if (form == Form::float32) {
          float number = read_number(type, inputs, first + column + i);
          std::memcpy(step + 4 * i, &number, 4);
        } else if (form == Form::bfloat16) {
          std::memcpy(step + 2 * i, static_cast<const uint16_t *>(inputs) + first + column + i, 2);
        } else if (form == Form::int16) {
          std::memcpy(step + 2 * i, integers + column + i, 2);
        } else { // 256 high + low, low from -128 to 127
          int low = int8_t(uint16_t(integers[column + i]) & 0xff);
          step[i] = uint8_t((integers[column + i] - low) / 256);
          step[4 + i] = uint8_t(low);
        }
      }
      std::memcpy(place, step, size_t(bytes));
    }
  }
  delete[] integers;
}

} // namespace prunerzero
