/* The kernels of _convolutions.c, which includes this once for each kind of processor: OF, TARGET, VECTOR, OP, MOST_ROWS, WHERE, EITHER and
 * CHOICE are its own. Loops over the points and rows of a tile are unrolled, so that vectors stay in registers. */

#define LANES ((int)(sizeof(VECTOR) / sizeof(float)))
#define KERNEL_PART __attribute__((target(TARGET))) static
#define INLINE __attribute__((target(TARGET), always_inline)) static inline
#define UNROLLED _Pragma("GCC unroll 16")

/* Matrices: result [rows, columns] (+)= left [rows, depth] right [depth, columns], for each of `parts` such pairs, of which the next lies
 * left_part and right_part after that before. Rows of the left are left_row, its numbers left_step apart; rows of the right and of the
 * result right_row and result_row. */
typedef struct {
    Size rows, columns, depth, parts;
    const float *left;
    Size left_row, left_step, left_part;
    const float *right;
    Size right_row, right_part;
    float *result;
    Size result_row;
    int add;
} OF(Product);

INLINE void OF(some_rows)(const OF(Product) * p, Size row, Size column, const int rows, const int vectors)
{
    const Size left_row = p->left_row, left_step = p->left_step, right_row = p->right_row;
    VECTOR sums[MOST_ROWS][2];
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[r][v] = OP(setzero)();
    for (Size part = 0; part < p->parts; part++) {
        const float *left = p->left + row * left_row + part * p->left_part, *right = p->right + column + part * p->right_part;
        for (Size step = 0; step < p->depth; step++, left += left_step, right += right_row) {
            VECTOR factors[2];
            UNROLLED for (int v = 0; v < vectors; v++) factors[v] = OP(loadu)(right + v * LANES);
            UNROLLED for (int r = 0; r < rows; r++) {
                const VECTOR factor = OP(set1)(left[r * left_row]);
                UNROLLED for (int v = 0; v < vectors; v++) sums[r][v] = OP(fmadd)(factor, factors[v], sums[r][v]);
            }
        }
    }
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int v = 0; v < vectors; v++) {
            float *result = p->result + (row + r) * p->result_row + column + v * LANES;
            OP(storeu)(result, p->add ? OP(add)(OP(loadu)(result), sums[r][v]) : sums[r][v]);
        }
}

/* The compiler is to know the number of rows. */
#define ROWS(COUNT)                                                                           \
    case COUNT:                                                                               \
        OF(some_rows)(p, row, column, COUNT <= MOST_ROWS ? COUNT : MOST_ROWS, vectors); \
        break;
INLINE void OF(rows)(const OF(Product) * p, Size row, Size column, Size rows, const int vectors)
{
    switch (rows) {
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
    }
}
#undef ROWS

KERNEL_PART void OF(multiply)(const OF(Product) * p)
{
    const Size pieces = (p->rows + MOST_ROWS - 1) / MOST_ROWS;
    for (Size column = 0; column < p->columns; column += 2 * LANES)
        for (Size piece = 0; piece < pieces; piece++) {
            const Size row = p->rows * piece / pieces, rows = p->rows * (piece + 1) / pieces - row;
            if (column + 2 * LANES <= p->columns)
                OF(rows)(p, row, column, rows, 2);
            else
                OF(rows)(p, row, column, rows, 1);
        }
}

/* Polynomials of `count` coefficients at the points, times the scales of 0, A and B. */
INLINE void OF(evaluate)(const int count, const float scales[3], const VECTOR *coefficients, VECTOR *points)
{
    VECTOR even[2], odd[2];
    UNROLLED for (int pair = 0; pair < 2; pair++) {
        float power = scales[1 + pair];
        even[pair] = OP(mul)(OP(set1)(power), coefficients[0]), odd[pair] = OP(setzero)();
        UNROLLED for (int k = 1; k < count; k++) {
            power *= pair ? B : A;
            VECTOR *sum = k % 2 ? &odd[pair] : &even[pair];
            *sum = OP(fmadd)(OP(set1)(power), coefficients[k], *sum);
        }
        points[1 + 2 * pair] = OP(add)(even[pair], odd[pair]), points[2 + 2 * pair] = OP(sub)(even[pair], odd[pair]);
    }
    points[0] = OP(mul)(OP(set1)(scales[0]), coefficients[0]);
    points[T - 1] = coefficients[count - 1];
}

/* The transpose of `evaluate`. */
INLINE void OF(gather)(const int count, const float scales[3], const VECTOR *points, VECTOR *coefficients)
{
    float powers[2] = {scales[1], scales[2]};
    VECTOR even[2], odd[2];
    UNROLLED for (int pair = 0; pair < 2; pair++)
        even[pair] = OP(add)(points[1 + 2 * pair], points[2 + 2 * pair]), odd[pair] = OP(sub)(points[1 + 2 * pair], points[2 + 2 * pair]);
    UNROLLED for (int k = 0; k < count; k++) {
        const VECTOR *sums = k % 2 ? odd : even;
        coefficients[k] = OP(fmadd)(OP(set1)(powers[1]), sums[1], OP(mul)(OP(set1)(powers[0]), sums[0]));
        powers[0] *= A, powers[1] *= B;
    }
    coefficients[0] = OP(fmadd)(OP(set1)(scales[0]), points[0], coefficients[0]);
    coefficients[count - 1] = OP(add)(coefficients[count - 1], points[T - 1]);
}

/* What the inputs of a tile are multiplied as: at each point the coefficients of the product of its distances to the others. */
INLINE void OF(inputs_at_points)(const VECTOR *x, VECTOR *points)
{
    const VECTOR a2 = OP(set1)(A * A), b2 = OP(set1)(B * B), both = OP(set1)(A * A + B * B), product = OP(set1)(A * A * B * B);
    VECTOR even = OP(fnmadd)(b2, x[2], x[4]), odd = OP(mul)(OP(set1)(A), OP(fnmadd)(b2, x[1], x[3]));
    points[0] = OP(fmadd)(product, x[0], OP(fnmadd)(both, x[2], x[4]));
    points[1] = OP(add)(even, odd), points[2] = OP(sub)(even, odd);
    even = OP(fnmadd)(a2, x[2], x[4]), odd = OP(mul)(OP(set1)(B), OP(fnmadd)(a2, x[1], x[3]));
    points[3] = OP(add)(even, odd), points[4] = OP(sub)(even, odd);
    points[5] = OP(fmadd)(product, x[1], OP(fnmadd)(both, x[3], x[5]));
}

/* Its transpose. */
INLINE void OF(points_to_inputs)(const VECTOR *points, VECTOR *x)
{
    const VECTOR a2 = OP(set1)(A * A), b2 = OP(set1)(B * B), both = OP(set1)(A * A + B * B), product = OP(set1)(A * A * B * B);
    const VECTOR even_a = OP(add)(points[1], points[2]), odd_a = OP(mul)(OP(set1)(A), OP(sub)(points[1], points[2]));
    const VECTOR even_b = OP(add)(points[3], points[4]), odd_b = OP(mul)(OP(set1)(B), OP(sub)(points[3], points[4]));
    x[0] = OP(mul)(product, points[0]);
    x[1] = OP(fnmadd)(b2, odd_a, OP(fnmadd)(a2, odd_b, OP(mul)(product, points[5])));
    x[2] = OP(fnmadd)(both, points[0], OP(fnmadd)(b2, even_a, OP(fnmadd)(a2, even_b, OP(setzero)())));
    x[3] = OP(fnmadd)(both, points[5], OP(add)(odd_a, odd_b));
    x[4] = OP(add)(points[0], OP(add)(even_a, even_b));
    x[5] = points[5];
}

/* The maximum of 2 x 2 and where it was: of equal ones the first, and one that is not a number if there is any. */
INLINE VECTOR OF(greatest)(const VECTOR values[4], VECTOR *place)
{
    VECTOR most = values[0];
    *place = OP(setzero)();
    UNROLLED for (int each = 1; each < 4; each++) {
        const VECTOR value = values[each];
#define MORE EITHER(WHERE(_CMP_GT_OQ, value, most), WHERE(_CMP_UNORD_Q, value, value))
        *place = CHOICE(MORE, OP(set1)((float)each), *place);
        most = CHOICE(MORE, value, most);
#undef MORE
    }
    return most;
}

/* Puts a tile at this row and column of what is convolved, of the channels from `channel`, into the results of its image, whose places
 * begin at `first`. */
INLINE void OF(put_results)(const Job *job, const int tile, const VECTOR (*convolved)[T], Size row, Size column, Size channel, Size first)
{
    const Shape *shape = &job->shape;
    const VECTOR shift = OP(loadu)(job->filled_shift + channel);
    const int pool = shape->pool;
    for (int y = 0; y < tile && row + y < shape->rows; y += pool)
        for (int x = 0; x < tile && column + x < shape->columns; x += pool) {
            const Size at = ((row + y) / pool * shape->right + (column + x) / pool) * shape->outputs + channel;
            VECTOR found = convolved[y][x];
            if (pool == 2) {
                VECTOR place;
                const VECTOR values[4] = {convolved[y][x], convolved[y][x + 1], convolved[y + 1][x], convolved[y + 1][x + 1]};
                found = OF(greatest)(values, &place);
                OP(storeu)(job->places + first + at, place);
            }
            OP(storeu)(job->filled_results + at, OP(add)(found, shift));
        }
}

/* The derivative by what is convolved at one pixel of an image, whose places begin at `first`, from those by its results. */
INLINE VECTOR OF(slope_at)(const Job *job, Size row, Size column, Size channel, Size first)
{
    const Shape *shape = &job->shape;
    const float *slopes = job->filled_results;
    if (row >= shape->rows || column >= shape->columns)
        return OP(setzero)();
    if (shape->pool == 1)
        return OP(loadu)(slopes + (row * shape->columns + column) * shape->outputs + channel);
    const Size at = (row / 2 * shape->right + column / 2) * shape->outputs + channel;
    const VECTOR place = OP(set1)((float)(row % 2 * 2 + column % 2));
    return CHOICE(WHERE(_CMP_EQ_OQ, OP(loadu)(job->places + first + at), place), OP(loadu)(slopes + at), OP(setzero)());
}

/* Calls of what has the side of the tile in it, so that the compiler knows it. */
#define FOR_TILE(SHAPE, FUNCTION, ...) ((SHAPE)->tile == 2 ? FUNCTION(2, __VA_ARGS__) : FUNCTION(4, __VA_ARGS__))
#define FOR_SIDE(SHAPE, FUNCTION, ...) ((SHAPE)->side == 3 ? FUNCTION(3, __VA_ARGS__) : FUNCTION(5, __VA_ARGS__))

static const float OF(plain)[3] = {1, 1, 1}, OF(divided)[3] = {1 / AT_0, 1 / AT_A, 1 / AT_B};

/* Filters [outputs, side, side, inputs] to [POINTS, outputs, inputs]. */
INLINE void OF(filters_to_points)(const int side, const Shape *shape, const float *filters, float *points)
{
    const Size all = shape->outputs * shape->inputs;
    for (Size output = 0; output < shape->outputs; output++)
        for (Size channel = 0; channel < shape->inputs; channel += LANES) {
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < side; x++) {
                UNROLLED for (int y = 0; y < side; y++)
                    column[y] = OP(loadu)(filters + ((output * side + y) * side + x) * shape->inputs + channel);
                OF(evaluate)(side, OF(divided), column, values);
                UNROLLED for (int y = 0; y < T; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < T; y++) {
                OF(evaluate)(side, OF(divided), half[y], values);
                UNROLLED for (int x = 0; x < T; x++) OP(storeu)(points + (y * T + x) * all + output * shape->inputs + channel, values[x]);
            }
        }
}

/* Its transpose. */
INLINE void OF(points_to_filters)(const int side, const Shape *shape, const float *points, float *filters)
{
    const Size all = shape->outputs * shape->inputs;
    for (Size output = 0; output < shape->outputs; output++)
        for (Size channel = 0; channel < shape->inputs; channel += LANES) {
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < T; x++) {
                UNROLLED for (int y = 0; y < T; y++) column[y] = OP(loadu)(points + (y * T + x) * all + output * shape->inputs + channel);
                OF(gather)(side, OF(divided), column, values);
                UNROLLED for (int y = 0; y < side; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < side; y++) {
                OF(gather)(side, OF(divided), half[y], values);
                UNROLLED for (int x = 0; x < side; x++)
                    OP(storeu)(filters + ((output * side + y) * side + x) * shape->inputs + channel, values[x]);
            }
        }
}

/* A row of tiles of a padded image to [POINTS, tiles, inputs]. */
KERNEL_PART void OF(image_to_points)(const Shape *shape, Size down, const float *padded, float *points)
{
    const Size inputs = shape->inputs, width = shape->padded_width;
    for (Size right = 0; right < shape->tiles_right; right++, points += inputs)
        for (Size channel = 0; channel < inputs; channel += LANES) {
            const float *corner = padded + (down * width + right) * shape->tile * inputs + channel;
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < T; x++) {
                UNROLLED for (int y = 0; y < T; y++) column[y] = OP(loadu)(corner + (y * width + x) * inputs);
                OF(inputs_at_points)(column, values);
                UNROLLED for (int y = 0; y < T; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < T; y++) {
                OF(inputs_at_points)(half[y], values);
                UNROLLED for (int x = 0; x < T; x++) OP(storeu)(points + (y * T + x) * shape->plane_in + channel, values[x]);
            }
        }
}

/* Its transpose, added to the padded image. */
KERNEL_PART void OF(points_to_image)(const Shape *shape, Size down, const float *points, float *padded)
{
    const Size inputs = shape->inputs, width = shape->padded_width;
    for (Size right = 0; right < shape->tiles_right; right++, points += inputs)
        for (Size channel = 0; channel < inputs; channel += LANES) {
            float *corner = padded + (down * width + right) * shape->tile * inputs + channel;
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < T; x++) {
                UNROLLED for (int y = 0; y < T; y++) column[y] = OP(loadu)(points + (y * T + x) * shape->plane_in + channel);
                OF(points_to_inputs)(column, values);
                UNROLLED for (int y = 0; y < T; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < T; y++) {
                OF(points_to_inputs)(half[y], values);
                UNROLLED for (int x = 0; x < T; x++) {
                    float *pixel = corner + (y * width + x) * inputs;
                    OP(storeu)(pixel, OP(add)(OP(loadu)(pixel), values[x]));
                }
            }
        }
}

/* A row of tiles [POINTS, tiles, outputs] to the results of its image. */
INLINE void OF(points_to_results)(const int tile, const Job *job, Size down, const float *points, Size first)
{
    const Shape *shape = &job->shape;
    for (Size right = 0; right < shape->tiles_right; right++, points += shape->outputs)
        for (Size channel = 0; channel < shape->outputs; channel += LANES) {
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < T; x++) {
                UNROLLED for (int y = 0; y < T; y++) column[y] = OP(loadu)(points + (y * T + x) * shape->plane_out + channel);
                OF(gather)(tile, OF(plain), column, values);
                UNROLLED for (int y = 0; y < tile; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < tile; y++) {
                OF(gather)(tile, OF(plain), half[y], values);
                UNROLLED for (int x = 0; x < tile; x++) half[y][x] = values[x];
            }
            OF(put_results)(job, tile, half, down * tile, right * tile, channel, first);
        }
}

/* Its transpose. */
INLINE void OF(slopes_to_points)(const int tile, const Job *job, Size down, Size first, float *points)
{
    const Shape *shape = &job->shape;
    for (Size right = 0; right < shape->tiles_right; right++, points += shape->outputs)
        for (Size channel = 0; channel < shape->outputs; channel += LANES) {
            VECTOR half[T][T], column[T], values[T];
            UNROLLED for (int x = 0; x < tile; x++) {
                UNROLLED for (int y = 0; y < tile; y++) column[y] = OF(slope_at)(job, down * tile + y, right * tile + x, channel, first);
                OF(evaluate)(tile, OF(plain), column, values);
                UNROLLED for (int y = 0; y < T; y++) half[y][x] = values[y];
            }
            UNROLLED for (int y = 0; y < T; y++) {
                OF(evaluate)(tile, OF(plain), half[y], values);
                UNROLLED for (int x = 0; x < T; x++) OP(storeu)(points + (y * T + x) * shape->plane_out + channel, values[x]);
            }
        }
}

KERNEL_PART void OF(forward_by_tiles)(Job *job)
{
    const Shape *shape = &job->shape;
    const Size inputs = shape->inputs, outputs = shape->outputs, right = shape->tiles_right, rows = shape->examples * shape->tiles_down;
    FOR_SIDE(shape, OF(filters_to_points), shape, job->filled_filters, job->at_filters);
    for (Size point = 0; point < POINTS; point++)
        turn(outputs, inputs, job->at_filters + point * inputs * outputs, job->turned + point * inputs * outputs);
    for (Size first = 0; first < rows; first += shape->together) {
        const Size last = least(first + shape->together, rows);
        for (Size row = first; row < last; row++) {
            const Size image = row / shape->tiles_down, down = row % shape->tiles_down;
            if (down == 0)
                pad(job, image);
            OF(image_to_points)(shape, down, job->padded, job->at_inputs + (row - first) * right * inputs);
        }
        for (Size point = 0; point < POINTS; point++)
            OF(multiply)(&(OF(Product)){
                .rows = (last - first) * right, .columns = outputs, .depth = inputs, .parts = 1,
                .left = job->at_inputs + point * shape->plane_in, .left_row = inputs, .left_step = 1,
                .right = job->turned + point * inputs * outputs, .right_row = outputs,
                .result = job->at_outputs + point * shape->plane_out, .result_row = outputs,
            });
        for (Size row = first; row < last; row++) {
            const Size image = row / shape->tiles_down, down = row % shape->tiles_down;
            FOR_TILE(shape, OF(points_to_results), job, down, job->at_outputs + (row - first) * right * outputs,
                     image * filled_result_size(shape));
            if (down == shape->tiles_down - 1)
                take_results(job, image);
        }
    }
}

KERNEL_PART void OF(backward_by_tiles)(Job *job)
{
    const Shape *shape = &job->shape;
    const Size inputs = shape->inputs, outputs = shape->outputs, right = shape->tiles_right, rows = shape->examples * shape->tiles_down;
    float *filters = job->at_filters, *gradient = job->turned;
    if (job->below)
        FOR_SIDE(shape, OF(filters_to_points), shape, job->filled_filters, filters);
    memset(gradient, 0, POINTS * inputs * outputs * sizeof(float));
    for (Size first = 0; first < rows; first += shape->together) {
        const Size last = least(first + shape->together, rows);
        for (Size row = first; row < last; row++) {
            const Size image = row / shape->tiles_down, down = row % shape->tiles_down;
            if (down == 0) {
                pad(job, image);
                fill_slopes(job, image);
            }
            OF(image_to_points)(shape, down, job->padded, job->at_inputs + (row - first) * right * inputs);
            FOR_TILE(shape, OF(slopes_to_points), job, down, image * filled_result_size(shape),
                     job->at_outputs + (row - first) * right * outputs);
        }
        for (Size point = 0; point < POINTS; point++) {
            float *slopes = job->at_outputs + point * shape->plane_out, *at_inputs = job->at_inputs + point * shape->plane_in;
            OF(multiply)(&(OF(Product)){
                .rows = outputs, .columns = inputs, .depth = (last - first) * right, .parts = 1,
                .left = slopes, .left_row = 1, .left_step = outputs, .right = at_inputs, .right_row = inputs, .result = gradient + point * inputs * outputs, .result_row = inputs, .add = 1,
            });
            if (job->below) /* where the inputs were */
                OF(multiply)(&(OF(Product)){
                    .rows = (last - first) * right, .columns = inputs, .depth = outputs, .parts = 1,
                    .left = slopes, .left_row = outputs, .left_step = 1, .right = filters + point * inputs * outputs, .right_row = inputs, .result = at_inputs, .result_row = inputs,
                });
        }
        for (Size row = first; job->below && row < last; row++) {
            const Size image = row / shape->tiles_down, down = row % shape->tiles_down;
            if (down == 0)
                memset(job->padded_below, 0, padded_size(shape) * sizeof(float));
            OF(points_to_image)(shape, down, job->at_inputs + (row - first) * right * inputs, job->padded_below);
            if (down == shape->tiles_down - 1)
                take_out(job, image);
        }
    }
    FOR_SIDE(shape, OF(points_to_filters), shape, gradient, job->filled_filters);
    copy_rows(shape->given_outputs * shape->side * shape->side, shape->given_inputs, job->filled_filters, inputs, job->gradient,
              shape->given_inputs);
}

/* A row of filters looks at side x inputs numbers next to each other, those of the next pixel at the same but the first `inputs`. */
KERNEL_PART void OF(forward_plainly)(Job *job)
{
    const Shape *shape = &job->shape;
    const Size inputs = shape->inputs, outputs = shape->outputs, columns = shape->columns, run = shape->side * inputs, pool = shape->pool;
    turn(outputs, shape->side * run, job->filled_filters, job->turned);
    for (Size image = 0; image < shape->examples; image++) {
        pad(job, image);
        for (Size row = 0; row < shape->rows; row += pool) {
            for (Size each = 0; each < pool; each++)
                OF(multiply)(&(OF(Product)){
                    .rows = columns, .columns = outputs, .depth = run, .parts = shape->side,
                    .left = job->padded + (row + each) * shape->padded_width * inputs, .left_row = inputs, .left_step = 1,
                    .left_part = shape->padded_width * inputs, .right = job->turned, .right_row = outputs, .right_part = run * outputs,
                    .result = job->convolved + each * columns * outputs, .result_row = outputs,
                });
            for (Size column = 0; column < columns; column += pool)
                for (Size channel = 0; channel < outputs; channel += LANES) {
                    VECTOR block[T][T];
                    for (Size y = 0; y < pool; y++)
                        for (Size x = 0; x < pool; x++)
                            block[y][x] = OP(loadu)(job->convolved + (y * columns + column + x) * outputs + channel);
                    OF(put_results)(job, pool, block, row, column, channel, image * filled_result_size(shape));
                }
        }
        take_results(job, image);
    }
}

KERNEL_PART void OF(backward_plainly)(Job *job)
{
    const Shape *shape = &job->shape;
    const Size inputs = shape->inputs, outputs = shape->outputs, columns = shape->columns, run = shape->side * inputs;
    memset(job->turned, 0, filled_filters_size(shape) * sizeof(float));
    for (Size image = 0; image < shape->examples; image++) {
        pad(job, image);
        fill_slopes(job, image);
        for (Size row = 0; row < shape->rows; row++)
            for (Size column = 0; column < columns; column++)
                for (Size channel = 0; channel < outputs; channel += LANES)
                    OP(storeu)(job->convolved + (row * columns + column) * outputs + channel,
                               OF(slope_at)(job, row, column, channel, image * filled_result_size(shape)));
        for (Size row = 0; row < shape->side; row++)
            OF(multiply)(&(OF(Product)){
                .rows = run, .columns = outputs, .depth = columns, .parts = shape->rows,
                .left = job->padded + row * shape->padded_width * inputs, .left_row = 1, .left_step = inputs,
                .left_part = shape->padded_width * inputs, .right = job->convolved, .right_row = outputs, .right_part = columns * outputs,
                .result = job->turned + row * run * outputs, .result_row = outputs, .add = 1,
            });
    }
    turn(shape->side * run, outputs, job->turned, job->filled_filters);
    memcpy(job->gradient, job->filled_filters, filters_size(shape) * sizeof(float));
}

KERNEL_PART void OF(forward)(Job *job)
{
    fill_up(job);
    if (by_tiles(&job->shape))
        OF(forward_by_tiles)(job);
    else
        OF(forward_plainly)(job);
}

KERNEL_PART void OF(backward)(Job *job)
{
    fill_up(job);
    if (by_tiles(&job->shape))
        OF(backward_by_tiles)(job);
    else
        OF(backward_plainly)(job);
}

#undef FOR_TILE
#undef FOR_SIDE
#undef LANES
#undef KERNEL_PART
#undef INLINE
#undef UNROLLED
#undef OF
#undef TARGET
#undef VECTOR
#undef OP
#undef MOST_ROWS
#undef WHERE
#undef EITHER
#undef CHOICE
