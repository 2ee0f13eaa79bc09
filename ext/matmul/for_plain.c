/* Plain C: what the compiler makes of it for any CPU of the kind it compiles for. */
#include "formats.h"

#define KERNELS kernels_plain
#define KERNELS_NAME "plain"
#define LANES 4
#define DOT_ROWS 3
#include "vector.h"
#include "kernels.h"
