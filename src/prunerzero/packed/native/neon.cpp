// NEON: 8 bits of the mask choose one of 256 shuffles.
#include <arm_neon.h>

#include <type_traits>

#include "common.h"
#include "one_group.h"
#include "shuffles.h"

namespace prunerzero {
namespace {

// Reads the steps of a group, one after another.
struct Steps {
  const uint8_t *mask;
  const uint8_t *values;

  Steps(const Matrix &matrix, int64_t group)
      : mask(matrix.mask_of(group)), values(matrix.values_of(group)) {}

  // 16 rows x 2 values of 16 bits, 4 rows in a vector.
  void next16(uint8x16_t (&rows)[4]) {
    for (int i = 0; i < 4; i++) {
      rows[i] = vqtbl1q_u8(vld1q_u8(values), vld1q_u8(kShuffles16.index[mask[i]]));
      values += 2 * __builtin_popcount(mask[i]);
    }
    ask_ahead(values);
    mask += 4;
  }

  // 16 rows x 4 values of 8 bits, 2 rows in a vector.
  void next8(int8x8_t (&rows)[8]) {
    values += spread(values, rows);
  }

  // The same of 4 bits, which become bytes first.
  void next4(int8x8_t (&rows)[8]) {
    uint8_t bytes[64];
    for (int i = 0; i < 2; i++) {
      uint8x16_t pairs = vld1q_u8(values + 16 * i);
      uint8x16x2_t halves = {{vandq_u8(pairs, vdupq_n_u8(15)), vshrq_n_u8(pairs, 4)}};
      for (auto &half : halves.val)
        half = vsubq_u8(vshlq_n_u8(half, 1), vdupq_n_u8(15));
      vst2q_u8(bytes + 32 * i, halves); // in turn
    }
    values += (spread(bytes, rows) + 1) / 2;
  }

private:
  // Where the next mask wants the bytes of a step, and how many they are.
  int64_t spread(const uint8_t *bytes, int8x8_t (&rows)[8]) {
    const uint8_t *place = bytes;
    for (int i = 0; i < 8; i++) {
      uint8x16_t packed = vcombine_u8(vld1_u8(place), vdup_n_u8(0));
      rows[i] = vreinterpret_s8_u8(vqtbl1_u8(packed, vld1_u8(kShuffles8.index[mask[i]])));
      place += __builtin_popcount(mask[i]);
    }
    ask_ahead(values);
    mask += 8;
    return place - bytes;
  }
};

// bfloat16 values by float32 inputs: a bfloat16 is the upper half of a float32.
struct Halves {
  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    float32x4_t sums[4][Tokens]; // 4 rows each
    for (auto &each : sums)
      for (auto &sum : each) sum = vdupq_n_f32(0);
    const int64_t stride = inputs.tokens * 2, count = matrix.steps();
    const float *place = reinterpret_cast<const float *>(inputs.data) + token * 2;
    for (int64_t step = 0; step < count; step++, place += stride) {
      uint8x16_t rows[4];
      steps.next16(rows);
      for (int i = 0; i < 4; i++) {
        uint32x4_t pairs = vreinterpretq_u32_u8(rows[i]);
        float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
        float32x4_t second = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
        for (int t = 0; t < Tokens; t++) {
          float32x2_t pair = vld1_f32(place + 2 * t);
          sums[i][t] = vfmaq_lane_f32(sums[i][t], first, pair, 0);
          sums[i][t] = vfmaq_lane_f32(sums[i][t], second, pair, 1);
        }
      }
    }
    for (int t = 0; t < Tokens; t++) {
      float lanes[kGroupRows];
      for (int i = 0; i < 4; i++) vst1q_f32(lanes + 4 * i, sums[i][t]);
      write_sums(matrix, result, group, token + t, lanes);
    }
  }
};

// float16 values: 2 rows become 4 float32, two of each row.
struct Converted {
  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    float32x4_t sums[8][Tokens];
    for (auto &each : sums)
      for (auto &sum : each) sum = vdupq_n_f32(0);
    const int64_t stride = inputs.tokens * 2, count = matrix.steps();
    const float *place = reinterpret_cast<const float *>(inputs.data) + token * 2;
    for (int64_t step = 0; step < count; step++, place += stride) {
      uint8x16_t rows[4];
      steps.next16(rows);
      for (int i = 0; i < 8; i++) {
        float16x8_t halves = vreinterpretq_f16_u8(rows[i / 2]);
        float32x4_t weights = vcvt_f32_f16(i % 2 ? vget_high_f16(halves) : vget_low_f16(halves));
        for (int t = 0; t < Tokens; t++) {
          float32x2_t pair = vld1_f32(place + 2 * t);
          sums[i][t] = vfmaq_f32(sums[i][t], weights, vcombine_f32(pair, pair));
        }
      }
    }
    for (int t = 0; t < Tokens; t++) {
      float lanes[2 * kGroupRows], row_sums[kGroupRows];
      for (int i = 0; i < 8; i++) vst1q_f32(lanes + 4 * i, sums[i][t]);
      for (int row = 0; row < kGroupRows; row++)
        row_sums[row] = lanes[2 * row] + lanes[2 * row + 1];
      write_sums(matrix, result, group, token + t, row_sums);
    }
  }
};

// int8 or int4 values by integers of 16 bits: the products of a row and its 4 inputs in 4 lanes.
template <bool Four> struct Integers {
  // 256 steps of products of 32512 x 128 are below 2^31.
  static constexpr int64_t kSteps = Four ? kSharing : 256;

  template <int Tokens>
  static void run(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group,
                  int64_t token) {
    Steps steps(matrix, group);
    std::conditional_t<Four, double, int64_t> totals[Tokens][kGroupRows] = {};
    const int64_t stride = inputs.tokens * 4, count = matrix.steps();
    const int16_t *place = reinterpret_cast<const int16_t *>(inputs.data) + token * 4;
    for (int64_t begin = 0; begin < count; begin += kSteps) {
      int64_t end = count - begin < kSteps ? count : begin + kSteps;
      int32x4_t sums[kGroupRows][Tokens];
      for (auto &each : sums)
        for (auto &sum : each) sum = vdupq_n_s32(0);
      for (int64_t step = begin; step < end; step++, place += stride) {
        int8x8_t rows[8];
        if constexpr (Four)
          steps.next4(rows);
        else
          steps.next8(rows);
        for (int row = 0; row < kGroupRows; row++) {
          int16x8_t pair = vmovl_s8(rows[row / 2]);
          int16x4_t weights = row % 2 ? vget_high_s16(pair) : vget_low_s16(pair);
          for (int t = 0; t < Tokens; t++)
            sums[row][t] = vmlal_s16(sums[row][t], weights, vld1_s16(place + 4 * t));
        }
      }
      for (int t = 0; t < Tokens; t++)
        if constexpr (Four) {
          int32_t row_sums[kGroupRows];
          for (int row = 0; row < kGroupRows; row++) row_sums[row] = vaddvq_s32(sums[row][t]);
          add_part(matrix, group, begin / kSteps, row_sums, totals[t]);
        } else {
          for (int row = 0; row < kGroupRows; row++)
            totals[t][row] += vaddlvq_s32(sums[row][t]);
        }
    }
    for (int t = 0; t < Tokens; t++)
      if constexpr (Four)
        write_shared_sums(matrix, inputs, result, group, token + t, totals[t]);
      else
        write_exact_sums(matrix, inputs, result, group, token + t, totals[t]);
  }
};

void expand(const Matrix &matrix, uint16_t *rows, int64_t first, int64_t last) {
  const bool bytes = matrix.integers(), halves = matrix.type == ValueType::int4;
  const int64_t count = matrix.steps();
  for (int64_t group = first; group < last; group++) {
    uint16_t *block = rows + (group - first) * kGroupRows * matrix.columns;
    int64_t within = rows_of_group(matrix, group);
    Steps steps(matrix, group);
    for (int64_t step = 0; step < count; step++) {
      uint16_t lanes[kGroupRows * 4];
      if (bytes) {
        int8x8_t pairs[8];
        if (halves)
          steps.next4(pairs);
        else
          steps.next8(pairs);
        for (int i = 0; i < 8; i++) {
          int16x8_t wider = vmovl_s8(pairs[i]);
          for (int half = 0; half < 2; half++) {
            int32x4_t four = vmovl_s16(half ? vget_high_s16(wider) : vget_low_s16(wider));
            uint32x4_t bits = vreinterpretq_u32_f32(vcvtq_f32_s32(four));
            vst1_u16(lanes + 8 * i + 4 * half, vshrn_n_u32(bits, 16));
          }
        }
      } else {
        uint8x16_t vectors[4];
        steps.next16(vectors);
        for (int i = 0; i < 4; i++) vst1q_u16(lanes + 8 * i, vreinterpretq_u16_u8(vectors[i]));
      }
      write_step(matrix, block, within, step, lanes);
    }
  }
}

Kernel kernel(ValueType values, InputType, int64_t) {
  if (values == ValueType::int8) return {Form::int16, run_blocks<Integers<false>, 1>};
  if (values == ValueType::int4) return {Form::int16, run_blocks<Integers<true>, 1>};
  if (values == ValueType::float16) return {Form::float32, run_blocks<Converted, 2>};
  return {Form::float32, run_blocks<Halves, 4>};
}

} // namespace

const Path neon_path = {"neon", kernel, expand};

} // namespace prunerzero
