/* The products of all types of blocks. BITS is rounded up to what there is in `tile.h`. */

#define NAME q4_0
#define ELEMENTS 32
#define BYTES 18
#define RUN 32
#define BITS 4
#define CENTRE 8
#define HALVED
#include "blocks.h"

#define NAME q4_1
#define ELEMENTS 32
#define BYTES 20
#define RUN 32
#define BITS 4
#define CENTRE 0
#define HALVED
#include "blocks.h"

#define NAME q5_0
#define ELEMENTS 32
#define BYTES 22
#define RUN 32
#define BITS 5
#define CENTRE 16
#include "blocks.h"

#define NAME q5_1
#define ELEMENTS 32
#define BYTES 24
#define RUN 32
#define BITS 5
#define CENTRE 0
#include "blocks.h"

#define NAME q8_0
#define ELEMENTS 32
#define BYTES 34
#define RUN 32
#define BITS 8
#define CENTRE 128
#include "blocks.h"

#define NAME iq4_nl
#define ELEMENTS 32
#define BYTES 18
#define RUN 32
#define BITS 8
#define CENTRE 128
#define HALVED
#include "blocks.h"

#define NAME mxfp4
#define ELEMENTS 32
#define BYTES 17
#define RUN 32
#define BITS 5
#define CENTRE 12
#define HALVED
#include "blocks.h"

#define NAME nvfp4
#define ELEMENTS 64
#define BYTES 36
#define RUN 16
#define BITS 5
#define CENTRE 12
#include "blocks.h"

#define NAME q2_k
#define ELEMENTS 256
#define BYTES 84
#define RUN 16
#define BITS 5
#define CENTRE 0
#include "blocks.h"

#define NAME q3_k
#define ELEMENTS 256
#define BYTES 110
#define RUN 16
#define BITS 5
#define CENTRE 4
#include "blocks.h"

#define NAME q4_k
#define ELEMENTS 256
#define BYTES 144
#define RUN 32
#define BITS 4
#define CENTRE 0
#include "blocks.h"

#define NAME q5_k
#define ELEMENTS 256
#define BYTES 176
#define RUN 32
#define BITS 5
#define CENTRE 0
#include "blocks.h"

#define NAME q6_k
#define ELEMENTS 256
#define BYTES 210
#define RUN 16
#define BITS 6
#define CENTRE 32
#include "blocks.h"

#define NAME iq4_xs
#define ELEMENTS 256
#define BYTES 136
#define RUN 32
#define BITS 8
#define CENTRE 128
#include "blocks.h"

#define NAME tq2_0
#define ELEMENTS 256
#define BYTES 66
#define RUN 32
#define BITS 4
#define CENTRE 1
#include "blocks.h"
