/* AArch64 with products of bytes: most CPUs since 2018. */
#include "target.h"
#ifdef __aarch64__
TARGET("arch=armv8.2-a+dotprod")
#include <arm_neon.h>

#include "formats.h"

#define KERNELS kernels_neon_dotprod
#define KERNELS_NAME "neon_dotprod"
#define LANES 4
#define DOT_ROWS 5
#define HAS_HALVES
#define HAS_NEON
#define HAS_DOTPROD
#include "vector.h"
#include "neon.h"
#include "kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
