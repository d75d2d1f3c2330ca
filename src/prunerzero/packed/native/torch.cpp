// The kernels as operators of torch, through its stable ABI: built once, this file runs with every
// torch from 2.11 on. Threads are torch's; the work is split between groups of rows alone.
#include <atomic>
#include <memory>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "packed.h"

namespace {

using prunerzero::InputType;
using prunerzero::kGroupRows;
using prunerzero::Matrix;
using prunerzero::ValueType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const prunerzero::Path *path = prunerzero::best_path();

InputType input_type(ScalarType type) {
  switch (type) {
  case ScalarType::BFloat16: return InputType::bfloat16;
  case ScalarType::Half: return InputType::float16;
  case ScalarType::Float: return InputType::float32;
  default: STD_TORCH_CHECK(false, "packed kernels take bfloat16, float16 and float32"); return {};
  }
}

// A matrix whose tensors have the sizes and types that the kernels rely on. That the mask has as
// many bits as `starts` says is checked where a file is loaded.
Matrix matrix_of(const Tensor &mask, const Tensor &values, const Tensor &starts,
                 int64_t rows, int64_t columns, int64_t type) {
  STD_TORCH_CHECK(rows >= 0 && columns >= 0 && type >= 0 && type <= 3, "no such packed matrix");
  Matrix matrix = {rows, columns, ValueType(type), nullptr, nullptr, nullptr, nullptr, nullptr};
  const ScalarType stored = matrix.type == ValueType::int8   ? ScalarType::Char
                            : matrix.type == ValueType::int4 ? ScalarType::Byte
                                                             : ScalarType::Short;
  for (const Tensor *tensor : {&mask, &values, &starts})
    STD_TORCH_CHECK(tensor->is_cpu() && tensor->is_contiguous(), "packed tensors are contiguous");
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte &&
                      mask.numel() == matrix.groups() * matrix.steps() * 2 * matrix.inputs_of_step(),
                  "the packed mask has another size");
  STD_TORCH_CHECK(starts.scalar_type() == ScalarType::Long &&
                      starts.numel() == matrix.groups() + 1,
                  "the starts have another size");
  matrix.starts = static_cast<const int64_t *>(starts.const_data_ptr());
  STD_TORCH_CHECK(values.scalar_type() == stored &&
                      values.numel() * matrix.value_bytes() ==
                          matrix.starts[matrix.groups()] * matrix.value_bytes() +
                              prunerzero::kPadding,
                  "the packed values have another size");
  matrix.mask = static_cast<const uint8_t *>(mask.const_data_ptr());
  matrix.values = static_cast<const uint8_t *>(values.const_data_ptr());
  return matrix;
}

// Call work(first, last) for all groups, on as many threads as are worth waking. A thread takes a
// few groups at a time: memory and other processes hold up one thread more than another.
template <class Work>
void each_part(const Matrix &matrix, int64_t first, int64_t last, int64_t tokens, const Work &work) {
  const int64_t weights = prunerzero::kGroupRows * matrix.columns * (tokens + 3) + 1;
  const int64_t worth = (int64_t(1) << 18) / weights + 1; // groups of a thread
  const int64_t threads = torch::stable::get_num_threads();
  int64_t part = (last - first + 8 * threads - 1) / (8 * threads);
  part = part < worth ? worth : part;
  part += part % 2; // kernels take two groups at once
  std::atomic<int64_t> next(first);
  const int64_t parts = (last - first + part - 1) / part;
  torch::stable::parallel_for(0, parts < threads ? parts : threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(part)) < last;)
      work(begin, begin + part < last ? begin + part : last);
  });
}

Tensor product(const Tensor &inputs, const Tensor &mask, const Tensor &values,
               const Tensor &starts, const std::optional<Tensor> &scales,
               const std::optional<Tensor> &bias, int64_t rows, int64_t type) {
  STD_TORCH_CHECK(inputs.is_cpu() && inputs.is_contiguous() && inputs.dim() == 2,
                  "packed kernels take contiguous inputs of two dimensions");
  Matrix matrix = matrix_of(mask, values, starts, rows, inputs.size(1), type);
  STD_TORCH_CHECK(matrix.integers() == scales.has_value(), "scales belong to integers");
  if (scales) {
    const bool shared = matrix.type == ValueType::int4;
    STD_TORCH_CHECK(
        scales->is_cpu() && scales->is_contiguous() &&
            scales->scalar_type() == (shared ? ScalarType::BFloat16 : ScalarType::Float) &&
            scales->numel() == (shared ? matrix.groups() * matrix.parts() * kGroupRows : rows),
        "the scales have another size");
    if (shared)
      matrix.shared_scales = static_cast<const uint16_t *>(scales->const_data_ptr());
    else
      matrix.scales = static_cast<const float *>(scales->const_data_ptr());
  }
  int64_t tokens = inputs.size(0);
  InputType kind = input_type(inputs.scalar_type());
  if (bias)
    STD_TORCH_CHECK(bias->is_cpu() && bias->is_contiguous() && bias->numel() == rows &&
                        bias->scalar_type() == inputs.scalar_type(),
                    "the bias has another size or type than the result");
  Tensor result = torch::stable::new_empty(inputs, {tokens, rows});

  const prunerzero::Kernel kernel = path->kernel(matrix.type, kind, tokens);
  std::unique_ptr<uint8_t[]> prepared(
      new uint8_t[size_t(prunerzero::prepared_bytes(matrix, kernel.form, tokens))]);
  std::unique_ptr<float[]> units(new float[size_t(tokens)]);
  std::unique_ptr<int64_t[]> totals(new int64_t[size_t(tokens * matrix.parts())]);
  const void *numbers = inputs.const_data_ptr();
  torch::stable::parallel_for(0, tokens, 4, [&](int64_t first, int64_t last) {
    prunerzero::prepare(matrix, kernel.form, kind, numbers, tokens, first, last, prepared.get(),
                        units.get(), totals.get());
  });
  prunerzero::Inputs operand = {tokens, prepared.get(), units.get(), totals.get()};
  prunerzero::Result target = {kind, bias ? bias->const_data_ptr() : nullptr,
                               result.mutable_data_ptr()};
  each_part(matrix, 0, matrix.groups(), tokens, [&](int64_t first, int64_t last) {
    kernel.multiply(matrix, operand, target, first, last);
  });
  return result;
}

// Groups [first, last) written to `rows` (rows x columns) of 16 bits.
void expand(const Tensor &rows, const Tensor &mask, const Tensor &values, const Tensor &starts,
            int64_t all_rows, int64_t type, int64_t first, int64_t last) {
  Matrix matrix = matrix_of(mask, values, starts, all_rows, rows.size(1), type);
  int64_t end = last * prunerzero::kGroupRows < all_rows ? last * prunerzero::kGroupRows : all_rows;
  STD_TORCH_CHECK(first >= 0 && first <= last && last <= matrix.groups() && rows.is_cpu() &&
                      rows.is_contiguous() && rows.dim() == 2 &&
                      rows.size(0) == end - first * prunerzero::kGroupRows &&
                      (rows.scalar_type() == ScalarType::BFloat16 ||
                       rows.scalar_type() == ScalarType::Half),
                  "there is no room for these rows");
  uint16_t *place = static_cast<uint16_t *>(rows.mutable_data_ptr());
  each_part(matrix, first, last, 1, [&](int64_t begin, int64_t end) {
    path->expand(matrix, place + (begin - first) * prunerzero::kGroupRows * matrix.columns, begin,
                 end);
  });
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(prunerzero, CPU, library) {
  library.impl("packed_product", TORCH_BOX(&product));
  library.impl("packed_expand", TORCH_BOX(&expand));
}

// For Python, through ctypes.
#define FOR_PYTHON extern "C" __attribute__((visibility("default")))

FOR_PYTHON const char *prunerzero_path() { return path->name; }

FOR_PYTHON bool prunerzero_runs(const char *name) { return prunerzero::path_named(name); }

// False, and nothing is changed, where this processor does not run the path or there is none.
FOR_PYTHON bool prunerzero_use(const char *name) {
  const prunerzero::Path *named = prunerzero::path_named(name);
  if (named) path = named;
  return named;
}
