/* The kernel of _products.c, which includes this once for each kind of processor: NAME, TARGET, VECTOR and OP are its own. */

#define LANES ((Py_ssize_t)(sizeof(VECTOR) / sizeof(float)))
#define PARTS ((int)(STRIP / LANES))

/* SUMS: what a receiver hears in a strip of columns; a row's strip starts in ROWS, `width` numbers after that of the row before. */
#define HEAR(PRODUCT, ROWS, SUMS)                                                                              \
    VECTOR SUMS[PARTS];                                                                                        \
    for (int part = 0; part < PARTS; part++)                                                                   \
        SUMS[part] = OP(setzero)();                                                                            \
    for (int32_t entry = PRODUCT.starts[receiver], stop = PRODUCT.starts[receiver + 1]; entry < stop; entry++) { \
        const float *row = ROWS + PRODUCT.senders[entry] * width;                                              \
        const VECTOR weight = OP(set1)(PRODUCT.weights[entry]);                                                \
        for (int part = 0; part < PARTS; part++)                                                               \
            SUMS[part] = OP(fmadd)(weight, OP(loadu)(row + part * LANES), SUMS[part]);                         \
    }

__attribute__((target(TARGET))) static int NAME(const Job *job)
{
    const Product first = job->first, second = job->second;
    const Py_ssize_t width = job->width;
    VECTOR broken = OP(setzero)(); /* stays 0 as long as all results are finite */
    float lanes[LANES];

    for (Py_ssize_t block = 0; block < job->blocks; block++) {
        const float *ones = first.rows + block * first.count * width, *others = second.rows + block * second.count * width;
        float *results = job->results + block * job->count * width;
        read_in(ones, first.heard * width);
        read_in(others, second.heard * width);
        for (Py_ssize_t column = 0; column < width; column += STRIP)
            for (Py_ssize_t receiver = 0; receiver < job->receivers; receiver++) {
                float *result = results + job->targets[receiver] * width + column;
                HEAR(first, ones + column, sums)
                if (second.heard) {
                    HEAR(second, others + column, more)
                    for (int part = 0; part < PARTS; part++)
                        sums[part] = OP(add)(sums[part], more[part]);
                }
                for (int part = 0; part < PARTS; part++) {
                    broken = OP(add)(broken, OP(sub)(sums[part], sums[part]));
                    OP(stream)(result + part * LANES, sums[part]);
                }
            }
    }
    _mm_sfence();
    OP(storeu)(lanes, broken);
    for (int lane = 0; lane < LANES; lane++)
        if (lanes[lane] != 0)
            return 0;
    return 1;
}

#undef HEAR
#undef PARTS
#undef LANES
#undef NAME
#undef TARGET
#undef VECTOR
#undef OP
