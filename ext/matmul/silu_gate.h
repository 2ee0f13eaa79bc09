/* silu(gate) * up (Shazeer 2020): see `silu_gate_step.h`. */

INLINE Floats sigmoid_of(Floats gate) {
    Words sign = (Words)gate & 0x80000000u;
    Floats magnitude = (Floats)((Words)gate | 0x80000000u), decay = exp_of(magnitude); /* of what is not above 0 */
    decay = (Floats)((Words)decay & ~(Words)(magnitude < -87.0f));
    Words is_negative = (Words)((Integers)sign < 0);
    Floats share = (Floats)((is_negative & (Words)decay) | (~is_negative & (Words)((Floats){0} + 1.0f)));
    return share / (1.0f + decay);
}

INLINE Floats gated(Floats gate, Floats up) { return gate * up * sigmoid_of(gate); }

static void gate_values(const float *gate, const float *up, int count, float *out) {
    int at = 0;
    for (; at + LANES <= count; at += LANES)
        *(AnyFloats *)(out + at) = gated(load_floats(gate + at), load_floats(up + at));
    for (; at < count; at++) out[at] = gate[at] * up[at] / (1.0f + expf(-gate[at]));
}
