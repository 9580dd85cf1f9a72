/* Weighted sums of rows that are stored in blocks of columns: how the models of a large graph are mixed.
 *
 * Where there is no kernel (see _processors.h), and where this is not built, fedsim.products does the same by torch, with the same bits: a
 * sum starts at 0 and takes one fused multiply-add after the other, in the order of the matrix' entries. This needs less time since rows
 * come into the cache without being copied, and results go to memory past it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_processors.h"

#define LINE 16          /* numbers of a cache line */
#define STRIP (2 * LINE) /* columns that are summed at once */

typedef struct {            /* a sparse matrix [receivers, heard], and the rows that it is multiplied with */
    const float *rows;      /* [blocks, count, width], count >= heard */
    const int32_t *starts;  /* [receivers + 1] */
    const int32_t *senders; /* [entries] */
    const float *weights;   /* [entries] */
    Py_ssize_t count, entries, heard;
} Product;

typedef struct {
    Product first, second;  /* whose results are added; `second.heard` is 0 where nothing is */
    float *results;         /* [blocks, count, width] */
    const int64_t *targets; /* [receivers]: rows of the results */
    Py_ssize_t blocks, width, count, receivers;
} Job;

#if HAS_KERNELS

/* Rows that are read in the order of memory come sooner than in that of the entries. */
static inline void read_in(const float *rows, Py_ssize_t numbers)
{
    for (Py_ssize_t number = 0; number < numbers; number += LINE)
        (void)*(const volatile float *)(rows + number);
}

#define NAME average_avx512
#define TARGET "avx512f"
#define VECTOR __m512
#define OP(OPERATION) _mm512_##OPERATION##_ps
#include "_products_kernel.h"

#define NAME average_avx2
#define TARGET "avx2,fma"
#define VECTOR __m256
#define OP(OPERATION) _mm256_##OPERATION##_ps
#include "_products_kernel.h"
#else
static int average_avx512(const Job *job) { return 0; }
static int average_avx2(const Job *job) { return 0; }
#endif

static int all_below(const int32_t *numbers, Py_ssize_t count, Py_ssize_t limit)
{
    for (Py_ssize_t at = 0; at < count; at++)
        if (numbers[at] < 0 || numbers[at] >= limit)
            return 0;
    return 1;
}

/* Fills in a product from the memory of its rows, starts, senders and weights; gives the name of what does not fit, or NULL. */
static const char *fill(Product *product, const Py_buffer *given, const Job *job)
{
    const Py_ssize_t row = job->blocks * job->width * (Py_ssize_t)sizeof(float);
    product->rows = given[0].buf, product->starts = given[1].buf, product->senders = given[2].buf, product->weights = given[3].buf;
    product->count = given[0].len / row;
    product->entries = given[2].len / (Py_ssize_t)sizeof(int32_t);
    if (given[0].len % row)
        return "rows";
    if (given[1].len != (job->receivers + 1) * (Py_ssize_t)sizeof(int32_t) || !all_below(product->starts, job->receivers + 1, product->entries + 1))
        return "starts";
    for (Py_ssize_t at = 0; at < job->receivers; at++)
        if (product->starts[at] > product->starts[at + 1])
            return "starts";
    if (!all_below(product->senders, product->entries, product->count))
        return "senders";
    if (given[3].len != product->entries * (Py_ssize_t)sizeof(float))
        return "weights";
    for (Py_ssize_t at = 0; at < product->entries; at++)
        if (product->heard <= product->senders[at])
            product->heard = product->senders[at] + 1;
    return NULL;
}

static const char *fill_job(Job *job, const Py_buffer *results, const Py_buffer *targets, const Py_buffer *first, const Py_buffer *second)
{
    const char *wrong;
    if (job->width < STRIP || job->width % STRIP)
        return "width";
    if (job->blocks < 1 || job->blocks > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(float) / job->width)
        return "blocks";
    job->results = results->buf, job->targets = targets->buf;
    job->count = results->len / (job->blocks * job->width * (Py_ssize_t)sizeof(float));
    job->receivers = targets->len / (Py_ssize_t)sizeof(int64_t);
    if (results->len != job->blocks * job->width * job->count * (Py_ssize_t)sizeof(float) || (uintptr_t)job->results % 64)
        return "results";
    for (Py_ssize_t at = 0; at < job->receivers; at++)
        if (job->targets[at] < 0 || job->targets[at] >= job->count)
            return "targets";
    wrong = fill(&job->first, first, job);
    return wrong || !second->buf ? wrong : fill(&job->second, second, job);
}

PyDoc_STRVAR(average_doc,
             "average(processor, results, targets, blocks, width, first, second) -> whether all results are finite.\n\n"
             "results: float32 [blocks, R, width], of which rows `targets`, int64 [r], are written; first, second: (rows, starts, senders,\n"
             "weights), float32 [blocks, S, width], int32 [r + 1], int32 [entries] and float32 [entries], or second four times None.\n"
             "processor: one of PROCESSORS. ValueError if sizes do not fit, or results do not begin with a cache line of 64 bytes.");

static PyObject *average(PyObject *module, PyObject *arguments)
{
    Py_buffer results, targets, first[4], second[4];
    Job job = {0};
    const char *processor, *wrong;
    int finite = 1;

    if (!PyArg_ParseTuple(arguments, "sw*y*nn(y*y*y*y*)(z*z*z*z*)", &processor, &results, &targets, &job.blocks, &job.width, &first[0], &first[1],
                          &first[2], &first[3], &second[0], &second[1], &second[2], &second[3]))
        return NULL;
    wrong = fill_job(&job, &results, &targets, first, second);
    if (!wrong) {
        int (*kernel)(const Job *) = KERNEL(processor, average_avx512, average_avx2);
        if (kernel) {
            Py_BEGIN_ALLOW_THREADS
            finite = kernel(&job);
            Py_END_ALLOW_THREADS
        } else
            wrong = "processor";
    }
    PyBuffer_Release(&results);
    PyBuffer_Release(&targets);
    for (int part = 0; part < 4; part++) {
        PyBuffer_Release(&first[part]);
        PyBuffer_Release(&second[part]);
    }
    if (wrong)
        return PyErr_Format(PyExc_ValueError, "average: %s does not fit", wrong);
    return PyBool_FromLong(finite);
}

static PyMethodDef methods[] = {{"average", average, METH_VARARGS, average_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_products", "Weighted sums of rows in blocks of columns.", -1, methods};

/* STRIP: a width is a multiple of it. */
PyMODINIT_FUNC PyInit__products(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && (add_processors(module) < 0 || PyModule_AddIntConstant(module, "STRIP", STRIP) < 0))
        Py_CLEAR(module);
    return module;
}
