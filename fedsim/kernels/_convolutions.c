/* Convolutions of stride 1 with the maxima of 2 x 2 pixels that may follow, and their gradients, for small images: where local training of
 * convolutional networks spends its time. fedsim.kernels.convolutions says which, and what computes where this is not built.
 *
 * Channels are last: images [examples, height, width, inputs], filters [outputs, side, side, inputs]. Vectors are of channels, of which
 * there are multiples of STRIP here: others are filled up with zeros.
 *
 * Filters of 3 x 3 and 5 x 5 pixels on more than FEW inputs go by minimal filtering (Winograd 1980; Lavin and Gray 2016, section 4): a tile
 * of T x T inputs, T = 6, and the filters are evaluated as polynomials at six points of each dimension, 0, 3/4, -3/4, 3/2, -3/2 and
 * infinity, multiplied and summed over the inputs there, and m x m outputs, m = T + 1 - side, are found from that. This takes 36
 * multiplications in place of (m side)^2 = 100 or 144. The points keep rounding errors near those of the plain sum, since their powers are
 * near 1; they and their squares are exact. Backward passes are the transposes of these maps, so gradients are those of what is computed.
 * Unlike in the plain sum, outputs of equal pixels, and of pixels that are all 0, are equal, and 0, but for rounding, unless the whole tile
 * is; and an input that is not finite, or beyond some 1e37, makes all outputs of its tile so.
 *
 * Images of up to FEW channels, which are data, go by the plain sum.
 *
 * Which operations are done in which order depends on sizes alone, and all but the sums over examples on those of one example: bits are the
 * same by either kernel, and wherever in memory things lie.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "_processors.h"

#define STRIP 16    /* channels: a cache line */
#define FEW 4       /* channels of data */
#define T 6         /* side of a tile */
#define POINTS (T * T)
#define MANY 48     /* tiles that are multiplied at once, at least: as many rows of them, whatever images they are of */
#define MOST_SIDE 16
#define MOST (1 << 30)          /* of any size */
#define MOST_NUMBERS 0x1p52     /* of an array */

typedef Py_ssize_t Size;

typedef struct {
    Size examples, given_inputs, given_outputs, height, width, side, padding, pool; /* as given; pool is 1 or 2 */
    Size inputs, outputs;           /* with those of zeros: multiples of STRIP, but for inputs that go by the plain sum */
    Size rows, columns;             /* of what is convolved, as far as it is pooled */
    Size down, right;               /* of the results: rows and columns over pool */
    Size padded_height, padded_width, shown_height, shown_width; /* of the image with its padding; of its part that is looked at */
    Size tile, tiles_down, tiles_right, together; /* outputs of a tile a side; tiles of an image; rows of tiles at once */
    Size plane_in, plane_out;       /* numbers between one point's inputs (outputs) of all tiles and the next point's */
} Shape;

static Size least(Size a, Size b) { return a < b ? a : b; }

static int by_tiles(const Shape *shape) { return (shape->side == 3 || shape->side == 5) && shape->given_inputs > FEW; }

static Size strips(Size numbers) { return (numbers + STRIP - 1) / STRIP * STRIP; }

/* Sizes from those that are given; the name of one that does not fit, or NULL. */
static const char *fill(Shape *shape)
{
    if (shape->examples < 0 || shape->examples > MOST)
        return "examples";
    if (shape->given_inputs < 1 || shape->given_inputs > MOST)
        return "inputs";
    if (shape->given_outputs < 1 || shape->given_outputs > MOST)
        return "outputs";
    if (shape->height < 1 || shape->height > MOST)
        return "height";
    if (shape->width < 1 || shape->width > MOST)
        return "width";
    if (shape->side < 1 || shape->side > MOST_SIDE)
        return "side";
    if (shape->padding < 0 || shape->padding >= shape->side)
        return "padding";
    if (shape->pool < 1 || shape->pool > 2)
        return "pool";
    shape->down = (shape->height + 2 * shape->padding - shape->side + 1) / shape->pool;
    shape->right = (shape->width + 2 * shape->padding - shape->side + 1) / shape->pool;
    if (shape->down < 1)
        return "height";
    if (shape->right < 1)
        return "width";
    shape->inputs = by_tiles(shape) ? strips(shape->given_inputs) : shape->given_inputs, shape->outputs = strips(shape->given_outputs);
    shape->rows = shape->down * shape->pool, shape->columns = shape->right * shape->pool;
    shape->tile = by_tiles(shape) ? T + 1 - shape->side : 1;
    shape->tiles_down = (shape->rows + shape->tile - 1) / shape->tile;
    shape->tiles_right = (shape->columns + shape->tile - 1) / shape->tile;
    shape->together = (MANY + shape->tiles_right - 1) / shape->tiles_right;
    shape->padded_height = shape->tiles_down * shape->tile + shape->side - 1;
    shape->padded_width = shape->tiles_right * shape->tile + shape->side - 1;
    shape->shown_height = least(shape->height, shape->rows + shape->side - 1 - shape->padding);
    shape->shown_width = least(shape->width, shape->columns + shape->side - 1 - shape->padding);
    /* not a power of two apart, else all points of a tile would share a few places of the cache */
    shape->plane_in = shape->together * shape->tiles_right * shape->inputs + STRIP;
    shape->plane_out = shape->together * shape->tiles_right * shape->outputs + STRIP;
    /* so that no product of sizes overflows */
    if ((double)shape->inputs * shape->outputs * MOST_SIDE * MOST_SIDE > MOST_NUMBERS)
        return "outputs";
    if ((double)shape->padded_height * shape->padded_width * shape->inputs > MOST_NUMBERS ||
        (double)(shape->tiles_right + MANY) * shape->inputs * POINTS > MOST_NUMBERS)
        return "inputs";
    if ((double)shape->rows * shape->columns * shape->outputs > MOST_NUMBERS ||
        (double)(shape->tiles_right + MANY) * shape->outputs * POINTS > MOST_NUMBERS)
        return "outputs";
    if ((double)shape->examples * shape->height * shape->width * shape->given_inputs > MOST_NUMBERS ||
        (double)shape->examples * shape->down * shape->right * shape->outputs > MOST_NUMBERS)
        return "examples";
    return NULL;
}

/* Numbers of an image, of its results, of all places and of all filters, and of these with what is filled up. */
static Size image_size(const Shape *shape) { return shape->height * shape->width * shape->given_inputs; }
static Size padded_size(const Shape *shape) { return shape->padded_height * shape->padded_width * shape->inputs; }
static Size result_size(const Shape *shape) { return shape->down * shape->right * shape->given_outputs; }
static Size filled_result_size(const Shape *shape) { return shape->down * shape->right * shape->outputs; }
static Size places_size(const Shape *shape) { return (shape->pool - 1) * shape->examples * filled_result_size(shape); }
static Size filters_size(const Shape *shape) { return shape->given_outputs * shape->side * shape->side * shape->given_inputs; }
static Size filled_filters_size(const Shape *shape) { return shape->outputs * shape->side * shape->side * shape->inputs; }

typedef struct {
    Shape shape;
    const float *images, *filters, *shift; /* shift: [outputs], what is added to each output */
    float *results, *places;               /* places: which of 2 x 2 was the greatest, 0 to 3, of outputs that are filled up */
    const float *slopes;                   /* derivatives by the results */
    float *gradient, *below;               /* derivatives by the filters, and by the images, NULL where not wanted */
    /* working memory */
    float *filled_filters, *filled_shift, *filled_results; /* the last of one image: its results, or the derivatives by them */
    float *padded, *padded_below; /* an image with its padding, and the derivatives by it */
    float *at_inputs, *at_outputs; /* [POINTS, tiles, channels]: what tiles are at the points */
    float *at_filters;             /* [POINTS, outputs, inputs]: what filters, or the derivatives by them, are there */
    float *turned;                 /* [POINTS, inputs, outputs], or filters [side, side, inputs, outputs] */
    float *convolved;              /* [rows, columns, outputs] of one image, or the derivatives by it */
} Job;

/* Rows of so many numbers, which begin from_row and to_row numbers apart. */
static void copy_rows(Size rows, Size numbers, const float *from, Size from_row, float *to, Size to_row)
{
    if (numbers == from_row && numbers == to_row)
        memcpy(to, from, rows * numbers * sizeof(float));
    else
        for (Size row = 0; row < rows; row++)
            memcpy(to + row * to_row, from + row * from_row, numbers * sizeof(float));
}

/* Puts an image into the padded one, which is of zeros or another image. */
static void pad(const Job *job, Size at)
{
    const Shape *shape = &job->shape;
    const float *image = job->images + at * image_size(shape);
    for (Size y = 0; y < shape->shown_height; y++)
        copy_rows(shape->shown_width, shape->given_inputs, image + y * shape->width * shape->given_inputs, shape->given_inputs,
                  job->padded + ((y + shape->padding) * shape->padded_width + shape->padding) * shape->inputs, shape->inputs);
}

/* Takes the derivatives by it out: those by what did not fit are 0. */
static void take_out(const Job *job, Size at)
{
    const Shape *shape = &job->shape;
    float *image = job->below + at * image_size(shape);
    if (shape->shown_height < shape->height || shape->shown_width < shape->width)
        memset(image, 0, image_size(shape) * sizeof(float));
    for (Size y = 0; y < shape->shown_height; y++)
        copy_rows(shape->shown_width, shape->given_inputs,
                  job->padded_below + ((y + shape->padding) * shape->padded_width + shape->padding) * shape->inputs, shape->inputs,
                  image + y * shape->width * shape->given_inputs, shape->given_inputs);
}

/* Filters and shift filled up with zeros. */
static void fill_up(Job *job)
{
    const Shape *shape = &job->shape;
    const Size pixels = shape->side * shape->side;
    memset(job->filled_filters, 0, filled_filters_size(shape) * sizeof(float));
    copy_rows(shape->given_outputs * pixels, shape->given_inputs, job->filters, shape->given_inputs, job->filled_filters, shape->inputs);
    if (job->shift) {
        memset(job->filled_shift, 0, shape->outputs * sizeof(float));
        memcpy(job->filled_shift, job->shift, shape->given_outputs * sizeof(float));
    }
    memset(job->filled_results, 0, filled_result_size(shape) * sizeof(float));
    memset(job->padded, 0, padded_size(shape) * sizeof(float));
}

/* Takes the results of an image out of those that are filled up. */
static void take_results(const Job *job, Size image)
{
    const Shape *shape = &job->shape;
    copy_rows(shape->down * shape->right, shape->given_outputs, job->filled_results, shape->outputs,
              job->results + image * result_size(shape), shape->given_outputs);
}

/* Puts the derivatives by the results of an image where these were: what is filled up stays 0. */
static void fill_slopes(const Job *job, Size image)
{
    const Shape *shape = &job->shape;
    copy_rows(shape->down * shape->right, shape->given_outputs, job->slopes + image * result_size(shape), shape->given_outputs,
              job->filled_results, shape->outputs);
}

/* columns [width, height] of rows [height, width] */
static void turn(Size height, Size width, const float *rows, float *columns)
{
    for (Size x = 0; x < width; x++)
        for (Size y = 0; y < height; y++)
            columns[x * height + y] = rows[y * width + x];
}

#if HAS_KERNELS
/* The points ±A and ±B, and what a polynomial is divided by there: the product of the distances to the other points but infinity. */
#define A 0.75f
#define B 1.5f
#define AT_0 (A * A * B * B)
#define AT_A (2 * A * A * (A * A - B * B))
#define AT_B (2 * B * B * (B * B - A * A))

#define OF(NAME) NAME##_avx512
#define TARGET "avx512f"
#define VECTOR __m512
#define OP(OPERATION) _mm512_##OPERATION##_ps
#define MOST_ROWS 14 /* of a product: with two vectors each, and those that are multiplied, all registers */
#define WHERE(TEST, X, Y) _mm512_cmp_ps_mask(X, Y, TEST)
#define EITHER(M, N) ((__mmask16)((M) | (N)))
#define CHOICE(M, X, Y) _mm512_mask_mov_ps(Y, M, X)
#include "_convolutions_kernel.h"

#define OF(NAME) NAME##_avx2
#define TARGET "avx2,fma"
#define VECTOR __m256
#define OP(OPERATION) _mm256_##OPERATION##_ps
#define MOST_ROWS 6
#define WHERE(TEST, X, Y) _mm256_cmp_ps(X, Y, TEST)
#define EITHER(M, N) _mm256_or_ps(M, N)
#define CHOICE(M, X, Y) _mm256_blendv_ps(Y, X, M)
#include "_convolutions_kernel.h"
#else
static void forward_avx512(Job *job) {}
static void forward_avx2(Job *job) {}
static void backward_avx512(Job *job) {}
static void backward_avx2(Job *job) {}
#endif

/* Does the job by a kernel, in working memory of its own; 0 where there is not enough. */
static int work(Job *job, void (*kernel)(Job *))
{
    const Shape *shape = &job->shape;
    const Size tiles = by_tiles(shape), all = POINTS * shape->inputs * shape->outputs;
    const struct {
        float **memory;
        Size numbers;
    } parts[] = {
        {&job->filled_filters, filled_filters_size(shape)},
        {&job->filled_shift, shape->outputs},
        {&job->filled_results, filled_result_size(shape)},
        {&job->padded, padded_size(shape)},
        {&job->padded_below, tiles * padded_size(shape)},
        {&job->at_inputs, tiles * POINTS * shape->plane_in},
        {&job->at_outputs, tiles * POINTS * shape->plane_out},
        {&job->at_filters, tiles * all},
        {&job->turned, tiles ? all : filled_filters_size(shape)},
        {&job->convolved, tiles ? 0 : shape->rows * shape->columns * shape->outputs},
    };
    const int count = sizeof(parts) / sizeof(parts[0]);
    Size total = 0;
    void *memory;

    for (int part = 0; part < count; part++)
        total += strips(parts[part].numbers);
    if (posix_memalign(&memory, STRIP * sizeof(float), total * sizeof(float)))
        return 0;
    total = 0;
    for (int part = 0; part < count; part++) {
        *parts[part].memory = (float *)memory + total;
        total += strips(parts[part].numbers);
    }
    kernel(job);
    free(memory);
    return 1;
}

typedef struct {
    const char *name;
    Size numbers;
} Need;

/* The name of what does not fit, or NULL: the kernel, then the sizes of buffers. */
static const char *unfit(int has_kernel, const Py_buffer *given, const Need *needs, int count)
{
    if (!has_kernel)
        return "processor";
    for (int at = 0; at < count; at++)
        if (given[at].len != needs[at].numbers * (Size)sizeof(float))
            return needs[at].name;
    return NULL;
}

static PyObject *done(const char *name, const char *wrong, int worked, Py_buffer *buffers, int count)
{
    for (int buffer = 0; buffer < count; buffer++)
        PyBuffer_Release(&buffers[buffer]);
    if (wrong)
        return PyErr_Format(PyExc_ValueError, "%s: %s does not fit", name, wrong);
    if (!worked)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Where eight numbers of a tuple go. */
#define SIZES(SHAPE)                                                                                                        \
    &(SHAPE).examples, &(SHAPE).given_inputs, &(SHAPE).given_outputs, &(SHAPE).height, &(SHAPE).width, &(SHAPE).side, \
        &(SHAPE).padding, &(SHAPE).pool

PyDoc_STRVAR(forward_doc,
             "forward(processor, shape, images, filters, shift, results, places)\n\n"
             "shape: examples n, inputs, outputs, height, width, side, padding, pool. All float32: images [n, height, width, inputs], filters\n"
             "[outputs, side, side, inputs] and shift [outputs] to results [n, down, right, outputs] and, where pool is 2, places [n, down,\n"
             "right, outputs up to a multiple of STRIP]: which of 2 x 2 pixels was the greatest, 0 to 3. processor: one of PROCESSORS.\n"
             "ValueError if something does not fit.");

static PyObject *forward(PyObject *module, PyObject *arguments)
{
    Py_buffer given[5];
    Job job = {0};
    const char *processor, *wrong;
    int worked = 0;

    if (!PyArg_ParseTuple(arguments, "s(nnnnnnnn)y*y*y*w*w*", &processor, SIZES(job.shape), &given[0], &given[1], &given[2], &given[3],
                          &given[4]))
        return NULL;
    const Shape *shape = &job.shape;
    void (*kernel)(Job *) = KERNEL(processor, forward_avx512, forward_avx2);
    wrong = fill(&job.shape);
    if (!wrong) {
        const Need needs[] = {
            {"images", shape->examples * image_size(shape)},
            {"filters", filters_size(shape)},
            {"shift", shape->given_outputs},
            {"results", shape->examples * result_size(shape)},
            {"places", places_size(shape)},
        };
        wrong = unfit(kernel != NULL, given, needs, 5);
    }
    if (!wrong) {
        job.images = given[0].buf, job.filters = given[1].buf, job.shift = given[2].buf;
        job.results = given[3].buf, job.places = given[4].buf;
        Py_BEGIN_ALLOW_THREADS
        worked = work(&job, kernel);
        Py_END_ALLOW_THREADS
    }
    return done("forward", wrong, worked, given, 5);
}

PyDoc_STRVAR(backward_doc,
             "backward(processor, shape, images, filters, places, slopes, gradient, below)\n\n"
             "From slopes, derivatives by the results of `forward`, whose shape, images, filters and places are given, to gradient, those by the\n"
             "filters, and below, those by the images, which is of no numbers where not wanted, as it must not be for up to FEW inputs and\n"
             "for filters other than 3 x 3 and 5 x 5. ValueError if something does not fit.");

static PyObject *backward(PyObject *module, PyObject *arguments)
{
    Py_buffer given[6];
    Job job = {0};
    const char *processor, *wrong;
    int worked = 0;

    if (!PyArg_ParseTuple(arguments, "s(nnnnnnnn)y*y*y*y*w*w*", &processor, SIZES(job.shape), &given[0], &given[1], &given[2], &given[3],
                          &given[4], &given[5]))
        return NULL;
    const Shape *shape = &job.shape;
    void (*kernel)(Job *) = KERNEL(processor, backward_avx512, backward_avx2);
    wrong = fill(&job.shape);
    if (!wrong) {
        const Need needs[] = {
            {"images", shape->examples * image_size(shape)},
            {"filters", filters_size(shape)},
            {"places", places_size(shape)},
            {"slopes", shape->examples * result_size(shape)},
            {"gradient", filters_size(shape)},
            {"below", given[5].len && by_tiles(shape) ? shape->examples * image_size(shape) : 0},
        };
        wrong = unfit(kernel != NULL, given, needs, 6);
    }
    if (!wrong) {
        job.images = given[0].buf, job.filters = given[1].buf, job.places = given[2].buf, job.slopes = given[3].buf;
        job.gradient = given[4].buf, job.below = given[5].len ? given[5].buf : NULL;
        Py_BEGIN_ALLOW_THREADS
        worked = work(&job, kernel);
        Py_END_ALLOW_THREADS
    }
    return done("backward", wrong, worked, given, 6);
}

static PyMethodDef methods[] = {
    {"forward", forward, METH_VARARGS, forward_doc},
    {"backward", backward, METH_VARARGS, backward_doc},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_convolutions", "Convolutions and their gradients.", -1, methods};

/* STRIP: places are of a multiple of it; FEW: channels of data; MOST_SIDE: of filters. */
PyMODINIT_FUNC PyInit__convolutions(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && (add_processors(module) < 0 || PyModule_AddIntConstant(module, "STRIP", STRIP) < 0 ||
                   PyModule_AddIntConstant(module, "FEW", FEW) < 0 || PyModule_AddIntConstant(module, "MOST_SIDE", MOST_SIDE) < 0))
        Py_CLEAR(module);
    return module;
}
