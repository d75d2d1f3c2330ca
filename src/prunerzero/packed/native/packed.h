// What the kernels share: a product with a packed matrix, and the functions that each path has.
//
// The layout is that of ../layout.py: groups of 16 rows, a step of 16 rows x 2 inputs (16-bit
// values, a mask word of 32 bits) or x 4 inputs (int8 and int4, 64 bits), values in the order of the
// bits; two values of int4 share a byte, and each step begins with a byte of its own.
// Nothing here knows of torch, so that a driver without it can run every kernel under sanitizers.
// Each path is a file compiled with flags of its own. What such a file takes from a header is
// static: a linker must not choose the copy that was compiled for a newer processor.
#pragma once

#include <cstdint>

namespace prunerzero {

constexpr int64_t kGroupRows = 16;
constexpr int64_t kPadding = 64;   // bytes that may be read after the last value
constexpr int64_t kLevels = 32512; // the largest integer that stands for an input
// A sum of int32 takes so many steps of int8 before it is added to one of int64: 8192 x 4 inputs
// x 255 x 128 is below 2^31.
constexpr int64_t kExactSteps = 8192;
constexpr int64_t kShare = 32;          // inputs of a row that share a scale, int4 alone
constexpr int64_t kSharing = kShare / 4; // their steps

enum class ValueType : int64_t { bfloat16 = 0, float16 = 1, int8 = 2, int4 = 3 };
enum class InputType : int64_t { bfloat16 = 0, float16 = 1, float32 = 2 };

struct Matrix {
  int64_t rows;
  int64_t columns;
  ValueType type;
  const uint8_t *mask;
  const uint8_t *values;
  const int64_t *starts; // of each group, counted in values, or in bytes of int4
  const float *scales;   // of each row, int8 alone
  const uint16_t *shared_scales; // bfloat16, of groups x parts x the group's rows, int4 alone

  bool integers() const { return type == ValueType::int8 || type == ValueType::int4; }
  int64_t inputs_of_step() const { return integers() ? 4 : 2; }
  int64_t steps() const { return (columns + inputs_of_step() - 1) / inputs_of_step(); }
  int64_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
  int64_t value_bytes() const { return integers() ? 1 : 2; } // int4: of two
  // Inputs of a row that are summed before they are scaled, and how many such parts it has.
  int64_t part_inputs() const { return type == ValueType::int4 ? kShare : columns; }
  int64_t parts() const { return type == ValueType::int4 ? (columns + kShare - 1) / kShare : 1; }
  const uint8_t *mask_of(int64_t group) const { return mask + group * steps() * 2 * inputs_of_step(); }
  const uint8_t *values_of(int64_t group) const { return values + starts[group] * value_bytes(); }
  const uint16_t *scales_of(int64_t group, int64_t part) const {
    return shared_scales + (group * parts() + part) * kGroupRows;
  }
};

// How inputs are laid out for a kernel: step after step, and in a step token after token.
enum class Form {
  bfloat16, // 2 bfloat16
  float32,  // 2 float32
  int16,    // 4 integers of 16 bits
  bytes,    // their 4 high bytes of all tokens, then their 4 low bytes of all, both signed
  bfloat16_tiles, // the same two, but 16 steps of a token stand together,
  byte_tiles,     // as one row of a tile
};

struct Inputs {
  int64_t tokens;
  const uint8_t *data;
  const float *units;    // what an integer stands for, of each token; integers alone
  const int64_t *totals; // the sum of the integers, of each token and each part
};

struct Result {
  InputType type; // of the bias, too
  const void *bias;
  void *data; // tokens x rows
};

// The product of groups [first, last). No group's result depends on the others.
using Multiply = void (*)(const Matrix &, const Inputs &, const Result &, int64_t first,
                          int64_t last);
// Groups [first, last) as rows of 16 bits, `columns` apart: values of 16 bits as they are, the
// integers of int8 and int4 as bfloat16, which holds them.
using Expand = void (*)(const Matrix &, uint16_t *rows, int64_t first, int64_t last);

struct Kernel {
  Form form;
  Multiply multiply;
};

struct Path {
  const char *name;
  Kernel (*kernel)(ValueType values, InputType inputs, int64_t tokens);
  Expand expand;
};

const Path *best_path();
// Null where this processor does not run it, or none has the name.
const Path *path_named(const char *name);

// Bytes that `inputs` take in a form.
int64_t prepared_bytes(const Matrix &matrix, Form form, int64_t tokens);
// Lay out tokens [first, last) of `inputs` (tokens x columns); `units` and `totals` are written
// where the form is of integers. Inputs beyond the matrix are zeros; tokens beyond the last, of
// which a form may have some, are left alone, and their results are not written.
void prepare(const Matrix &matrix, Form form, InputType type, const void *inputs, int64_t tokens,
             int64_t first, int64_t last, uint8_t *prepared, float *units, int64_t *totals);

extern const Path portable_path;
extern const Path avx2_path;
extern const Path avx512_path;
extern const Path avx512_bf16_path;
extern const Path amx_path;
extern const Path neon_path;

} // namespace prunerzero
