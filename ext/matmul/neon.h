/* Vectors of 128 bits on AArch64, where every CPU has NEON. */

INLINE Floats load_halves(const uint16_t *from) { return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }

/* bfloat16 is the upper half of a float. */
INLINE Floats load_bfloats(const uint16_t *from) { return (Floats)vshll_n_u16(vld1_u16(from), 16); }

INLINE float half_to_float(uint16_t half) {
    __fp16 value;
    memcpy(&value, &half, 2);
    return value;
}

INLINE float sum(Floats of) { return vaddvq_f32((float32x4_t)of); }

INLINE int sum_integers(Integers of) { return vaddvq_s32((int32x4_t)of); }
INLINE int largest_lane(Integers of) { return vmaxvq_s32((int32x4_t)of); }

typedef float32x4_t FourFloats;

INLINE FourFloats sum_each(const Floats of[4]) {
    const float32x4_t pairs = vpaddq_f32((float32x4_t)of[0], (float32x4_t)of[1]);
    return vpaddq_f32(pairs, vpaddq_f32((float32x4_t)of[2], (float32x4_t)of[3]));
}

/* Add the products of four bytes to each sum. */
INLINE int32x4_t add_dots(int32x4_t sums, int8x16_t codes, int8x16_t inputs) {
#ifdef HAS_DOTPROD
    return vdotq_s32(sums, codes, inputs);
#else
    const int16x8_t first = vmull_s8(vget_low_s8(codes), vget_low_s8(inputs)), second = vmull_high_s8(codes, inputs);
    return vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second)));
#endif
}

/* The same by the four inputs of one lane. */
#ifdef HAS_DOTPROD
#define add_lane vdotq_laneq_s32
#else
#define add_lane(sums, codes, inputs, lane) \
    add_dots(sums, codes, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(inputs), lane)))
#endif

/* Turn four by four numbers. */
INLINE void transpose_four(int32x4_t v[4]) {
    const int32x4x2_t a = vtrnq_s32(v[0], v[1]), b = vtrnq_s32(v[2], v[3]);
    UNROLL for (int i = 0; i < 2; i++) {
        v[i] = vcombine_s32(vget_low_s32(a.val[i]), vget_low_s32(b.val[i]));
        v[i + 2] = vcombine_s32(vget_high_s32(a.val[i]), vget_high_s32(b.val[i]));
    }
}
