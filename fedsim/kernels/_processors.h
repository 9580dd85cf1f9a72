/* Which kernels there are, and which of them this processor can run: for Linux on x86-64, for AVX-512 and for AVX2 with FMA. */

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_KERNELS 1
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define HAS_AVX512 (HAS_AVX2 && __builtin_cpu_supports("avx512f"))
#else
#define HAS_KERNELS 0
#define HAS_AVX2 0
#define HAS_AVX512 0
#endif

/* The one of two kernels that is meant, NULL where this processor lacks it. */
#define KERNEL(PROCESSOR, OF_AVX512, OF_AVX2) \
    (HAS_AVX512 && !strcmp(PROCESSOR, "avx512") ? OF_AVX512 : HAS_AVX2 && !strcmp(PROCESSOR, "avx2") ? OF_AVX2 : NULL)

/* PROCESSORS of a module: those with a kernel that this one can run, the fastest first. */
static inline int add_processors(PyObject *module)
{
    PyObject *processors = HAS_AVX512 ? Py_BuildValue("(ss)", "avx512", "avx2") : HAS_AVX2 ? Py_BuildValue("(s)", "avx2") : PyTuple_New(0);
    const int failed = PyModule_AddObjectRef(module, "PROCESSORS", processors);
    Py_XDECREF(processors);
    return failed;
}
