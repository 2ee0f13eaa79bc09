/* AVX-512 with products of bytes (VNNI) and of bfloat16. */
#include "target.h"
#ifdef __x86_64__
TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")
#include <immintrin.h>

#include "formats.h"

#define KERNELS kernels_avx512_vnni
#define KERNELS_NAME "avx512_vnni"
#define LANES 16
#define DOT_ROWS 6
#define HAS_HALVES
#define HAS_AVX2
#define HAS_VNNI
#define HAS_BFLOAT_DOT
#include "vector.h"
#include "x86_512.h"

typedef __m512bh Bfloats;

INLINE Bfloats load_bfloat_pairs(const uint16_t *from) { return (Bfloats)_mm512_loadu_si512(from); }

INLINE Floats add_bfloat_products(Floats sums, Bfloats weights, Bfloats inputs) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, weights, inputs);
}

#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
