/* Cuts crops out of an image, resized and mirrored, without the interpreter's lock.
 *
 * The pixels are those of OpenCV's INTER_AREA and INTER_LINEAR to the last bit, so that a store
 * built with the one is rebuilt with the other: sums are taken in OpenCV's order, in float32 for
 * areas and in its fixed point for linear interpolation. What is faster is that a pixel's three
 * channels are computed side by side, a row met by two rows of the view is summed once, and a
 * mirrored view is written from right to left. Compile without contraction into fused
 * multiply-adds, which round once where OpenCV rounds twice. Only blocks of more than 65,793 whole
 * pixels, whose sums pass 2^24, may be rounded to the level beside OpenCV's.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CHANNELS 3
#define MOST_SIDE (1 << 20) /* pixels; the sizes of all scratch memory fit an int */

/* A version for AVX2 beside the plain one, chosen as the module loads. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define ALSO_FOR_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define ALSO_FOR_AVX2
#endif
#define INLINE static inline __attribute__((always_inline))

/* Four neighbouring floats: a pixel, and the first channel of the next one. */
typedef float lanes __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
    const uint8_t *source; /* the crop's first pixel */
    Py_ssize_t stride;     /* bytes from one of its rows to the next */
    int height, width;     /* of the crop, in pixels */
    uint8_t *view;         /* where the view goes, row after row; it meets the image nowhere */
    int view_height, view_width;
    int mirrored;
    int by_area; /* average over areas where both sides shrink, as OpenCV can */
} Crop;

/* How one side shrinks or grows: `taps` neighbours, with their weights, for each pixel. */
typedef struct {
    int taps;
    int *first;
    float *weights;
} Axis;

/* The share of each pixel in the interval that one pixel of the view covers. */
static void fill_area(Axis axis, int from, int to)
{
    double scale = 1.0 / ((double)to / from);
    for (int index = 0; index < to; index++) {
        double begin = index * scale, end = begin + scale;
        double length = fmin(scale, from - begin);
        int last = (int)fmin(floor(end), from - 1);
        int whole = (int)fmin(ceil(begin), last);
        float *weights = axis.weights + (size_t)index * axis.taps;
        int count = 0;

        memset(weights, 0, axis.taps * sizeof(float));
        axis.first[index] = whole;
        if (whole - begin > 1e-3) {
            axis.first[index] = whole - 1;
            weights[count++] = (float)((whole - begin) / length);
        }
        for (int pixel = whole; pixel < last && count < axis.taps; pixel++)
            weights[count++] = (float)(1.0 / length);
        if (end - last > 1e-3 && count < axis.taps)
            weights[count++] = (float)(fmin(fmin(end - last, 1.0), length) / length);
    }
}

/* Whole blocks: a sum of whole numbers, to be divided at the end. */
static void fill_blocks(Axis axis, int size, int to)
{
    for (int index = 0; index < to; index++) {
        axis.first[index] = index * size;
        for (int tap = 0; tap < size; tap++)
            axis.weights[(size_t)index * axis.taps + tap] = 1;
    }
}

/* Two neighbours of each pixel's middle, weighted in steps of 1/2048.
 *
 * `clamped` moves the outermost to the border's pixel; else, as OpenCV has it for rows, both
 * neighbours keep their weights, and it is for the caller to find them inside.
 */
static void fill_linear(Axis axis, int from, int to, int clamped)
{
    double scale = 1.0 / ((double)to / from);
    for (int index = 0; index < to; index++) {
        float middle = (float)((index + 0.5) * scale - 0.5);
        int first = (int)floorf(middle);
        float share = middle - first;

        if (clamped && (first < 0 || first >= from - 1)) {
            first = first < 0 ? 0 : from - 1;
            share = 0;
        }
        axis.first[index] = first;
        axis.weights[2 * index] = rintf((1.0f - share) * 2048);
        axis.weights[2 * index + 1] = rintf(share * 2048);
    }
}

INLINE void sum_taps(const float *restrict line, Axis axis, int count, int mirrored,
                     float *restrict row, const int taps)
{
    const int step = mirrored ? -1 : 1;
    const int *first = axis.first + (mirrored ? count - 1 : 0);
    const float *weights = axis.weights + (size_t)taps * (mirrored ? count - 1 : 0);
    for (int index = 0; index < count; index++) {
        const float *pixel = line + CHANNELS * *first;
        lanes sum = weights[0] * *(const lanes *)pixel;
        for (int tap = 1; tap < taps; tap++)
            sum += weights[tap] * *(const lanes *)(pixel + CHANNELS * tap);
        *(lanes *)row = sum;
        row += CHANNELS;
        first += step;
        weights += step * taps;
    }
}

/* One row of the crop, resized to the width of the view; `line` is scratch. */
ALSO_FOR_AVX2
static void across(const uint8_t *restrict source, int width, Axis axis, int count, int mirrored,
                   float *restrict line, float *restrict row)
{
    for (int i = 0; i < width * CHANNELS; i++)
        line[i] = source[i];
    switch (axis.taps) { /* loops of known length */
    case 2:
        sum_taps(line, axis, count, mirrored, row, 2);
        break;
    case 3:
        sum_taps(line, axis, count, mirrored, row, 3);
        break;
    case 4:
        sum_taps(line, axis, count, mirrored, row, 4);
        break;
    default:
        sum_taps(line, axis, count, mirrored, row, axis.taps);
    }
}

ALSO_FOR_AVX2
static void add_row(const float *restrict row, float weight, float *restrict sum, int count)
{
    for (int i = 0; i < count; i++)
        sum[i] += weight * row[i];
}

/* To the nearest, and of two to the even one: the last bits of a number so large are the whole. */
ALSO_FOR_AVX2
static void round_row(const float *restrict sum, float share, float more, uint8_t *restrict view,
                      int count)
{
    for (int i = 0; i < count; i++) {
        float shifted = (sum[i] * share + more) + 12582912.0f;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        view[i] = (uint8_t)bits;
    }
}

ALSO_FOR_AVX2
static void cut_to_shorts(const float *restrict row, int16_t *restrict shorts, int count)
{
    for (int i = 0; i < count; i++)
        shorts[i] = (int16_t)((int32_t)row[i] >> 4);
}

ALSO_FOR_AVX2
static void blend_rows(const int16_t *restrict upper, const int16_t *restrict lower, int16_t above,
                       int16_t below, uint8_t *restrict view, int count)
{
    for (int i = 0; i < count; i++) {
        int16_t sum = (int16_t)(upper[i] * above >> 16) + (int16_t)(lower[i] * below >> 16);
        view[i] = (uint8_t)((sum + 2) >> 2);
    }
}

/* Scratch memory of one crop. */
typedef struct {
    Axis across, down;
    float *line;       /* a row of the crop */
    float *row;        /* one of the view's width */
    float *sum;        /* of such rows */
    int16_t *blend[2]; /* such rows in fixed point */
    void *memory;
} Scratch;

/* Whether every pixel of the view stands for a whole number of pixels, both ways. */
static int in_blocks(const Crop *crop)
{
    return crop->height % crop->view_height == 0 && crop->width % crop->view_width == 0;
}

static int most_taps(int from, int to, int by_area)
{
    return by_area ? (int)ceil((double)from / to) + 1 : 2;
}

static int take_scratch(const Crop *crop, int by_area, Scratch *scratch)
{
    size_t height = crop->view_height, width = crop->view_width;
    scratch->across.taps = most_taps(crop->width, crop->view_width, by_area);
    scratch->down.taps = most_taps(crop->height, crop->view_height, by_area);
    /* Weights of nothing meet what lies behind the last pixel. */
    size_t line = (size_t)(crop->width + scratch->across.taps + 1) * CHANNELS;
    size_t row = (width + 1) * CHANNELS;
    size_t words = width * (scratch->across.taps + 1) + height * (scratch->down.taps + 1)
                   + line + 3 * row;

    float *next = scratch->memory = PyMem_RawCalloc(words, sizeof(float));
    if (next == NULL)
        return 0;
    scratch->across.weights = next, next += width * scratch->across.taps;
    scratch->down.weights = next, next += height * scratch->down.taps;
    scratch->across.first = (int *)next, next += width;
    scratch->down.first = (int *)next, next += height;
    scratch->line = next, next += line;
    scratch->row = next, next += row;
    scratch->sum = next, next += row;
    scratch->blend[0] = (int16_t *)next;
    scratch->blend[1] = scratch->blend[0] + row;
    return 1;
}

static void average_areas(const Crop *crop, Scratch *scratch)
{
    int count = crop->view_width * CHANNELS, held = -1;
    int block_height = crop->height / crop->view_height;
    int block_width = crop->width / crop->view_width;
    float share = 1, more = 0;
    if (in_blocks(crop)) {
        fill_blocks(scratch->across, block_width, crop->view_width);
        fill_blocks(scratch->down, block_height, crop->view_height);
        share = 1.0f / ((float)block_height * block_width);
        /* There OpenCV rounds halves up. */
        more = block_height == 2 && block_width == 2 ? 0.125f : 0;
    } else {
        fill_area(scratch->across, crop->width, crop->view_width);
        fill_area(scratch->down, crop->height, crop->view_height);
    }
    for (int y = 0; y < crop->view_height; y++) {
        const float *weights = scratch->down.weights + (size_t)y * scratch->down.taps;
        memset(scratch->sum, 0, count * sizeof(float));
        for (int tap = 0; tap < scratch->down.taps && weights[tap] > 0; tap++) {
            int from = scratch->down.first[y] + tap;
            if (from != held)
                across(crop->source + from * crop->stride, crop->width, scratch->across,
                       crop->view_width, crop->mirrored, scratch->line, scratch->row);
            held = from;
            add_row(scratch->row, weights[tap], scratch->sum, count);
        }
        round_row(scratch->sum, share, more, crop->view + (size_t)y * count, count);
    }
}

static void interpolate(const Crop *crop, Scratch *scratch)
{
    int count = crop->view_width * CHANNELS, held[2] = {-1, -1};
    fill_linear(scratch->across, crop->width, crop->view_width, 1);
    fill_linear(scratch->down, crop->height, crop->view_height, 0);
    for (int y = 0; y < crop->view_height; y++) {
        const int16_t *rows[2];
        for (int tap = 0; tap < 2; tap++) {
            int from = scratch->down.first[y] + tap;
            from = from < 0 ? 0 : from >= crop->height ? crop->height - 1 : from;
            /* Two neighbours differ in their last bit. */
            int16_t *shorts = scratch->blend[from % 2];
            if (held[from % 2] != from) {
                across(crop->source + from * crop->stride, crop->width, scratch->across,
                       crop->view_width, crop->mirrored, scratch->line, scratch->row);
                cut_to_shorts(scratch->row, shorts, count);
            }
            held[from % 2] = from;
            rows[tap] = shorts;
        }
        const float *weights = scratch->down.weights + 2 * (size_t)y;
        blend_rows(rows[0], rows[1], (int16_t)weights[0], (int16_t)weights[1],
                   crop->view + (size_t)y * count, count);
    }
}

/* As large as the view: nothing is computed. */
static void copy(const Crop *crop)
{
    size_t bytes = (size_t)crop->width * CHANNELS;
    for (int y = 0; y < crop->height; y++) {
        const uint8_t *from = crop->source + y * crop->stride;
        uint8_t *to = crop->view + y * bytes;
        if (!crop->mirrored) {
            memcpy(to, from, bytes);
            continue;
        }
        for (const uint8_t *pixel = from + bytes; pixel > from; to += CHANNELS) {
            pixel -= CHANNELS;
            to[0] = pixel[0], to[1] = pixel[1], to[2] = pixel[2];
        }
    }
}

/* Returns 0 where there is no memory. */
static int resize(const Crop *crop)
{
    int shrinks = crop->height >= crop->view_height && crop->width >= crop->view_width;
    int halves = crop->height == 2 * crop->view_height && crop->width == 2 * crop->view_width;
    int by_area = (crop->by_area && shrinks) || halves;
    Scratch scratch;

    if (crop->height == crop->view_height && crop->width == crop->view_width) {
        copy(crop);
        return 1;
    }
    if (!take_scratch(crop, by_area, &scratch))
        return 0;
    if (by_area)
        average_areas(crop, &scratch);
    else
        interpolate(crop, &scratch);
    PyMem_RawFree(scratch.memory);
    return 1;
}

static int fits(const Py_buffer *buffer)
{
    return buffer->ndim == 3 && buffer->itemsize == 1 && buffer->shape[2] == CHANNELS &&
           buffer->shape[0] >= 1 && buffer->shape[0] <= MOST_SIDE && buffer->shape[1] >= 1 &&
           buffer->shape[1] <= MOST_SIDE;
}

/* Reads four whole numbers, the box of a crop, from a sequence of any numbers. */
static int read_box(PyObject *given, int box[4])
{
    PyObject *numbers = PySequence_Fast(given, "a box must be a sequence");
    int read = 0;

    if (numbers == NULL)
        return 0;
    if (PySequence_Fast_GET_SIZE(numbers) != 4)
        PyErr_SetString(PyExc_ValueError, "a box must be top, left, height, width");
    else
        for (; read < 4; read++) {
            double number = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(numbers, read));
            if (number == -1.0 && PyErr_Occurred())
                break;
            if (!(number >= 0 && number <= MOST_SIDE && number == floor(number))) {
                PyErr_SetString(PyExc_ValueError, "a box must be of whole pixels");
                break;
            }
            box[read] = (int)number;
        }
    Py_DECREF(numbers);
    return read == 4;
}

/* Reads one crop as Python has it; its view's buffer is the caller's to release. */
static int read_crop(PyObject *item, const Py_buffer *image, Crop *crop, Py_buffer *view)
{
    PyObject *given_view, *given_box;
    int box[4];

    if (!PyArg_ParseTuple(item, "OOpp", &given_view, &given_box, &crop->mirrored, &crop->by_area))
        return 0;
    if (!read_box(given_box, box) || PyObject_GetBuffer(given_view, view, PyBUF_CONTIG) < 0)
        return 0;
    if (!fits(view)) {
        PyErr_SetString(PyExc_ValueError, "a view must be uint8 [h, w, 3]");
    } else if (box[2] < 1 || box[3] < 1 || box[0] + box[2] > image->shape[0] ||
               box[1] + box[3] > image->shape[1]) {
        PyErr_Format(PyExc_ValueError, "box %d, %d, %d, %d must lie within the image, %zd x %zd",
                     box[0], box[1], box[2], box[3], image->shape[0], image->shape[1]);
    } else {
        crop->source = (uint8_t *)image->buf + box[0] * image->strides[0] + box[1] * CHANNELS;
        crop->stride = image->strides[0];
        crop->height = box[2];
        crop->width = box[3];
        crop->view = view->buf;
        crop->view_height = (int)view->shape[0];
        crop->view_width = (int)view->shape[1];
        return 1;
    }
    PyBuffer_Release(view);
    return 0;
}

static int cut_all(const Py_buffer *image, PyObject *items)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items), read = 0;
    Crop *crops = PyMem_New(Crop, count);
    Py_buffer *views = PyMem_New(Py_buffer, count);
    int done = 0;

    if (crops == NULL || views == NULL)
        PyErr_NoMemory();
    else
        while (read < count && read_crop(PySequence_Fast_GET_ITEM(items, read), image,
                                         &crops[read], &views[read]))
            read++;
    if (!PyErr_Occurred()) {
        done = 1;
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count && done; i++)
            done = resize(&crops[i]);
        Py_END_ALLOW_THREADS;
        if (!done)
            PyErr_NoMemory();
    }
    while (read > 0)
        PyBuffer_Release(&views[--read]);
    PyMem_Free(views);
    PyMem_Free(crops);
    return done;
}

static PyObject *cut(PyObject *module, PyObject *args)
{
    PyObject *given, *listed, *items;
    Py_buffer image;
    int done = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &given, &listed))
        return NULL;
    if (PyObject_GetBuffer(given, &image, PyBUF_STRIDED_RO) < 0)
        return NULL;
    items = PySequence_Fast(listed, "crops must be a sequence");
    if (!fits(&image) || image.strides[1] != CHANNELS || image.strides[2] != 1)
        PyErr_SetString(PyExc_ValueError, "an image must be uint8 [H, W, 3], its rows contiguous");
    else if (items != NULL)
        done = cut_all(&image, items);
    Py_XDECREF(items);
    PyBuffer_Release(&image);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"cut", cut, METH_VARARGS, "Fill the view of each crop of an image."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "viewstore._crops", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__crops(void)
{
    return PyModuleDef_Init(&definition);
}
