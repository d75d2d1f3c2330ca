// What the kernels of packed weights share. NVRTC compiles it: no headers are included.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum Kind { BFLOAT16 = 0, FLOAT16 = 1 };  // of inputs and outputs

#define DEVICE static __device__ __forceinline__

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

DEVICE uint4 load_shared(u32 address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
    return v;
}

DEVICE void store_shared(u32 address, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};"
                 :: "r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
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

// Inputs in the order in which the lanes of a warp need them as the second operand of a product of
// 32 inputs: for each such tile and each vector, 4 lanes of 16 bytes. Lane t has the inputs 2t and
// 2t + 1 of each 8. `first` and `count` are in tiles; inputs beyond `columns` are zeros.
DEVICE void stage_inputs(u32 address, const u16* inputs, int batch, int columns, int first,
                         int count) {
    const int eights = count * 4;  // each thread takes 8 inputs: a part of every lane's 16 bytes
    const bool aligned = (columns & 7) == 0 && (reinterpret_cast<u64>(inputs) & 15) == 0;
    for (int i = threadIdx.x; i < eights * batch; i += blockDim.x) {
        const int n = i / eights, eight = i - n * eights;
        const int begin = first * 32 + eight * 8;
        const u16* from = inputs + static_cast<u64>(n) * columns + begin;
        u32 v[4];
        if (aligned && begin < columns) {
            const uint4 four = *reinterpret_cast<const uint4*>(from);
            v[0] = four.x; v[1] = four.y; v[2] = four.z; v[3] = four.w;
        } else {
            for (int t = 0; t < 4; ++t) {
                const int c = begin + 2 * t;
                v[t] = (c < columns ? from[2 * t] : 0)
                     | static_cast<u32>(c + 1 < columns ? from[2 * t + 1] : 0) << 16;
            }
        }
        const u32 to = address + (((eight >> 2) * batch + n) * 16 + (eight & 3)) * 4;
        for (int t = 0; t < 4; ++t)
            asm volatile("st.shared.u32 [%0], %1;" :: "r"(to + t * 16), "r"(v[t]) : "memory");
    }
}

// One vector of inputs as floats, in order; those beyond `columns` are zeros.
template <int KIND>
DEVICE void stage_floats(u32 address, const u16* inputs, int columns, int first, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const float v = first + i < columns ? widen(inputs[first + i], KIND) : 0;
        asm volatile("st.shared.f32 [%0], %1;" :: "r"(address + i * 4), "f"(v) : "memory");
    }
}
