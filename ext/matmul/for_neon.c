/* AArch64: every CPU has NEON. */
#include "target.h"
#ifdef __aarch64__
#include <arm_neon.h>

#include "formats.h"

#define KERNELS kernels_neon
#define KERNELS_NAME "neon"
#define LANES 4
#define DOT_ROWS 5
#define HAS_HALVES
#define HAS_NEON
#include "vector.h"
#include "neon.h"
#include "kernels.h"
#endif
