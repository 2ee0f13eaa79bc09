/* AVX2 with FMA and F16C: nearly every x86-64 CPU since 2013. */
#include "target.h"
#ifdef __x86_64__
TARGET("avx2,fma,f16c")
#include <immintrin.h>

#include "formats.h"

#define KERNELS kernels_avx2
#define KERNELS_NAME "avx2"
#define LANES 8
#define DOT_ROWS 3
#define HAS_HALVES
#define HAS_AVX2
#include "vector.h"
#include "x86_256.h"
#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
