// AVX-512 with BF16: what Sapphire Rapids, Zen 4 and later have.
#include "avx512_pairs.h"

namespace prunerzero {

Kernel avx512_bf16_kernel(ValueType values, InputType inputs, int64_t tokens) {
  if (values == ValueType::bfloat16 && inputs == InputType::bfloat16)
    return {Form::bfloat16, run_blocks<Pairs<Steps>, 16>};
  return avx512_kernel(values, inputs, tokens);
}

const Path avx512_bf16_path = {"avx512-bf16", avx512_bf16_kernel, avx512_expand};

} // namespace prunerzero
