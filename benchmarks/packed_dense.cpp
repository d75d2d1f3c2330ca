// Dense products in the style of the packed kernels, for their benchmark: the same code, the same
// order of weights, but each step is 64 bytes of weights and needs no mask.
#include <memory>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "avx512_bytes.h"
#include "avx512_pairs.h"

namespace {

using namespace prunerzero;
using torch::stable::Tensor;

struct DenseSteps {
  const uint8_t *values;

  DenseSteps() = default;
  DenseSteps(const Matrix &matrix, int64_t group)
      : values(matrix.values + group * matrix.steps() * 64) {}

  __m512i next16() {
    __m512i weights = _mm512_loadu_si512(values);
    ask_ahead(values);
    values += 64;
    return weights;
  }
  __m512i next8() { return next16(); }
};

// The product with `weights`: groups x steps x 16 rows x 2 bfloat16, or 4 int8 where there are scales.
Tensor dense_product(const Tensor &inputs, const Tensor &weights, const std::optional<Tensor> &scales,
                     int64_t rows) {
  int64_t tokens = inputs.size(0);
  Matrix matrix = {rows, inputs.size(1), scales ? ValueType::int8 : ValueType::bfloat16, nullptr,
                   static_cast<const uint8_t *>(weights.const_data_ptr()), nullptr,
                   scales ? static_cast<const float *>(scales->const_data_ptr()) : nullptr};
  Tensor result = torch::stable::new_empty(inputs, {tokens, rows});
  Form form = scales ? Form::bytes : Form::bfloat16;
  std::unique_ptr<uint8_t[]> prepared(new uint8_t[prepared_bytes(matrix, form, tokens)]);
  std::unique_ptr<float[]> units(new float[tokens]);
  std::unique_ptr<int64_t[]> totals(new int64_t[tokens]);
  prepare(matrix, form, InputType::bfloat16, inputs.const_data_ptr(), tokens, 0, tokens,
          prepared.get(), units.get(), totals.get());
  Inputs operand = {tokens, prepared.get(), units.get(), totals.get()};
  Result target = {InputType::bfloat16, nullptr, result.mutable_data_ptr()};
  torch::stable::parallel_for(0, matrix.groups(), 1, [&](int64_t first, int64_t last) {
    if (scales)
      run_blocks<Bytes<DenseSteps>, 8>(matrix, operand, target, first, last);
    else
      run_blocks<Pairs<DenseSteps>, 16>(matrix, operand, target, first, last);
  });
  return result;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(prunerzero_benchmark, CPU, library) {
  library.impl("dense_product", TORCH_BOX(&dense_product));
}
