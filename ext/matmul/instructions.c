/* Which instruction sets this build has and this CPU runs. */
#ifdef __aarch64__
#include <sys/auxv.h>
#endif

#include "formats.h"

extern const Kernels kernels_plain;
#ifdef __x86_64__
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_vnni;
#elif defined(__aarch64__)
extern const Kernels kernels_neon, kernels_neon_dotprod;
#define DOTPROD (1 << 20) /* of Linux's HWCAP: ASIMDDP */
#endif

const Kernels *const *usable_kernels(void) {
    static const Kernels *usable[8];
    int num = 0;
#ifdef __x86_64__
    __builtin_cpu_init();
#define HAS(FEATURE) __builtin_cpu_supports(FEATURE)
    int avx2 = HAS("avx2") && HAS("fma") && HAS("f16c");
    int avx512 = avx2 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl");
    if (avx512 && HAS("avx512vnni") && HAS("avx512bf16")) usable[num++] = &kernels_avx512_vnni;
    if (avx512) usable[num++] = &kernels_avx512;
    if (avx2) usable[num++] = &kernels_avx2;
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & DOTPROD) usable[num++] = &kernels_neon_dotprod;
    usable[num++] = &kernels_neon;
#endif
    usable[num++] = &kernels_plain;
    usable[num] = NULL;
    return usable;
}
