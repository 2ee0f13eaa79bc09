/* Products of weights that are no whole numbers: DOT_OUTS rows at a time become floats. */

static size_t scratch_bytes(int ins) { return DOT_OUTS * (size_t)ins * sizeof(float); }

INLINE Row row_at(const Work *work, int out) {
    Row row = work->first;
    for (int part = 0; part < MAX_PARTS; part++)
        if (row.parts[part]) row.parts[part] += out * work->strides[part];
    return row;
}

static void multiply_values(const Work *work) {
    const int ins = work->first.ins;
    float *values = (float *)work->scratch;
    Work floats = *work;
    floats.first.parts[0] = work->scratch;
    floats.strides[0] = ins * sizeof *values;
    for (int out = 0; out < work->outs; out += DOT_OUTS) {
        floats.outs = work->outs - out < DOT_OUTS ? work->outs - out : DOT_OUTS;
        floats.bias = work->bias ? work->bias + out : NULL;
        floats.y = work->y + out;
        for (int o = 0; o < floats.outs; o++) {
            const Row row = row_at(work, out + o);
            work->format->dequantize(&row, values + (size_t)o * ins);
        }
        multiply_f32(&floats);
    }
}
