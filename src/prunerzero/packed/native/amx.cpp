// AMX: products of tiles. What a step expands to, 16 rows x 2 bfloat16 or 4 int8 in lanes of 32 bits,
// is one row of the tile that the instruction wants; 16 steps fill it.
//
// Always two tiles of inputs meet two groups of weights, in four sums. The two are 16 tokens each
// of bfloat16; or the high and the low bytes of the same 16 tokens, with int8.
#include <cstdlib>
#include <memory>

#include "avx512.h"

namespace prunerzero {
namespace {

constexpr int64_t kSteps = 16; // of a tile
constexpr int64_t kTokens = 16;
constexpr int64_t kTile = 1024;
constexpr int64_t kScratch = 1 << 20; // bytes of expanded weights that are kept in a core's cache
constexpr int64_t kAheadTiles = 2;    // blocks of which inputs are asked for ahead

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {0};
  uint16_t row_bytes[16] = {0};
  uint8_t rows[16] = {0};
};

// Tiles 0 to 3 are sums, 4 and 5 inputs, with a row for each token; 6 and 7 are weights. While
// this lives; then they are as they were, for other libraries.
struct Tiles {
  TileConfig before;

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

// Expand up to 16 steps into a tile.
template <bool Bytes> void fill(Steps &steps, int64_t count, uint8_t *tile) {
  int64_t step = 0;
  for (; step < count && step < kSteps; step++)
    _mm512_store_si512(tile + 64 * step, Bytes ? steps.next8() : steps.next16());
  for (; step < kSteps; step++) _mm512_store_si512(tile + 64 * step, _mm512_setzero_si512());
}

// The weights of two groups, expanded just before they are used; the second may be missing.
template <bool Bytes> struct Streamed {
  static constexpr bool kMany = false; // tokens, so that inputs are asked for ahead
  Steps steps[2];
  int64_t left; // steps
  bool second;
  alignas(64) uint8_t tiles[2][2][kTile]; // in turn, so that one is filled while another is read

  Streamed(const Matrix &matrix, int64_t group, bool second) : left(matrix.steps()), second(second) {
    steps[0] = Steps(matrix, group);
    if (second) steps[1] = Steps(matrix, group + 1);
    prepare(0);
  }
  void prepare(int64_t block) {
    for (int g = 0; g < 1 + second; g++) fill<Bytes>(steps[g], left, tiles[block & 1][g]);
    left -= kSteps;
  }
  const uint8_t *tile(int64_t block, int g) const { return tiles[block & 1][g]; }
};

// The same, expanded before.
struct Stored {
  static constexpr bool kMany = true;
  const uint8_t *tiles[2];
  bool second;

  void prepare(int64_t) {}
  const uint8_t *tile(int64_t block, int g) const { return tiles[g] + block * kTile; }
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t blocks_of(const Matrix &matrix) { return (matrix.steps() + kSteps - 1) / kSteps; }

// Tokens as they are laid out: a tile that is not alone is full.
int64_t laid_out(int64_t tokens) {
  return tokens <= kTokens ? tokens : (tokens + kTokens - 1) / kTokens * kTokens;
}

// bfloat16: two tiles are up to 32 tokens.
struct Pairs {
  using Number = float;
  static constexpr bool kBytes = false;
  static constexpr int64_t kTogether = 2 * kTokens;   // tokens of two tiles
  static constexpr int64_t kBlocks = int64_t(1) << 40; // that a sum can take

  Number sums[2][2][kTokens][kGroupRows]; // of groups, of tiles of inputs

  static const uint8_t *tile(const Inputs &inputs, int64_t block, int64_t token, int which) {
    return inputs.data + (block * laid_out(inputs.tokens) + token + which * kTokens) * 64;
  }
  static bool both(const Inputs &inputs, int64_t token) { return inputs.tokens - token > kTokens; }
  static void add(int sum) {
    if (sum == 0) _tile_dpbf16ps(0, 4, 6);
    if (sum == 1) _tile_dpbf16ps(1, 5, 6);
    if (sum == 2) _tile_dpbf16ps(2, 4, 7);
    if (sum == 3) _tile_dpbf16ps(3, 5, 7);
  }
  void take() {}
  void write(const Matrix &matrix, const Inputs &, const Result &result, int64_t group, int g,
             int64_t token, int64_t t) const {
    write_sums(matrix, result, group + g, token + t, sums[g][t / kTokens][t % kTokens]);
  }
};

// int8: two tiles are the high and the low bytes of up to 16 tokens.
struct Bytes {
  using Number = int32_t;
  static constexpr bool kBytes = true;
  static constexpr int64_t kTogether = kTokens;
  static constexpr int64_t kBlocks = kExactSteps / kSteps;

  Number sums[2][2][kTokens][kGroupRows];
  int64_t totals[2][kTokens][kGroupRows] = {};

  static const uint8_t *tile(const Inputs &inputs, int64_t block, int64_t token, int which) {
    return inputs.data + ((2 * block + which) * laid_out(inputs.tokens) + token) * 64;
  }
  static bool both(const Inputs &, int64_t) { return true; }
  static void add(int sum) {
    if (sum == 0) _tile_dpbssd(0, 4, 6);
    if (sum == 1) _tile_dpbssd(1, 5, 6);
    if (sum == 2) _tile_dpbssd(2, 4, 7);
    if (sum == 3) _tile_dpbssd(3, 5, 7);
  }
  void take() {
    for (int g = 0; g < 2; g++)
      for (int t = 0; t < kTokens; t++)
        for (int row = 0; row < kGroupRows; row++)
          totals[g][t][row] += 256 * int64_t(sums[g][0][t][row]) + sums[g][1][t][row];
  }
  void write(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t group, int g,
             int64_t token, int64_t t) const {
    write_exact_sums(matrix, inputs, result, group + g, token + t, totals[g][t]);
  }
};

// The product of one or two groups of `weights` and the tokens of two tiles.
template <class Sums, class Weights>
void multiply_tiles(const Matrix &matrix, const Inputs &inputs, const Result &result,
                    Weights &weights, int64_t group, int64_t token) {
  const int64_t blocks = blocks_of(matrix);
  const bool both = Sums::both(inputs, token);
  Sums sums;
  for (int64_t block = 0; block < blocks;) {
    const int64_t end = smaller(block + Sums::kBlocks, blocks);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; block < end; block++) {
      weights.prepare(block + 1);
      for (int tile = 0; Weights::kMany && tile < 2; tile++)
        for (int row = 0; row < kTokens; row++)
          _mm_prefetch(Sums::tile(inputs, block + kAheadTiles, token, tile) + 64 * row,
                       _MM_HINT_T0);
      _tile_loadd(4, Sums::tile(inputs, block, token, 0), 64);
      _tile_loadd(6, weights.tile(block, 0), 64);
      Sums::add(0);
      if (both) {
        _tile_loadd(5, Sums::tile(inputs, block, token, 1), 64);
        Sums::add(1);
      }
      if (weights.second) {
        _tile_loadd(7, weights.tile(block, 1), 64);
        Sums::add(2);
        if (both) Sums::add(3);
      }
    }
    _tile_stored(0, sums.sums[0][0], 64);
    _tile_stored(1, sums.sums[0][1], 64);
    _tile_stored(2, sums.sums[1][0], 64);
    _tile_stored(3, sums.sums[1][1], 64);
    sums.take();
  }
  for (int64_t t = 0; t < smaller(Sums::kTogether, inputs.tokens - token); t++)
    for (int g = 0; g < 1 + weights.second; g++)
      sums.write(matrix, inputs, result, group, g, token, t);
}

// Tokens of two tiles: each two groups are expanded as they are used.
template <class Sums>
void multiply_few(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                  int64_t last) {
  Tiles tiles(smaller(kTokens, inputs.tokens));
  for (int64_t group = first; group < last; group += 2) {
    Streamed<Sums::kBytes> weights(matrix, group, group + 1 < last);
    multiply_tiles<Sums>(matrix, inputs, result, weights, group, 0);
  }
}

// More tokens: several groups are expanded once and stay in a core's cache, as do the inputs of two
// tiles while they meet all of these.
template <class Sums>
void multiply_many(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
                   int64_t last) {
  const int64_t blocks = blocks_of(matrix), bytes = blocks * kTile, fit = kScratch / bytes;
  const int64_t together = smaller(fit < 2 ? 2 : fit / 2 * 2, last - first);
  std::unique_ptr<uint8_t, decltype(&std::free)> scratch(
      static_cast<uint8_t *>(std::aligned_alloc(64, size_t(together * bytes))), std::free);
  if (!scratch) std::abort();
  Tiles tiles(kTokens);
  for (int64_t begin = first; begin < last; begin += together) {
    const int64_t end = smaller(begin + together, last);
    for (int64_t group = begin; group < end; group++) {
      Steps steps(matrix, group);
      for (int64_t block = 0; block < blocks; block++)
        fill<Sums::kBytes>(steps, matrix.steps() - block * kSteps,
                           scratch.get() + (group - begin) * bytes + block * kTile);
    }
    for (int64_t token = 0; token < inputs.tokens; token += Sums::kTogether)
      for (int64_t group = begin; group < end; group += 2) {
        const uint8_t *place = scratch.get() + (group - begin) * bytes;
        Stored weights = {{place, place + bytes}, group + 1 < end};
        multiply_tiles<Sums>(matrix, inputs, result, weights, group, token);
      }
  }
}

template <class Sums>
void multiply(const Matrix &matrix, const Inputs &inputs, const Result &result, int64_t first,
              int64_t last) {
  if (first < last && inputs.tokens)
    (inputs.tokens <= Sums::kTogether ? multiply_few<Sums>
                                      : multiply_many<Sums>)(matrix, inputs, result, first, last);
}

constexpr int64_t kFew = 2; // tokens below which a tile is not worth its filling

Kernel kernel(ValueType values, InputType inputs, int64_t tokens) {
  if (tokens >= kFew && values == ValueType::int8) return {Form::byte_tiles, multiply<Bytes>};
  if (tokens >= kFew && values == ValueType::bfloat16 && inputs == InputType::bfloat16)
    return {Form::bfloat16_tiles, multiply<Pairs>};
  return avx512_bf16_kernel(values, inputs, tokens);
}

} // namespace

const Path amx_path = {"amx", kernel, avx512_expand};

} // namespace prunerzero
