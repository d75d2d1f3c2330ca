// AMX: up to 16 inputs at once. What a step expands to, 16 rows x 2 bfloat16 or 4 int8 in lanes of 32
// bits, is one row of the tile that the instruction wants; 16 steps fill it.
#include "avx512.h"

namespace prunerzero {
namespace {

constexpr int64_t kSteps = 16; // of a tile
constexpr int64_t kTile = 1024;

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {0};
  uint16_t row_bytes[16] = {0};
  uint8_t rows[16] = {0};
};

// Tiles are as one kernel wants them while this lives; then as they were, for other libraries.
struct Tiles {
  TileConfig before;

  // Tiles below `sums` and from `weights` on have 16 rows, those between one for each token.
  explicit Tiles(int64_t tokens) {
    _tile_storeconfig(&before);
    TileConfig config;
    for (int tile = 0; tile < 8; tile++) {
      config.row_bytes[tile] = 64;
      config.rows[tile] = uint8_t(tile < 6 ? tokens : kSteps);
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() {
    if (before.palette)
      _tile_loadconfig(&before);
    else
      _tile_release();
  }
};

// Expands the steps of two groups, a tile of each at a time; the second may be missing.
struct Weights {
  Steps steps[2];
  int64_t left; // steps
  bool second;
  alignas(64) uint8_t tiles[2][2][kTile]; // in turn, so that one is filled while another is read

  Weights(const Matrix &matrix, int64_t group, bool second)
      : left(matrix.steps()), second(second) {
    steps[0] = Steps(matrix, group);
    if (second) steps[1] = Steps(matrix, group + 1);
  }

  template <bool Bytes> void fill(int64_t turn) {
    int64_t count = left < kSteps ? left : kSteps;
    left -= count;
    for (int g = 0; g < 1 + second; g++) {
      uint8_t *tile = tiles[turn & 1][g];
      for (int64_t step = 0; step < count; step++)
        _mm512_store_si512(tile + 64 * step, Bytes ? steps[g].next8() : steps[g].next16());
      for (int64_t step = count; step < kSteps; step++)
        _mm512_store_si512(tile + 64 * step, _mm512_setzero_si512());
    }
  }
  const uint8_t *tile(int64_t turn, int g) const { return tiles[turn & 1][g]; }
};

void multiply_pairs(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                    int64_t last, int64_t token, int64_t tokens) {
  const int64_t blocks = (matrix.steps() + kSteps - 1) / kSteps;
  Tiles tiles(tokens);
  for (int64_t group = first; group < last; group += 2) {
    Weights weights(matrix, group, group + 1 < last);
    _tile_zero(0);
    _tile_zero(1);
    weights.fill<false>(0);
    for (int64_t block = 0; block < blocks; block++) {
      weights.fill<false>(block + 1);
      _tile_loadd(4, inputs.data + (block * inputs.tokens + token) * 64, 64);
      _tile_loadd(6, weights.tile(block, 0), 64);
      _tile_dpbf16ps(0, 4, 6);
      if (weights.second) {
        _tile_loadd(7, weights.tile(block, 1), 64);
        _tile_dpbf16ps(1, 4, 7);
      }
    }
    float sums[2][16][kGroupRows];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    for (int g = 0; g < 1 + weights.second; g++)
      for (int64_t t = 0; t < tokens; t++)
        write_sums(matrix, result, group + g, token + t, sums[g][t]);
  }
}

void multiply_bytes(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                    int64_t last, int64_t token, int64_t tokens) {
  const int64_t blocks = (matrix.steps() + kSteps - 1) / kSteps;
  const int64_t exact_blocks = kExactSteps / kSteps;
  Tiles tiles(tokens);
  for (int64_t group = first; group < last; group += 2) {
    Weights weights(matrix, group, group + 1 < last);
    int64_t totals[2][16][kGroupRows] = {};
    weights.fill<true>(0);
    for (int64_t begin = 0; begin < blocks; begin += exact_blocks) {
      int64_t end = blocks - begin < exact_blocks ? blocks : begin + exact_blocks;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t block = begin; block < end; block++) {
        weights.fill<true>(block + 1);
        const uint8_t *high = inputs.data + (2 * block * inputs.tokens + token) * 64;
        _tile_loadd(4, high, 64);
        _tile_loadd(5, high + inputs.tokens * 64, 64);
        _tile_loadd(6, weights.tile(block, 0), 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 5, 6);
        if (weights.second) {
          _tile_loadd(7, weights.tile(block, 1), 64);
          _tile_dpbssd(2, 4, 7);
          _tile_dpbssd(3, 5, 7);
        }
      }
      int32_t sums[2][2][16][kGroupRows];
      _tile_stored(0, sums[0][0], 64);
      _tile_stored(1, sums[0][1], 64);
      _tile_stored(2, sums[1][0], 64);
      _tile_stored(3, sums[1][1], 64);
      for (int g = 0; g < 1 + weights.second; g++)
        for (int64_t t = 0; t < tokens; t++)
          for (int row = 0; row < kGroupRows; row++)
            totals[g][t][row] += 256 * int64_t(sums[g][0][t][row]) + sums[g][1][t][row];
    }
    for (int g = 0; g < 1 + weights.second; g++)
      for (int64_t t = 0; t < tokens; t++)
        write_exact_sums(matrix, inputs, result, group + g, token + t, totals[g][t]);
  }
}

template <decltype(multiply_pairs) multiply>
void in_blocks(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
               int64_t last) {
  for (int64_t token = 0; token < inputs.tokens; token += 16)
    multiply(matrix, inputs, result, first, last, token,
             inputs.tokens - token < 16 ? inputs.tokens - token : 16);
}

constexpr int64_t kFew = 2; // tokens below which a tile is not worth its filling

Kernel kernel(ValueType values, InputType inputs, int64_t tokens) {
  if (tokens >= kFew && values == ValueType::int8)
    return {Form::byte_tiles, in_blocks<multiply_bytes>};
  if (tokens >= kFew && values == ValueType::bfloat16 && inputs == InputType::bfloat16)
    return {Form::bfloat16_tiles, in_blocks<multiply_pairs>};
  return avx512_bf16_kernel(values, inputs, tokens);
}

} // namespace

const Path amx_path = {"amx", kernel, avx512_expand};

} // namespace prunerzero
