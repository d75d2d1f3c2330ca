// What the kernels of packed weights share. NVRTC compiles it: no headers are included.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum Kind { BFLOAT16 = 0, FLOAT16 = 1 };  // of inputs and outputs

#define DEVICE static __device__ __forceinline__
#define SHARED_MEMORY extern __shared__ __align__(128) u8 memory[]

DEVICE u32 lane_of_warp() { return threadIdx.x & 31; }

DEVICE u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Weights are read once: they pass by the first-level cache.
DEVICE uint4 load_weights(const void* place) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(place));
    return v;
}

DEVICE u32 load_word(const void* place) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(place));
    return v;
}

// Four 8 × 8 matrices whose rows of 16 bytes lie at the lanes' addresses: the second operand of a
// product of 32 inputs, if the rows are 8 vectors, and matrices follow each other along them.
DEVICE uint4 load_operand(u32 address) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
    return v;
}

// The next two values of a stream whose values lie 128 bytes apart.
template <bool BYTES> DEVICE void load_values(u32 (&values)[2], u32 address) {
    if (BYTES) {
        asm volatile("ld.shared.u8 %0, [%1];" : "=r"(values[0]) : "r"(address) : "memory");
        asm volatile("ld.shared.u8 %0, [%1+128];" : "=r"(values[1]) : "r"(address) : "memory");
    } else {
        asm volatile("{.reg .u16 half; ld.shared.u16 half, [%1]; cvt.u32.u16 %0, half;}"
                     : "=r"(values[0]) : "r"(address) : "memory");
        asm volatile("{.reg .u16 half; ld.shared.u16 half, [%1+128]; cvt.u32.u16 %0, half;}"
                     : "=r"(values[1]) : "r"(address) : "memory");
    }
}

DEVICE uint2 load_two(u32 address) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
    return v;
}

// Four bytes of `low` (0 to 3) and `high` (4 to 7), as the lower four digits of `which` say.
DEVICE u32 choose_bytes(u32 low, u32 high, u32 which) {
    u32 v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(low), "r"(high), "r"(which));
    return v;
}

// Begin to copy 16 bytes to shared memory.
DEVICE void copy_async(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(shared_address(to)), "l"(from) : "memory");
}

DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Begin to copy 8 inputs of a vector from `column` on to shared memory; those beyond `columns` are
// zeros.
DEVICE void copy_inputs(u8* to, const u16* vector, int column, int columns) {
    const u16* from = vector + column;
    if (column + 8 <= columns && (reinterpret_cast<u64>(from) & 15) == 0) {
        copy_async(to, from);
        return;
    }
    for (int i = 0; i < 8; ++i)
        reinterpret_cast<u16*>(to)[i] = column + i < columns ? from[i] : 0;
}

// Where a kernel may begin before the one before it has ended: after this, its results are there.
DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Blocks of a cluster share the inputs of the same rows. Before Hopper a cluster is one block.

DEVICE u32 cluster_size() {
#if __CUDA_ARCH__ >= 900
    u32 size;
    asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
    return size;
#else
    return 1;
#endif
}

DEVICE u32 cluster_rank() {
#if __CUDA_ARCH__ >= 900
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return 0;
#endif
}

DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// A number in the shared memory of another block of the cluster.
DEVICE float load_from_block(const float* place, u32 rank) {
#if __CUDA_ARCH__ >= 900
    u32 address = shared_address(place);
    float v;
    asm volatile("{.reg .u32 there; mapa.shared::cluster.u32 there, %1, %2;\n"
                 "ld.shared::cluster.f32 %0, [there];}" : "=f"(v) : "r"(address), "r"(rank));
    return v;
#else
    return *place;
#endif
}

DEVICE float widen(u16 bits, int kind) {
    float v;
    if (kind == BFLOAT16) return __uint_as_float(static_cast<u32>(bits) << 16);
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}

DEVICE u16 narrow(float v, int kind) {
    u16 bits;
    if (kind == BFLOAT16) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}

// Two numbers as a pair, `low` in the lower half.
DEVICE u32 narrow_pair(float low, float high, int kind) {
    u32 pair;
    if (kind == BFLOAT16) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// A byte of `word` that holds an integer + 128, as a float: 2^23 + byte, less 2^23 + 128.
template <int BYTE> DEVICE float integer_of(u32 word) {
    return __uint_as_float(__byte_perm(word, 0x4B000000, 0x7540 + BYTE)) - 8388736.0f;
}

// Four bytes, each an integer + 128, as two pairs of 16-bit floats, which hold them exactly.
template <int KIND> DEVICE void widen_integers(u32 word, u32& first, u32& second) {
    if (KIND == FLOAT16) {  // 1024 + byte, less 1024 + 128
        first = __byte_perm(word, 0x64646464, 0x4140);
        second = __byte_perm(word, 0x64646464, 0x4342);
        asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(first) : "r"(0x64806480));
        asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(second) : "r"(0x64806480));
    } else {
        first = narrow_pair(integer_of<0>(word), integer_of<1>(word), KIND);
        second = narrow_pair(integer_of<2>(word), integer_of<3>(word), KIND);
    }
}

// Two bytes, each the lower one of 16 bits and an integer, as two 16-bit floats, which hold them
// exactly.
template <int KIND> DEVICE u32 widen_pair(u32 pair) {
    u32 result;
    if (KIND == FLOAT16) {  // 1024 + (integer + 128), less 1024 + 128
        const u32 more = (pair ^ 0x00800080) | 0x64006400;
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(more), "r"(0x64806480));
    } else {  // 128 + the lower 7 bits, less 128, or 256 where the sign is set
        const u32 more = (pair & 0x007F007F) | 0x43004300, less = (pair & 0x00800080) | 0xC300C300;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;"
            : "=r"(result) : "r"(more), "r"(0x3F803F80), "r"(less));
    }
    return result;
}

// Adds the product of 16 rows × 16 inputs with 16 inputs × 8 vectors.
template <int KIND>
DEVICE void multiply_dense(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#define MMA(TYPE)                                                                            \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, " \
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                    \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                    \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
    if (KIND == BFLOAT16) MMA("bf16"); else MMA("f16");
#undef MMA
}
