// Paths that multiply one group after another and expand one step after another.
#pragma once

#include "common.h"

namespace prunerzero {
namespace {

// Run Block::run<tokens>(…, group, token) over everything, up to `Tokens` at once.
template <class Block, int Tokens>
void run_tokens(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                int64_t last, int64_t token, int64_t count) {
  if (count == Tokens) {
    for (int64_t group = first; group < last; group++)
      Block::template run<Tokens>(matrix, inputs, result, group, token);
  } else if constexpr (Tokens > 1) {
    run_tokens<Block, Tokens - 1>(matrix, inputs, result, first, last, token, count);
  }
}

template <class Block, int Tokens>
void run_blocks(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                int64_t last) {
  for (int64_t token = 0; token < inputs.tokens; token += Tokens)
    run_tokens<Block, Tokens>(matrix, inputs, result, first, last, token,
                              inputs.tokens - token < Tokens ? inputs.tokens - token : Tokens);
}

// Write an expanded step into the first `within` rows of a dense block, as far as there are columns.
inline void write_step(const Matrix &matrix, uint16_t *block, int64_t within, int64_t step,
                       const uint16_t *lanes) {
  const int64_t wide = matrix.inputs_of_step(), column = step * wide;
  const int64_t left = matrix.columns - column < wide ? matrix.columns - column : wide;
  for (int64_t row = 0; row < within; row++)
    std::memcpy(block + row * matrix.columns + column, lanes + row * wide, size_t(left) * 2);
}

} // namespace
} // namespace prunerzero
