// Where the values of 8 weights go: for each of the 256 masks, an index for a byte shuffle.
#pragma once

#include <cstdint>

namespace prunerzero {
namespace {

// `Bytes` a value: byte k of entry m is the index of the packed byte that belongs there, or 0x80,
// which both pshufb and tbl turn into a zero.
template <int Bytes> struct Shuffles {
  alignas(64) uint8_t index[256][8 * Bytes];

  constexpr Shuffles() : index() {
    for (int mask = 0; mask < 256; mask++)
      for (int bit = 0, kept = 0; bit < 8; bit++) {
        bool keep = mask >> bit & 1;
        for (int byte = 0; byte < Bytes; byte++)
          index[mask][bit * Bytes + byte] = keep ? uint8_t(kept * Bytes + byte) : uint8_t(0x80);
        kept += keep;
      }
  }
};

constexpr Shuffles<1> kShuffles8;
constexpr Shuffles<2> kShuffles16;

} // namespace
} // namespace prunerzero
