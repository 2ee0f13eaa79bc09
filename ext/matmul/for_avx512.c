/* AVX-512 as in servers since 2017: F, BW, DQ and VL. */
#include "target.h"
#ifdef __x86_64__
TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include <immintrin.h>

#include "formats.h"

#define KERNELS kernels_avx512
#define KERNELS_NAME "avx512"
#define LANES 16
#define DOT_ROWS 6
#define HAS_HALVES
#define HAS_AVX2
#include "vector.h"
#include "x86_512.h"
#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
