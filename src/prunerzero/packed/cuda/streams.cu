// Products with weights of which any are kept. A job is 32 rows × 128 inputs, which a warp expands
// to the operands of the tensor cores. Lane 4 g + t has the rows g, g + 8, g + 16 and g + 24, and
// of each 8 inputs those at 2 t and 2 t + 1, as the tensor cores want them.
//
// Each lane reads the kept values of its weights one after another from streams of its own: 2 that
// have two rows each, or 4 of integers, which have one. The k-th values of a lane's streams are the
// k-th of its words of 32 bits, and the words of the 32 lanes lie beside each other, in the banks of
// shared memory: loads never conflict, wherever each lane is. A stream may be longer than another:
// its values of the last 64 inputs follow in the column of whichever stream has room, as the job
// says, so that the columns are about equally long.
//
// Bits of the mask are read four at a time, two pairs of weights: a table has, for each pair, how
// the next two values of the stream become it, and how many it takes.
//
// A job in memory: the mask, a word a lane for each 32 inputs, a byte for each of its rows; for each
// stream a byte, the column of its second half; then the words.

constexpr int ROWS = 32, INPUTS = 128;  // of a job
constexpr int STEP = 32;  // inputs that are expanded at once
constexpr int LINE = INPUTS * 2 + 16;  // bytes of a vector of inputs; rows in turn meet other banks
constexpr int TABLE = 128;  // bytes

template <bool INTEGERS> struct Form {
    static constexpr int PER = INTEGERS ? 4 : 2;  // streams of a lane
    static constexpr int SIZE = 4 / PER;  // bytes of a value
    static constexpr int COLUMNS = ROWS * INPUTS / 8;  // where the bytes of the streams begin
    static constexpr int WORDS = COLUMNS + 32 * PER;  // where the words begin
};

// For each four bits and each of their pairs, which bytes of the next two values it takes (bytes 2
// and 3 of each are zero), and in the upper half the bytes to the value after these.
DEVICE void write_table(u8* table) {
    if (threadIdx.x < 32) {
        const u32 pair = threadIdx.x % 2 ? threadIdx.x >> 3 : threadIdx.x >> 1 & 3;
        const u32 bytes = pair == 0 ? 0x3232 : pair == 1 ? 0x3210 : pair == 2 ? 0x1032 : 0x5410;
        const u32 taken = (pair & 1) + (pair >> 1);
        reinterpret_cast<u32*>(table)[threadIdx.x] = bytes | taken << 23;
    }
}

// Where a job lies, in units of 64 bytes.
struct Place {
    u32 begin, end;
};

DEVICE Place place_of(const int* offsets, int index) {
    return {static_cast<u32>(offsets[index]), static_cast<u32>(offsets[index + 1])};
}

// Begin to copy a job to shared memory.
DEVICE void copy_job(u8* to, const u8* weights, Place place) {
    const u8* from = weights + static_cast<u64>(place.begin) * 64;
    const int size = (place.end - place.begin) * 64;
    for (int i = lane_of_warp() * 16; i < size; i += 512) copy_async(to + i, from + i);
}

// The weights of a step as pairs: of row g + 8 r, inputs 8 q + 2 t and the next. `places` are the
// addresses of the next values.
template <int KIND, bool INTEGERS>
DEVICE void expand(u32 (&pairs)[4][4], u32 mask, u32 table, u32 (&places)[Form<INTEGERS>::PER]) {
    constexpr int PER = Form<INTEGERS>::PER;
    uint2 entries[4][2];
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int bit = r * 8 + half * 4;
            entries[r][half] = load_two((bit ? mask >> (bit - 3) : mask << 3) & 0x78 | table);
        }
#pragma unroll
    for (int begin = 0; begin < 4; begin += PER) {
        u32 values[PER][4][2];
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
            for (int s = 0; s < PER; ++s) {
                const uint2 two = entries[begin + s][q / 2];
                load_values<INTEGERS>(values[s][q], places[s]);
                places[s] += (q % 2 ? two.y : two.x) >> 16;
            }
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
            for (int s = 0; s < PER; ++s) {
                const uint2 two = entries[begin + s][q / 2];
                const u32 pair =
                    choose_bytes(values[s][q][0], values[s][q][1], q % 2 ? two.y : two.x);
                pairs[begin + s][q] = INTEGERS ? widen_pair<KIND>(pair) : pair;
            }
    }
}

template <bool INTEGERS> DEVICE void first_halves(u32 job, u32 (&places)[Form<INTEGERS>::PER]) {
    using F = Form<INTEGERS>;
#pragma unroll
    for (int s = 0; s < F::PER; ++s)
        places[s] = job + F::WORDS + (lane_of_warp() * F::PER + s) * F::SIZE;
}

// The second halves begin where the first of their columns have ended.
template <bool INTEGERS>
DEVICE void second_halves(const u8* job, u32 (&places)[Form<INTEGERS>::PER]) {
    using F = Form<INTEGERS>;
    u32 next[F::PER];
#pragma unroll
    for (int s = 0; s < F::PER; ++s) {
        const u32 column = job[F::COLUMNS + lane_of_warp() * F::PER + s];
        next[s] = 0;
#pragma unroll
        for (int other = 0; other < F::PER; ++other) {
            const u32 end = __shfl_sync(~0u, places[other], column / F::PER);
            if (column % F::PER == other) next[s] = end;
        }
    }
#pragma unroll
    for (int s = 0; s < F::PER; ++s) places[s] = next[s];
}

// A block computes 32 rows for WIDE × 8 input vectors; its warps, WARPS at most, take turns at the
// jobs. The blocks of a cluster divide the inputs. `room` is the size of the longest job, and of what
// is read beyond.
template <int KIND, bool INTEGERS, int WIDE, int WARPS>
__global__ void __launch_bounds__(WARPS * 32) streams(
    const u8* __restrict__ weights, const int* __restrict__ offsets,
    const u16* __restrict__ inputs, const float* __restrict__ scales, const u16* __restrict__ bias,
    u16* __restrict__ output, int rows, int columns, int batch, int room) {
    using F = Form<INTEGERS>;
    SHARED_MEMORY;
    const int warp = threadIdx.x / 32, lane = lane_of_warp(), warps = blockDim.x / 32;
    const int blocks = cluster_size(), rank = cluster_rank();
    const int chunks = (columns + INPUTS - 1) / INPUTS, tile = blockIdx.x / blocks;
    const int first = chunks * rank / blocks, last = chunks * (rank + 1) / blocks;
    const int each = room + batch * LINE;
    u8* const table = memory;
    u8* const job = memory + TABLE + warp * each;
    u8* const staged = job + room;
    let_next_begin();

    int chunk = first + warp;
    if (chunk < last) copy_job(job, weights, place_of(offsets, tile * chunks + chunk));
    write_table(table);
    wait_for_inputs();
    __syncthreads();

    float sum[2][WIDE][4] = {};
    u32 vectors[WIDE];
#pragma unroll
    for (int w = 0; w < WIDE; ++w)
        vectors[w] = shared_address(staged) + min(w * 8 + lane % 8, batch - 1) * LINE + lane / 8 * 16;

    for (; chunk < last; chunk += warps) {
        for (int i = lane; i < batch * (INPUTS / 8); i += 32) {
            const int n = i / (INPUTS / 8), eight = i % (INPUTS / 8);
            copy_inputs(staged + n * LINE + eight * 16, inputs + static_cast<u64>(n) * columns,
                        chunk * INPUTS + eight * 8, columns);
        }
        const int later = chunk + warps;
        const Place next = place_of(offsets, tile * chunks + (later < last ? later : chunk));
        wait_for_copies();
        __syncwarp();
        u32 places[F::PER];
        first_halves<INTEGERS>(shared_address(job), places);
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            if (half) second_halves<INTEGERS>(job, places);
#pragma unroll 2
            for (int i = 0; i < INPUTS / STEP / 2; ++i) {
                const int step = half * (INPUTS / STEP / 2) + i;
                const u32 mask = reinterpret_cast<const u32*>(job)[step * 32 + lane];
                uint4 b[WIDE];
#pragma unroll
                for (int w = 0; w < WIDE; ++w) b[w] = load_operand(vectors[w] + step * STEP * 2);
                u32 pairs[4][4];
                expand<KIND, INTEGERS>(pairs, mask, shared_address(table), places);
#pragma unroll
                for (int j = 0; j < 2; ++j)
#pragma unroll
                    for (int w = 0; w < WIDE; ++w) {
                        const u32 (&upper)[4] = pairs[j * 2], (&lower)[4] = pairs[j * 2 + 1];
                        multiply_dense<KIND>(sum[j][w], upper[0], lower[0], upper[1], lower[1],
                                             b[w].x, b[w].y);
                        multiply_dense<KIND>(sum[j][w], upper[2], lower[2], upper[3], lower[3],
                                             b[w].z, b[w].w);
                    }
            }
        }
        __syncwarp();
        if (later < last) copy_job(job, weights, next);
    }

    // Warps, then blocks, are added up in their order: results are the same each time.
    float* const own = reinterpret_cast<float*>(job);  // vectors × rows
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int w = 0; w < WIDE; ++w)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int n = w * 8 + lane % 4 * 2 + i % 2, row = j * 16 + lane / 4 + i / 2 * 8;
                if (n < batch) own[n * ROWS + row] = sum[j][w][i];
            }
    __syncthreads();
    float* const sums = reinterpret_cast<float*>(memory + TABLE);
    for (int i = threadIdx.x; i < batch * ROWS; i += warps * 32) {
        float all = sums[i];
        for (int w = 1; w < warps; ++w) all += sums[w * (each / 4) + i];
        sums[i] = all;
    }
    cluster_barrier();
    const int part = (batch * ROWS + blocks - 1) / blocks;
    for (int k = threadIdx.x; k < part; k += warps * 32) {
        const int i = rank * part + k, n = i / ROWS, row = tile * ROWS + i % ROWS;
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
// a job.
constexpr int DENSE_WARPS = 4;

template <int KIND, bool INTEGERS>
__global__ void __launch_bounds__(DENSE_WARPS * 32) streams_dense(
    const u8* __restrict__ weights, const int* __restrict__ offsets, u16* __restrict__ dense,
    int rows, int columns, int room) {
    using F = Form<INTEGERS>;
    constexpr int WIDTH = STEP * 2 + 16;  // bytes of a row of a step
    SHARED_MEMORY;
    const int lane = lane_of_warp(), chunks = (columns + INPUTS - 1) / INPUTS;
    const int index = blockIdx.x * DENSE_WARPS + threadIdx.x / 32;
    u8* const table = memory;
    u8* const job = memory + TABLE + threadIdx.x / 32 * (room + ROWS * WIDTH);
    u8* const step_rows = job + room;
    const bool there = index < (rows + ROWS - 1) / ROWS * chunks;
    if (there) copy_job(job, weights, place_of(offsets, index));
    write_table(table);
    wait_for_copies();
    __syncthreads();
    if (!there) return;
    u32 places[F::PER];
    first_halves<INTEGERS>(shared_address(job), places);
#pragma unroll 1
    for (int step = 0; step < INPUTS / STEP; ++step) {
        if (step == INPUTS / STEP / 2) second_halves<INTEGERS>(job, places);
        u32 pairs[4][4];
        expand<KIND, INTEGERS>(pairs, reinterpret_cast<const u32*>(job)[step * 32 + lane],
                               shared_address(table), places);
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int q = 0; q < 4; ++q)
                *reinterpret_cast<u32*>(step_rows + (r * 8 + lane / 4) * WIDTH + q * 16
                                        + lane % 4 * 4) = pairs[r][q];
        __syncwarp();
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int line = r * 8 + lane / 4, row = index / chunks * ROWS + line;
            const int column = index % chunks * INPUTS + step * STEP + lane % 4 * 8;
            if (row >= rows || column >= columns) continue;
            const u8* from = step_rows + line * WIDTH + lane % 4 * 16;
            u16* to = dense + static_cast<u64>(row) * columns + column;
            if ((columns & 7) == 0)
                *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
            else
                for (int c = 0; c < 8 && column + c < columns; ++c)
                    to[c] = reinterpret_cast<const u16*>(from)[c];
        }
        __syncwarp();
    }
}
