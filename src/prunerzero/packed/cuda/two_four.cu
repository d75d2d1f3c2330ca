// Products with weights of which at most two of every four inputs are kept: the tensor cores read
// the kept values and their places as they are stored (mma.sp), in the order in which lanes need
// them. A unit is 16 rows × 64 inputs: the values, 16 bytes a lane for each 32 inputs (or 64, of
// integers), then one word a lane of places, whose lanes 0, 1 (of 4) serve the first 32 inputs and
// lanes 2, 3 the others. docs/format.md says the same in words.

template <int KIND>
DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const uint4& b, u32 places, int second) {
#define MMA(TYPE, SELECTOR)                                                                   \
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." TYPE "." TYPE \
                 ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, "  \
                 SELECTOR ";"                                                                 \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(b.z), \
                   "r"(b.w), "r"(places))
    if (KIND == BFLOAT16) {
        if (second) MMA("bf16", "0x1"); else MMA("bf16", "0x0");
    } else {
        if (second) MMA("f16", "0x1"); else MMA("f16", "0x0");
    }
#undef MMA
}

template <bool INTEGERS> struct Unit {
    static constexpr int BYTES = INTEGERS ? 640 : 1152;
    uint4 values[INTEGERS ? 1 : 2];
    u32 places;
};

template <bool INTEGERS> DEVICE Unit<INTEGERS> load_unit(const u8* place) {
    Unit<INTEGERS> unit;
    const u32 lane = lane_of_warp();
    unit.values[0] = load_weights(place + lane * 16);
    if (!INTEGERS) unit.values[INTEGERS ? 0 : 1] = load_weights(place + 512 + lane * 16);
    unit.places = load_word(place + (INTEGERS ? 512 : 1024) + lane * 4);
    return unit;
}

// The values of one half of a unit as the tensor cores take them.
template <int KIND, bool INTEGERS>
DEVICE void operand_of(const Unit<INTEGERS>& unit, int half, u32 (&a)[4]) {
    if (INTEGERS) {
        const uint4 v = unit.values[0];
        widen_integers<KIND>(half ? v.z : v.x, a[0], a[1]);
        widen_integers<KIND>(half ? v.w : v.y, a[2], a[3]);
    } else {
        const uint4 v = unit.values[INTEGERS ? 0 : half];
        a[0] = v.x; a[1] = v.y; a[2] = v.z; a[3] = v.w;
    }
}

// A block computes TALL × 16 rows for up to WIDE × 8 input vectors; its warps, WARPS at most, take
// turns at the units, AHEAD of which each loads before it needs them. The blocks of a cluster divide
// the units.
template <int KIND, bool INTEGERS, int TALL, int WIDE, int WARPS, int AHEAD>
__global__ void __launch_bounds__(WARPS * 32) two_four(
    const u8* __restrict__ weights, const u16* __restrict__ inputs, const float* __restrict__ scales,
    const u16* __restrict__ bias, u16* __restrict__ output, int rows, int columns, int batch,
    int segment) {
    SHARED_MEMORY;
    constexpr int HIGH = TALL * 16;
    const int warp = threadIdx.x / 32, lane = lane_of_warp(), warps = blockDim.x / 32;
    const int units = (columns + 63) / 64;
    const int blocks = cluster_size(), rank = cluster_rank();
    const int first = units * rank / blocks, last = units * (rank + 1) / blocks;
    const int tile = blockIdx.x / blocks * TALL;
    const int tiles = (rows + 15) / 16;
    const int line = segment * 128 + 16;  // bytes of a vector of inputs; rows in turn meet other banks
    let_next_begin();

    // Loads of the next AHEAD units; beyond the end nothing is loaded.
    Unit<INTEGERS> ahead[AHEAD][TALL];
    auto load = [&](int unit) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
#pragma unroll
            for (int j = 0; j < TALL; ++j)
                if (unit + i * warps < last && tile + j < tiles)
                    ahead[i][j] = load_unit<INTEGERS>(
                        weights + (static_cast<u64>(tile + j) * units + unit + i * warps)
                        * Unit<INTEGERS>::BYTES);
    };
    load(first + warp);
    wait_for_inputs();

    float sum[TALL][WIDE][4] = {};
    u32 vectors[WIDE];
#pragma unroll
    for (int w = 0; w < WIDE; ++w)
        vectors[w] = shared_address(memory) + min(w * 8 + lane % 8, batch - 1) * line + lane / 8 * 16;

    for (int begin = first; begin < last; begin += segment) {
        const int end = min(begin + segment, last);
        if (begin > first) __syncthreads();
        for (int n = 0; n < batch; ++n)
            for (int i = threadIdx.x * 8; i < (end - begin) * 64; i += warps * 256)
                copy_inputs(memory + n * line + i * 2, inputs + static_cast<u64>(n) * columns,
                            begin * 64 + i, columns);
        wait_for_copies();
        __syncthreads();
        // segments are multiples of warps × AHEAD, so that the loads ahead are of the next one
        for (int unit = begin + warp; unit < end; unit += warps * AHEAD) {
            Unit<INTEGERS> now[AHEAD][TALL];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i)
#pragma unroll
                for (int j = 0; j < TALL; ++j) now[i][j] = ahead[i][j];
            load(unit + warps * AHEAD);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (unit + i * warps >= end) break;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const u32 place = (unit + i * warps - begin) * 128 + half * 64;
                    uint4 b[WIDE];
#pragma unroll
                    for (int w = 0; w < WIDE; ++w) b[w] = load_operand(vectors[w] + place);
#pragma unroll
                    for (int j = 0; j < TALL; ++j) {
                        u32 a[4];
                        operand_of<KIND, INTEGERS>(now[i][j], half, a);
#pragma unroll
                        for (int w = 0; w < WIDE; ++w)
                            multiply<KIND>(sum[j][w], a, b[w], now[i][j].places, half);
                    }
                }
            }
        }
    }

    // Warps, then blocks, are added up in their order: results are the same each time. Sums lie
    // where the inputs were.
    float* sums = reinterpret_cast<float*>(memory);  // warps × vectors × rows
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TALL; ++j)
#pragma unroll
        for (int w = 0; w < WIDE; ++w)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int n = w * 8 + lane % 4 * 2 + i % 2, row = j * 16 + lane / 4 + i / 2 * 8;
                if (n < batch) sums[(warp * batch + n) * HIGH + row] = sum[j][w][i];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < batch * HIGH; i += warps * 32) {
        float all = sums[i];
        for (int w = 1; w < warps; ++w) all += sums[w * batch * HIGH + i];
        sums[i] = all;
    }
    cluster_barrier();
    const int part = (batch * HIGH + blocks - 1) / blocks;
    for (int k = threadIdx.x; k < part; k += warps * 32) {
        const int i = rank * part + k, n = i / HIGH, row = tile * 16 + i % HIGH;
        if (n < batch && row < rows) {
            float all = 0;
            for (int other = 0; other < blocks; ++other) all += load_from_block(sums + i, other);
            if (scales) all *= scales[row];
            if (bias) all += widen(bias[row], KIND);
            output[static_cast<u64>(n) * rows + row] = narrow(all, KIND);
        }
    }
    cluster_barrier();
}

// The dense matrix, rows × columns; integers as 16-bit floats without their scales. A warp expands
// a unit.
template <int KIND, bool INTEGERS>
__global__ void __launch_bounds__(128) two_four_dense(
    const u8* __restrict__ weights, u16* __restrict__ dense, int rows, int columns) {
    const int units = (columns + 63) / 64, lane = lane_of_warp();
    const u64 index = blockIdx.x * 4ull + threadIdx.x / 32;
    const int tile = static_cast<int>(index / units), begin = static_cast<int>(index % units) * 64;
    if (tile >= (rows + 15) / 16) return;
    const auto unit = load_unit<INTEGERS>(weights + index * Unit<INTEGERS>::BYTES);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        u32 a[4];
        operand_of<KIND, INTEGERS>(unit, half, a);
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // rows g and g + 8 of the groups t, then of t + 4
            const u32 word = __shfl_sync(~0u, unit.places, lane / 4 * 4 + half * 2 + i / 2);
            const u32 places = word >> (i % 2 * 16 + lane % 4 * 4);
            const u64 low = static_cast<u64>(a[i] & 0xFFFF) << ((places & 3) * 16);
            const u64 both = low | static_cast<u64>(a[i] >> 16) << ((places >> 2 & 3) * 16);
            const int row = tile * 16 + lane / 4 + i % 2 * 8;
            const int column = begin + half * 32 + (lane % 4 + i / 2 * 4) * 4;
            if (row >= rows || column >= columns) continue;
            u16* to = dense + static_cast<u64>(row) * columns + column;
            if ((columns & 3) == 0) *reinterpret_cast<u64*>(to) = both;
            else
                for (int c = 0; c < 4 && column + c < columns; ++c)
                    to[c] = static_cast<u16>(both >> (c * 16));
        }
    }
}
