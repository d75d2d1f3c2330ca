// Run every kernel that this processor has on random matrices and compare with double precision.
//
//     check_kernels CASES [SEED]
//
// Free of torch, so that it runs under sanitizers and, cross-compiled, in an emulator. Every buffer
// has just the size that the kernels may count on: a read beyond one is a sanitizer's to find.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "common.h"

using namespace prunerzero;

namespace {

struct Packed {
  Matrix matrix;
  std::vector<double> dense; // rows x columns, without scales
  std::vector<uint16_t> shared_scales;
  double scale_of(int64_t row, int64_t column) const {
    if (matrix.type == ValueType::int8) return scales[size_t(row)];
    if (matrix.type != ValueType::int4) return 1;
    return float_of_bfloat16(matrix.scales_of(row / 16, column / kShare)[row % 16]);
  }
  std::vector<uint8_t> mask, values;
  std::vector<int64_t> starts;
  std::vector<float> scales;
};

// What layout.py does: the mask's bits and the kept values, group after group, step after step.
Packed pack(std::mt19937 &random, int64_t rows, int64_t columns, ValueType type, double kept) {
  Packed packed;
  packed.matrix = {rows, columns, type, nullptr, nullptr, nullptr, nullptr, nullptr};
  const Matrix &matrix = packed.matrix;
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<uint16_t> bits(size_t(rows * columns));
  for (int64_t row = 0; row < rows; row++) {
    bool empty = uniform(random) < 0.1;
    for (int64_t column = 0; column < columns; column++) {
      uint16_t value = 0;
      if (!empty && uniform(random) < kept) {
        float number = normal(random);
        if (type == ValueType::int8)
          value = uint8_t(int8_t(std::max(-128.f, std::min(127.f, std::round(number * 60)))));
        else if (type == ValueType::int4) // one more, so that 0 is what is not kept
          value = uint16_t(1 + std::max(0.f, std::min(15.f, std::round(number * 4 + 8))));
        else
          value = type == ValueType::bfloat16 ? bfloat16_of_float(number)
                                              : float16_of_float(number);
      }
      bits[row * columns + column] = value;
      packed.dense.push_back(type == ValueType::int8       ? double(int8_t(value))
                             : type == ValueType::int4     ? (value ? 2. * value - 17 : 0)
                             : type == ValueType::bfloat16 ? float_of_bfloat16(value)
                                                           : float_of_float16(value));
    }
    if (type == ValueType::int8) packed.scales.push_back(0.01f + float(uniform(random)));
  }
  if (type == ValueType::int4)
    for (int64_t i = 0; i < matrix.groups() * matrix.parts() * kGroupRows; i++)
      packed.shared_scales.push_back(bfloat16_of_float(0.01f + float(uniform(random))));
  int64_t wide = matrix.inputs_of_step(), kept_values = 0;
  for (int64_t group = 0; group < matrix.groups(); group++) {
    packed.starts.push_back(kept_values);
    for (int64_t step = 0; step < matrix.steps(); step++) {
      uint64_t word = 0;
      bool half = false; // whether a byte has room for one more value of 4 bits
      for (int64_t bit = 0; bit < 16 * wide; bit++) {
        int64_t row = group * 16 + bit / wide, column = step * wide + bit % wide;
        uint16_t value = row < rows && column < columns ? bits[row * columns + column] : 0;
        if (!value) continue;
        word |= uint64_t(1) << bit;
        if (half) {
          packed.values.back() |= uint8_t((value - 1) << 4);
          half = false;
          continue;
        }
        kept_values++;
        half = type == ValueType::int4;
        packed.values.push_back(half ? uint8_t(value - 1) : uint8_t(value));
        if (!matrix.integers()) packed.values.push_back(uint8_t(value >> 8));
      }
      for (int64_t byte = 0; byte < 2 * wide; byte++) packed.mask.push_back(uint8_t(word >> 8 * byte));
    }
  }
  packed.starts.push_back(kept_values);
  packed.values.resize(packed.values.size() + size_t(kPadding), 0xee);
  packed.mask.shrink_to_fit();
  packed.values.shrink_to_fit();
  packed.matrix.mask = packed.mask.data();
  packed.matrix.values = packed.values.data();
  packed.matrix.starts = packed.starts.data();
  packed.matrix.scales = packed.scales.data();
  packed.matrix.shared_scales = packed.shared_scales.data();
  return packed;
}

int failures = 0;

void fail(const Path &path, const Packed &packed, InputType type, int64_t tokens, const char *what) {
  std::printf("%s: %s, %lld x %lld, values %d, inputs %d, %lld tokens\n", path.name, what,
              (long long)packed.matrix.rows, (long long)packed.matrix.columns,
              int(packed.matrix.type), int(type), (long long)tokens);
  failures++;
}

template <class T> T exactly(size_t size) { // without room to spare
  T all(size);
  all.shrink_to_fit();
  return all;
}

void check_products(std::mt19937 &random, const std::vector<const Path *> &paths,
                    const Packed &packed, InputType type, int64_t tokens, bool with_bias) {
  const Matrix &matrix = packed.matrix;
  const int64_t width = type == InputType::float32 ? 4 : 2;
  std::normal_distribution<float> normal;
  auto inputs = exactly<std::vector<uint8_t>>(size_t(tokens * matrix.columns * width));
  auto bias = exactly<std::vector<uint8_t>>(size_t(matrix.rows * width));
  for (int64_t i = 0; i < tokens * matrix.columns; i++)
    write_number(type, inputs.data(), i, normal(random));
  for (int64_t i = 0; i < matrix.rows; i++) write_number(type, bias.data(), i, normal(random));
  std::vector<uint8_t> integers; // what the first path gave
  for (const Path *path : paths) {
    Kernel kernel = path->kernel(matrix.type, type, tokens);
    auto prepared =
        exactly<std::vector<uint8_t>>(size_t(prepared_bytes(matrix, kernel.form, tokens)));
    auto units = exactly<std::vector<float>>(size_t(tokens));
    auto totals = exactly<std::vector<int64_t>>(size_t(tokens * matrix.parts()));
    auto data = exactly<std::vector<uint8_t>>(size_t(tokens * matrix.rows * width));
    prepare(matrix, kernel.form, type, inputs.data(), tokens, 0, tokens, prepared.data(),
            units.data(), totals.data());
    Inputs operand = {tokens, prepared.data(), units.data(), totals.data()};
    Result result = {type, with_bias ? bias.data() : nullptr, data.data()};
    int64_t half = matrix.groups() / 2; // in two ranges, as two threads would
    kernel.multiply(matrix, operand, result, half, matrix.groups());
    kernel.multiply(matrix, operand, result, 0, half);
    double precision = type == InputType::float32   ? 0x1p-23
                       : type == InputType::float16 ? 0x1p-10
                                                    : 0x1p-7;
    bool right = true;
    for (int64_t token = 0; token < tokens; token++) {
      double largest = 0;
      for (int64_t column = 0; column < matrix.columns; column++)
        largest = std::max(largest, std::fabs(double(read_number(
                                        type, inputs.data(), token * matrix.columns + column))));
      for (int64_t row = 0; row < matrix.rows; row++) {
        double sum = 0, size = 0, weights = 0;
        for (int64_t column = 0; column < matrix.columns; column++) {
          double weight = packed.scale_of(row, column) * packed.dense[row * matrix.columns + column];
          double term =
              weight * read_number(type, inputs.data(), token * matrix.columns + column);
          sum += term;
          size += std::fabs(term);
          weights += std::fabs(weight);
        }
        if (with_bias) sum += read_number(type, bias.data(), row);
        double allowed = size * 0x1p-18 + precision * (std::fabs(sum) + 1e-4);
        if (matrix.integers()) allowed += largest * weights * 0x1p-15;
        double got = read_number(type, data.data(), token * matrix.rows + row);
        if (!(std::fabs(got - sum) <= allowed)) right = false;
      }
    }
    if (!right) fail(*path, packed, type, tokens, "a product is wrong");
    if (!matrix.integers()) continue;
    if (integers.empty()) integers = data;
    if (integers != data) fail(*path, packed, type, tokens, "integers differ between the paths");
  }
}

void check_expanding(const std::vector<const Path *> &paths, const Packed &packed) {
  const Matrix &matrix = packed.matrix;
  for (const Path *path : paths) {
    auto rows = exactly<std::vector<uint16_t>>(size_t(matrix.rows * matrix.columns));
    int64_t half = matrix.groups() / 2;
    path->expand(matrix, rows.data(), 0, half);
    path->expand(matrix, rows.data() + half * kGroupRows * matrix.columns, half, matrix.groups());
    bool right = true;
    for (size_t i = 0; i < rows.size(); i++)
      right &= packed.dense[i] == (matrix.type == ValueType::float16 ? float_of_float16(rows[i])
                                                                     : float_of_bfloat16(rows[i]));
    if (!right) fail(*path, packed, InputType::float32, 0, "an expanded row is wrong");
  }
}

} // namespace

int main(int count, char **arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 100;
  std::mt19937 random(unsigned(count > 2 ? std::atoi(arguments[2]) : 0));
  std::vector<const Path *> paths;
  for (const char *name : {"amx", "avx512-bf16", "avx512", "avx2", "neon", "portable"})
    if (const Path *path = path_named(name)) paths.push_back(path);
  auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int i = 0; i < cases; i++) {
    const double shares[] = {0, 0.02, 0.3, 0.5, 0.9, 1};
    // now and then so wide that sums of int32 are emptied on the way
    int64_t columns = i % 50 == 49 ? between(32000, 70000) : between(1, 300);
    int64_t rows = columns > 1000 ? between(1, 18) : between(1, 70);
    Packed packed = pack(random, rows, columns, ValueType(between(0, 3)), shares[between(0, 5)]);
    check_products(random, paths, packed, InputType(between(0, 2)),
                   columns > 1000 ? between(1, 2) : i % 7 ? between(1, 17) : between(18, 70),
                   between(0, 1));
    check_expanding(paths, packed);
  }
  std::printf("%d cases on", cases);
  for (const Path *path : paths) std::printf(" %s", path->name);
  std::printf(": %d failures\n", failures);
  return failures != 0;
}
