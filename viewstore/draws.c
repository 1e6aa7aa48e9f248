/* Philox words and the order of an epoch, many at once, without the interpreter's lock.
 *
 * What is computed is written down in docs/format.md, section 7; randomness.py and
 * loaders/plan/order.py compute it themselves where there was no C compiler. All are integers, so
 * that the results are the same.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define ALSO_FOR_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define ALSO_FOR_AVX2
#endif

#define AT_ONCE 256 /* counters or numbers whose scratch stays in the fastest cache */
#define PHILOX_ROUNDS 10
#define MOST_ROUNDS 64 /* of the order */

typedef struct {
    uint32_t words[4][AT_ONCE];
} Block;

/* Turns counters into words in place; all of a block, however few of them are asked for. */
ALSO_FOR_AVX2
static void turn(Block *restrict block, uint32_t low, uint32_t high)
{
    uint32_t *restrict c0 = block->words[0], *restrict c1 = block->words[1];
    uint32_t *restrict c2 = block->words[2], *restrict c3 = block->words[3];
    for (int i = 0; i < AT_ONCE; i++) {
        uint32_t a = c0[i], b = c1[i], c = c2[i], d = c3[i], k0 = low, k1 = high;
        for (int round = 0; round < PHILOX_ROUNDS; round++) {
            uint64_t first = (uint64_t)a * 0xD2511F53u, second = (uint64_t)c * 0xCD9E8D57u;
            a = (uint32_t)(second >> 32) ^ b ^ k0;
            c = (uint32_t)(first >> 32) ^ d ^ k1;
            b = (uint32_t)second;
            d = (uint32_t)first;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        c0[i] = a, c1[i] = b, c2[i] = c, c3[i] = d;
    }
}

static void fill_words(uint32_t low, uint32_t high, uint32_t op, const uint64_t *rows,
                       const uint64_t *views, Py_ssize_t count, uint32_t first, int blocks,
                       uint32_t *out)
{
    Block block;
    for (Py_ssize_t begin = 0; begin < count; begin += AT_ONCE) {
        int here = (int)(count - begin < AT_ONCE ? count - begin : AT_ONCE);
        for (int number = 0; number < blocks; number++) {
            for (int i = 0; i < AT_ONCE; i++) {
                Py_ssize_t source = begin + (i < here ? i : 0);
                block.words[0][i] = first + number;
                block.words[1][i] = op | (uint32_t)views[source] << 16;
                block.words[2][i] = (uint32_t)rows[source];
                block.words[3][i] = (uint32_t)(rows[source] >> 32);
            }
            turn(&block, low, high);
            for (int i = 0; i < here; i++)
                for (int word = 0; word < 4; word++)
                    out[((begin + i) * blocks + number) * 4 + word] = block.words[word][i];
        }
    }
}

typedef struct {
    uint64_t size;
    int low_bits, high_bits, rounds;
    uint32_t keys[MOST_ROUNDS];
} Order;

static inline uint32_t mix(uint32_t x, uint32_t key)
{
    x ^= key;
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ x >> 16;
}

ALSO_FOR_AVX2
static void feistel(const Order *order, uint32_t *restrict high, uint32_t *restrict low)
{
    uint32_t high_mask = (uint32_t)((1ull << order->high_bits) - 1);
    uint32_t low_mask = (uint32_t)((1ull << order->low_bits) - 1);
    for (int round = 0; round < order->rounds; round++) {
        uint32_t key = order->keys[round];
        if (round % 2 == 0)
            for (int i = 0; i < AT_ONCE; i++)
                high[i] ^= mix(low[i], key) & high_mask;
        else
            for (int i = 0; i < AT_ONCE; i++)
                low[i] ^= mix(high[i], key) & low_mask;
    }
}

/* Replaces positions by elements, AT_ONCE or fewer; those outside the range go on walking. */
static void walk(const Order *order, int64_t *numbers, int count)
{
    uint32_t high[AT_ONCE] = {0}, low[AT_ONCE] = {0};
    int indices[AT_ONCE];
    uint64_t low_mask = (1ull << order->low_bits) - 1;

    for (int i = 0; i < count; i++)
        indices[i] = i;
    while (count > 0) {
        for (int i = 0; i < count; i++) {
            uint64_t number = (uint64_t)numbers[indices[i]];
            high[i] = (uint32_t)(number >> order->low_bits);
            low[i] = (uint32_t)(number & low_mask);
        }
        feistel(order, high, low);
        int outside = 0;
        for (int i = 0; i < count; i++) {
            uint64_t number = (uint64_t)high[i] << order->low_bits | low[i];
            int index = indices[i];
            numbers[index] = (int64_t)number;
            indices[outside] = index;
            outside += number >= order->size;
        }
        count = outside;
    }
}

static int has(const Py_buffer *buffer, Py_ssize_t bytes, const char *name)
{
    if (buffer->len == bytes)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s must have %zd bytes, got %zd", name, bytes, buffer->len);
    return 0;
}

static PyObject *words(PyObject *module, PyObject *args)
{
    Py_buffer rows, views, out;
    unsigned int low, high, op, first;
    int blocks, done = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "IIIy*y*Iiw*", &low, &high, &op, &rows, &views, &first, &blocks,
                          &out))
        return NULL;
    Py_ssize_t count = rows.len / (Py_ssize_t)sizeof(uint64_t);
    if (blocks < 1 || blocks > 1 << 16)
        PyErr_SetString(PyExc_ValueError, "blocks must be in [1, 65536]");
    else if (has(&rows, count * 8, "rows") && has(&views, rows.len, "views") &&
             has(&out, count * blocks * 16, "out")) {
        Py_BEGIN_ALLOW_THREADS;
        fill_words(low, high, op, rows.buf, views.buf, count, first, blocks, out.buf);
        Py_END_ALLOW_THREADS;
        done = 1;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&views);
    PyBuffer_Release(&out);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *permute(PyObject *module, PyObject *args)
{
    Py_buffer keys, numbers;
    unsigned long long size;
    int done = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "Ky*w*", &size, &keys, &numbers))
        return NULL;
    Py_ssize_t count = numbers.len / (Py_ssize_t)sizeof(int64_t);
    Order order = {.size = size, .rounds = (int)(keys.len / 4)};
    int bits = 0;
    while (bits < 63 && size > 1ull << bits)
        bits++;
    order.low_bits = bits / 2;
    order.high_bits = bits - bits / 2;
    int inside = 1;
    for (Py_ssize_t i = 0; i < count; i++)
        inside &= ((uint64_t *)numbers.buf)[i] < size;
    if (size < 2 || size > 1ull << 62 || keys.len % 4 || keys.len > 4 * MOST_ROUNDS) {
        PyErr_SetString(PyExc_ValueError, "size must be in [2, 2^62], with at most 64 keys");
    } else if (!inside) {
        PyErr_SetString(PyExc_ValueError, "positions must be in [0, size)");
    } else if (has(&numbers, count * 8, "numbers")) {
        memcpy(order.keys, keys.buf, keys.len);
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t begin = 0; begin < count; begin += AT_ONCE)
            walk(&order, (int64_t *)numbers.buf + begin,
                 (int)(count - begin < AT_ONCE ? count - begin : AT_ONCE));
        Py_END_ALLOW_THREADS;
        done = 1;
    }
    PyBuffer_Release(&keys);
    PyBuffer_Release(&numbers);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"words", words, METH_VARARGS, "Fill `out` with the Philox words of rows and views."},
    {"permute", permute, METH_VARARGS, "Replace positions by the elements of a permutation."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "viewstore._draws", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__draws(void)
{
    return PyModuleDef_Init(&definition);
}
