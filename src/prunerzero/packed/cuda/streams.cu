// Products with weights of which any are kept. Each lane reads the kept values of its rows one
// after another, from a stream of its own, and a bit of the mask says whether a weight takes the
// next one: that is a load and an addition for each weight, and no counting of bits.
//
// A job is 256 inputs of 32 × PER rows, PER being the values in a word of 32 bits: 2, or 4 of
// integers. Lane l has PER rows, and the k-th values of these are word k of its stream. The words
// of the 32 lanes lie beside each other, in the banks of shared memory, so that loads never
// conflict wherever each lane is. All lanes have as many words as the longest stream of the job:
// rows are sorted by how many weights they keep, 128 rows at a time, and the longest is not much
// longer than the others.
//
// A job in memory: the masks of 128 inputs, 4 words for each of its rows, and of the next 128;
// then 2 bytes a row: which of the 128 rows each row is, and how many words are needed before each
// quarter of the inputs can be computed; then the words.

constexpr int INPUTS = 256;  // of a job
constexpr int BAND = 128;  // rows that are sorted together
constexpr int STEP = 32;  // inputs that are expanded at once

template <bool INTEGERS> struct Form {
    static constexpr int PER = INTEGERS ? 4 : 2;
    static constexpr int ROWS = 32 * PER;
    static constexpr int MASKS = ROWS * INPUTS / 8;
    static constexpr int HEADER = 2 * ROWS;
    static constexpr int JOBS = BAND / ROWS;  // side by side in a band
    static constexpr int TILE = ROWS * STEP * 2;  // bytes of expanded weights
};

// Where 16 bytes of a row of a tile of expanded weights lie, so that neither writing rows nor
// reading 8 × 8 weights meets a bank twice.
DEVICE u32 in_tile(u32 tile, int row, int sixteen) {
    return tile + row * 64 + ((sixteen ^ (row >> 1 & 3)) * 16);
}

// The next value of a stream if `bit` of `mask` is set, else `nothing`.
template <bool INTEGERS> DEVICE u32 take(u32 mask, u32 bit, u32& place) {
    u32 value;
    if (INTEGERS)
        asm volatile("{.reg .pred kept; .reg .u32 one; and.b32 one, %2, %3;\n"
                     "setp.ne.u32 kept, one, 0; mov.u32 %0, 128;\n"
                     "@kept ld.shared.u8 %0, [%1]; @kept add.u32 %1, %1, 128;}"
                     : "=&r"(value), "+r"(place) : "r"(mask), "r"(bit));
    else
        asm volatile("{.reg .pred kept; .reg .u32 one; and.b32 one, %2, %3;\n"
                     "setp.ne.u32 kept, one, 0; mov.u32 %0, 0;\n"
                     "@kept ld.shared.u16 %0, [%1]; @kept add.u32 %1, %1, 128;}"
                     : "=&r"(value), "+r"(place) : "r"(mask), "r"(bit));
    return value;
}

// Two weights of a row as a pair.
template <int KIND, bool INTEGERS> DEVICE u32 take_pair(u32 mask, u32 bit, u32& place) {
    const u32 low = take<INTEGERS>(mask, bit, place), high = take<INTEGERS>(mask, bit << 1, place);
    if (!INTEGERS) return __byte_perm(low, high, 0x5410);
    u32 pair;
    if (KIND == FLOAT16) {
        pair = __byte_perm(low, high, 0x5410) | 0x64006400;
        asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0x64806480));
    } else {
        pair = narrow_pair(__uint_as_float(low | 0x4B000000) - 8388736.0f,
                           __uint_as_float(high | 0x4B000000) - 8388736.0f, KIND);
    }
    return pair;
}

// Where `bit` of `mask` is set, `sum` plus the next value of a stream times `input`.
template <int KIND, bool INTEGERS>
DEVICE void take_product(u32 mask, u32 bit, u32& place, float& sum, float input) {
#define TAKE(LOAD, WIDEN)                                                                     \
    asm volatile("{.reg .pred kept; .reg .u32 one; .reg .b16 half; .reg .f32 value;\n"       \
                 "and.b32 one, %2, %3; setp.ne.u32 kept, one, 0;\n"                          \
                 "@kept ld.shared." LOAD ", [%1]; @kept add.u32 %1, %1, 128;\n" WIDEN        \
                 "@kept fma.rn.f32 %0, value, %4, %0;}"                                       \
                 : "+f"(sum), "+r"(place) : "r"(mask), "r"(bit), "f"(input))
    if (INTEGERS)
        TAKE("u8 one", "or.b32 one, one, 0x4B000000; mov.b32 value, one;\n"
                       "sub.rn.f32 value, value, 0f4B000080;\n");
    else if (KIND == BFLOAT16) TAKE("u16 one", "shl.b32 one, one, 16; mov.b32 value, one;\n");
    else TAKE("u16 half", "cvt.f32.f16 value, half;\n");
#undef TAKE
}

// The mask of the next 32 inputs of a row.
DEVICE u32 next_mask(uint4 (&masks)[2]) {
    const u32 mask = masks[0].x;
    masks[0] = {masks[0].y, masks[0].z, masks[0].w, masks[1].x};
    masks[1] = {masks[1].y, masks[1].z, masks[1].w, 0};
    return mask;
}

template <int KIND> DEVICE void multiply_dense(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#define MMA(TYPE)                                                                            \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, " \
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                    \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if (KIND == BFLOAT16) MMA("bf16"); else MMA("f16");
#undef MMA
}

DEVICE void load_operand(u32 (&a)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(address));
}

DEVICE void copy_async(u32 to, const u8* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}

template <int PENDING> DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
    __syncwarp();
}

// Begin to copy the words of a job, in four groups: those needed for each quarter of its inputs.
template <bool INTEGERS> DEVICE void begin_copies(u32 words, const u8* job) {
    const int lane = lane_of_warp();
    const u16* needed = reinterpret_cast<const u16*>(job + Form<INTEGERS>::MASKS + Form<INTEGERS>::ROWS);
    const u8* from = job + Form<INTEGERS>::MASKS + Form<INTEGERS>::HEADER;
    int begin = 0;
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
        const int end = needed[quarter];  // multiples of 4 words of all lanes
        for (int k = begin; k < end; k += 4)
            copy_async(words + k * 128 + lane * 16, from + k * 128 + lane * 16);
        asm volatile("cp.async.commit_group;" ::: "memory");
        begin = end;
    }
}

// Expand a step of a job to a tile; `places` go on to the next values.
template <int KIND, bool INTEGERS>
DEVICE void expand(u32 tile, const u32 (&masks)[Form<INTEGERS>::PER],
                   u32 (&places)[Form<INTEGERS>::PER]) {
    const int lane = lane_of_warp();
#pragma unroll
    for (int eight = 0; eight < 4; ++eight)
#pragma unroll
        for (int r = 0; r < Form<INTEGERS>::PER; ++r) {
            uint4 v;
            v.x = take_pair<KIND, INTEGERS>(masks[r], 1u << (eight * 8), places[r]);
            v.y = take_pair<KIND, INTEGERS>(masks[r], 4u << (eight * 8), places[r]);
            v.z = take_pair<KIND, INTEGERS>(masks[r], 16u << (eight * 8), places[r]);
            v.w = take_pair<KIND, INTEGERS>(masks[r], 64u << (eight * 8), places[r]);
            store_shared(in_tile(tile, r * 32 + lane, eight), v);
        }
}

// A block computes a band of 128 rows: WIDE × 8 input vectors, or 1 where WIDE is 0, SIDE × 256 inputs at a time, which
// have JOBS warps each. The blocks of a cluster take turns at the inputs. `offsets` say where each
// job begins, in units of 128 bytes; `longest` is the largest number of words of a job.
template <int KIND, bool INTEGERS, int WIDE, int SIDE>
__global__ void __launch_bounds__(SIDE * Form<INTEGERS>::JOBS * 32) streams(
    const u8* __restrict__ weights, const int* __restrict__ offsets,
    const u16* __restrict__ inputs, const float* __restrict__ scales, const u16* __restrict__ bias,
    u16* __restrict__ output, int rows, int columns, int batch, int longest) {
    using F = Form<INTEGERS>;
    extern __shared__ __align__(128) u8 memory[];
    constexpr int THREADS = SIDE * F::JOBS * 32;
    const int warp = threadIdx.x / 32, lane = lane_of_warp();
    const int side = warp / F::JOBS, beside = warp % F::JOBS;
    const int blocks = cluster_size(), rank = cluster_rank();
    const int chunks = (columns + INPUTS - 1) / INPUTS, band = blockIdx.x / blocks;
    float* sums = reinterpret_cast<float*>(memory);  // sides × vectors × rows of the band
    u8* free = memory + SIDE * batch * BAND * 4;
    const u32 staged = shared_address(free);
    free += SIDE * INPUTS * (WIDE ? batch * 2 : 4);
    const u32 tile = shared_address(free) + warp * F::TILE;
    const u32 words = shared_address(free) + F::JOBS * SIDE * F::TILE + warp * longest * 128;
    let_next_begin();

    u32 vectors[WIDE ? WIDE : 1];
#pragma unroll
    for (int w = 0; w < WIDE; ++w)
        vectors[w] = staged + side * (INPUTS / 32) * batch * 64
                   + min(w * 8 + lane / 4, batch - 1) * 64 + lane % 4 * 16;

    for (int chunk = rank * SIDE; chunk < chunks; chunk += blocks * SIDE) {
        const bool there = chunk + side < chunks;
        const u8* job = weights;
        __syncwarp();  // the words of the last job have been read
        uint4 masks[F::PER][2];
        if (there) {
            const u64 index = (static_cast<u64>(band) * chunks + chunk + side) * F::JOBS + beside;
            job += static_cast<u64>(static_cast<u32>(offsets[index])) * 128;
            begin_copies<INTEGERS>(words, job);
#pragma unroll
            for (int r = 0; r < F::PER; ++r)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    masks[r][half] =
                        load_weights(job + ((half * F::ROWS + r * 32 + lane) * 16));
        }
        const bool again = chunk != rank * SIDE;
        if (again) __syncthreads();
        else wait_for_inputs();
        if (WIDE)
            stage_inputs(staged, inputs, batch, columns, chunk * (INPUTS / 32), SIDE * (INPUTS / 32));
        else
            stage_floats<KIND>(staged, inputs, columns, chunk * INPUTS, SIDE * INPUTS);
        __syncthreads();
        u32 places[F::PER];
#pragma unroll
        for (int r = 0; r < F::PER; ++r) places[r] = words + lane * 4 + r * (4 / F::PER);
        if (there && !WIDE) {
            float sum[F::PER][2] = {};
#pragma unroll 1
            for (int step = 0; step < INPUTS / STEP; ++step) {
                if (step == 0) wait_for_copies<3>();
                if (step == 2) wait_for_copies<2>();
                if (step == 4) wait_for_copies<1>();
                if (step == 6) wait_for_copies<0>();
                u32 mask[F::PER];
#pragma unroll
                for (int r = 0; r < F::PER; ++r) mask[r] = next_mask(masks[r]);
#pragma unroll
                for (int four = 0; four < STEP / 4; ++four) {
                    const uint4 x = load_shared(staged + (side * INPUTS + step * STEP + four * 4) * 4);
#pragma unroll
                    for (int r = 0; r < F::PER; ++r) {
#define TAKE(INPUT, C)                                                                       \
    take_product<KIND, INTEGERS>(mask[r], 1u << (four * 4 + C), places[r], sum[r][C & 1],    \
                                 __uint_as_float(INPUT))
                        TAKE(x.x, 0); TAKE(x.y, 1); TAKE(x.z, 2); TAKE(x.w, 3);
#undef TAKE
                    }
                }
            }
            const u8* order = job + F::MASKS;
#pragma unroll
            for (int r = 0; r < F::PER; ++r) {
                float* to = sums + side * BAND + order[r * 32 + lane];
                *to = (again ? *to : 0) + (sum[r][0] + sum[r][1]);
            }
        } else if (there) {
            float sum[F::PER * 2][WIDE ? WIDE : 1][4] = {};
#pragma unroll 1
            for (int step = 0; step < INPUTS / STEP; ++step) {  // not unrolled: it is long as it is
                if (step == 0) wait_for_copies<3>();
                if (step == 2) wait_for_copies<2>();
                if (step == 4) wait_for_copies<1>();
                if (step == 6) wait_for_copies<0>();
                u32 mask[F::PER];
#pragma unroll
                for (int r = 0; r < F::PER; ++r) mask[r] = next_mask(masks[r]);
                expand<KIND, INTEGERS>(tile, mask, places);
                __syncwarp();
                uint4 b[WIDE ? WIDE : 1];
#pragma unroll
                for (int w = 0; w < WIDE; ++w) b[w] = load_shared(vectors[w] + step * batch * 64);
#pragma unroll
                for (int i = 0; i < F::PER * 2; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        u32 a[4];
                        load_operand(a, in_tile(tile, i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
                        for (int w = 0; w < WIDE; ++w)
                            multiply_dense<KIND>(sum[i][w], a, half ? b[w].z : b[w].x,
                                                 half ? b[w].w : b[w].y);
                    }
                __syncwarp();
            }
            const u8* order = job + F::MASKS;
#pragma unroll
            for (int i = 0; i < F::PER * 2; ++i)
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const int row = order[i * 16 + k * 8 + lane / 4];
#pragma unroll
                    for (int w = 0; w < WIDE; ++w)
#pragma unroll
                        for (int j = 0; j < 2; ++j) {
                            const int n = w * 8 + lane % 4 * 2 + j;
                            float* to = sums + (side * batch + n) * BAND + row;
                            if (n < batch) *to = again ? *to + sum[i][w][k * 2 + j] : sum[i][w][k * 2 + j];
                        }
                }
        } else if (!again) {
            for (int i = beside * 32 + lane; i < batch * BAND; i += F::JOBS * 32)
                sums[side * batch * BAND + i] = 0;
        }
    }
    if (rank * SIDE >= chunks) {  // a block without inputs
        wait_for_inputs();
        for (int i = threadIdx.x; i < SIDE * batch * BAND; i += THREADS) sums[i] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < batch * BAND; i += THREADS) {
        float all = sums[i];
        for (int s = 1; s < SIDE; ++s) all += sums[s * batch * BAND + i];
        sums[i] = all;
    }
    cluster_barrier();
    const int part = (batch * BAND + blocks - 1) / blocks;
    for (int k = threadIdx.x; k < part; k += THREADS) {
        const int i = rank * part + k, n = i / BAND, row = band * BAND + i % BAND;
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
template <int KIND, bool INTEGERS>
__global__ void __launch_bounds__(32) streams_dense(
    const u8* __restrict__ weights, const int* __restrict__ offsets, u16* __restrict__ dense,
    int rows, int columns) {
    using F = Form<INTEGERS>;
    extern __shared__ __align__(128) u8 memory[];
    const int lane = lane_of_warp(), chunks = (columns + INPUTS - 1) / INPUTS;
    const int band = blockIdx.x / F::JOBS / chunks, chunk = blockIdx.x / F::JOBS % chunks;
    const u8* job = weights + static_cast<u64>(static_cast<u32>(offsets[blockIdx.x])) * 128;
    const u32 tile = shared_address(memory), words = tile + F::TILE;
    begin_copies<INTEGERS>(words, job);
    const u8* order = job + F::MASKS;
    u32 places[F::PER];
#pragma unroll
    for (int r = 0; r < F::PER; ++r) places[r] = words + lane * 4 + r * (4 / F::PER);
    wait_for_copies<0>();
    for (int step = 0; step < INPUTS / STEP; ++step) {
        u32 mask[F::PER];
#pragma unroll
        for (int r = 0; r < F::PER; ++r)
            mask[r] = load_word(job + (step / 4 * F::ROWS + r * 32 + lane) * 16 + step % 4 * 4);
        expand<KIND, INTEGERS>(tile, mask, places);
        __syncwarp();
        for (int i = lane; i < F::ROWS * 4; i += 32) {
            const uint4 v = load_shared(in_tile(tile, i / 4, i % 4));
            const int row = band * BAND + order[i / 4];
            const int column = chunk * INPUTS + step * STEP + i % 4 * 8;
            if (row >= rows || column >= columns) continue;
            u16* to = dense + static_cast<u64>(row) * columns + column;
            if ((columns & 7) == 0) *reinterpret_cast<uint4*>(to) = v;
            else {
                const u32 words[4] = {v.x, v.y, v.z, v.w};
                for (int c = 0; c < 8 && column + c < columns; ++c)
                    to[c] = static_cast<u16>(words[c / 2] >> (c % 2 * 16));
            }
        }
        __syncwarp();
    }
}
