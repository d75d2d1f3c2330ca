// Inputs as the kernels read them.
#include <memory>

#include "common.h"

namespace prunerzero {
namespace {

// Where the inputs of a step lie: in blocks of steps, in a block plane after plane, in a plane
// token after token, for a token step after step.
struct Arrangement {
  int64_t planes;
  int64_t bytes; // of a step, in a plane
  int64_t steps; // of a block
};

Arrangement arrangement(Form form) {
  switch (form) {
  case Form::bfloat16: return {1, 4, 1};
  case Form::float32: return {1, 8, 1};
  case Form::int16: return {1, 8, 1};
  case Form::bytes: return {2, 4, 1};
  case Form::bfloat16_tiles: return {1, 4, 16};
  case Form::byte_tiles: return {2, 4, 16};
  }
  return {};
}

// A tile of 16 tokens that is not alone is full.
int64_t laid_out(const Arrangement &as, int64_t tokens) {
  return as.steps == 1 || tokens <= 16 ? tokens : (tokens + 15) / 16 * 16;
}

int64_t blocks(const Matrix &matrix, const Arrangement &as) {
  return (matrix.steps() + as.steps - 1) / as.steps;
}

// Write integers of up to kLevels and return what one stands for: NaN where an input is not
// finite, and 0 where float32 holds no normal number for it.
float round_to_integers(const float *numbers, int64_t count, int16_t *integers) {
  uint32_t largest = 0; // bits of magnitudes order as the magnitudes do, infinity and NaN last
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = bits_of_float(numbers[i]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float unit = float_of_bits(largest) / float(kLevels);
  bool finite = largest < 0x7f800000;
  if (!finite || unit < 0x1p-126f) {
    std::memset(integers, 0, size_t(count) * 2);
    return finite ? 0.0f : float_of_bits(0x7fc00000);
  }
  const float shift = 0x1.8p23f; // adding it rounds to the nearest integer, ties to even
  for (int64_t i = 0; i < count; i++) integers[i] = int16_t((numbers[i] / unit + shift) - shift);
  return unit;
}

void read_numbers(InputType type, const void *inputs, int64_t first, int64_t count,
                  float *numbers) {
  if (type == InputType::float32)
    std::memcpy(numbers, static_cast<const float *>(inputs) + first, size_t(count) * 4);
  else if (type == InputType::bfloat16)
    for (int64_t i = 0; i < count; i++)
      numbers[i] = float_of_bfloat16(static_cast<const uint16_t *>(inputs)[first + i]);
  else
    for (int64_t i = 0; i < count; i++)
      numbers[i] = float_of_float16(static_cast<const uint16_t *>(inputs)[first + i]);
}

} // namespace

int64_t prepared_bytes(const Matrix &matrix, Form form, int64_t tokens) {
  Arrangement as = arrangement(form);
  return blocks(matrix, as) * as.planes * laid_out(as, tokens) * as.steps * as.bytes;
}

void prepare(const Matrix &matrix, Form form, InputType type, const void *inputs, int64_t tokens,
             int64_t first, int64_t last, uint8_t *prepared, float *units, int64_t *totals) {
  const Arrangement as = arrangement(form);
  const int64_t columns = matrix.columns, chunk = as.steps * as.bytes;
  const int64_t places = laid_out(as, tokens);
  const int64_t width = blocks(matrix, as) * chunk; // of a token, in a plane
  std::unique_ptr<uint8_t[]> row(new uint8_t[size_t(as.planes * width)]());
  std::unique_ptr<float[]> numbers(new float[size_t(columns)]);
  std::unique_ptr<int16_t[]> integers(new int16_t[size_t(columns)]);
  for (int64_t token = first; token < last; token++) {
    if (form == Form::bfloat16 || form == Form::bfloat16_tiles) {
      std::memcpy(row.get(), static_cast<const uint16_t *>(inputs) + token * columns,
                  size_t(columns) * 2);
    } else {
      read_numbers(type, inputs, token * columns, columns, numbers.get());
      if (form == Form::float32) {
        std::memcpy(row.get(), numbers.get(), size_t(columns) * 4);
      } else {
        units[token] = round_to_integers(numbers.get(), columns, integers.get());
        for (int64_t part = 0; part < matrix.parts(); part++) {
          int64_t total = 0, begin = part * matrix.part_inputs();
          int64_t end = columns - begin < matrix.part_inputs() ? columns : begin + matrix.part_inputs();
          for (int64_t i = begin; i < end; i++) total += integers[i];
          totals[token * matrix.parts() + part] = total;
        }
        if (form == Form::int16)
          std::memcpy(row.get(), integers.get(), size_t(columns) * 2);
        else // 256 high + low, low from -128 to 127
          for (int64_t i = 0; i < columns; i++) {
            row[i] = uint8_t((integers[i] + 128) >> 8);
            row[width + i] = uint8_t(integers[i]);
          }
      }
    }
    for (int64_t plane = 0; plane < as.planes; plane++) {
      const uint8_t *from = row.get() + plane * width;
      uint8_t *to = prepared + (plane * places + token) * chunk;
      for (int64_t at = 0; at < width; at += chunk, to += as.planes * places * chunk)
        switch (chunk) { // a copy of a size that the compiler knows is one instruction
        case 4: std::memcpy(to, from + at, 4); break;
        case 8: std::memcpy(to, from + at, 8); break;
        default: std::memcpy(to, from + at, 64);
        }
    }
  }
}

} // namespace prunerzero
