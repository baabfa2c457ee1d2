/* Grey lines of the scanlines of a PNG, equal to the bit to what Pillow and tfrecords/grey.py make of them.

   The input is what the zlib stream of a PNG holds: for each row one byte with the number of its filter, then its
   filtered bytes, 8 bits a sample, without interlacing (PNG specification, sections 7.2 and 9). tfrecords/png.py takes
   it out of the file. What is not wholly plain gives None, and Pillow decides. */

#ifndef __x86_64__
#error "for x86-64 alone: elsewhere Pillow does all of this"
#endif

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <emmintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define IS_SIDE(pixels) (0 < (pixels) && (pixels) <= 1 << 24)
#define AMPLE_CONTRAST 128     /* as in tfrecords/grey.py: with less, another channel than luma may be taken */
#define BITS 22                /* of the fraction of a weight: 32, less 8 of a sample, less 2 */
#define LOWER_BITS 11          /* of a weight, which is multiplied in two halves */
#define LOWER_MASK ((1 << LOWER_BITS) - 1)
#define LANES 16               /* pixels that are worked on together */

/* Samples in rows, each with room for a multiple of LANES. */
typedef struct {
    Py_ssize_t width, height, stride;
    uint8_t *pixels;
} Picture;

typedef enum { MADE, NOT_PLAIN, NO_MEMORY } Outcome;

/* Weights of the triangle filter in one direction: each new pixel is a sum over some old ones, `taps` at most. */
typedef struct {
    Py_ssize_t taps;
    int32_t *starts, *lengths, *weights;
} Filter;

static inline uint8_t predict_paeth(int left, int above, int corner)
{
    int to_left = abs(above - corner), to_above = abs(left - corner), to_corner = abs(left + above - 2 * corner);
    int nearest = to_above <= to_corner ? above : corner;
    return (uint8_t)(to_left <= to_above && to_left <= to_corner ? left : nearest);
}

/* Undoes the filter `Up`. Apart from the others, so that it is vectorised. */
static __attribute__((noinline)) void add_above(uint8_t *restrict row, const uint8_t *restrict above,
                                                const uint8_t *restrict filtered, Py_ssize_t length)
{
    Py_ssize_t i;
    for (i = 0; i < length; i++)
        row[i] = (uint8_t)(filtered[i] + above[i]);
}

/* Undoes the filter of one row of `length` bytes; `above` is zeros at first. Returns 0 for an unknown filter. */
static inline __attribute__((always_inline)) int undo_filter(uint8_t *restrict row, const uint8_t *restrict above,
                                                             const uint8_t *restrict filtered, Py_ssize_t length,
                                                             Py_ssize_t channels)
{
    uint8_t left[4] = {0}, corner[4] = {0};
    int kind = *filtered++;
    Py_ssize_t i, c;
    switch (kind) {
    case 0:
        memcpy(row, filtered, (size_t)length);
        break;
    case 1:
        for (i = 0; i < length; i += channels)
            for (c = 0; c < channels; c++)
                row[i + c] = left[c] = (uint8_t)(filtered[i + c] + left[c]);
        break;
    case 2:
        add_above(row, above, filtered, length);
        break;
    case 3:
        for (i = 0; i < length; i += channels)
            for (c = 0; c < channels; c++)
                row[i + c] = left[c] = (uint8_t)(filtered[i + c] + ((left[c] + above[i + c]) >> 1));
        break;
    case 4:
        for (i = 0; i < length; i += channels)
            for (c = 0; c < channels; c++) {
                left[c] = (uint8_t)(filtered[i + c] + predict_paeth(left[c], above[i + c], corner[c]));
                row[i + c] = left[c];
                corner[c] = above[i + c];
            }
        break;
    }
    return kind <= 4;
}

/* ITU-R 601-2 luma in 16 bits of fraction, rounded. */
static inline uint8_t weigh(uint32_t red, uint32_t green, uint32_t blue)
{
    return (uint8_t)((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
}

/* Makes one row grey. Returns the bitwise and of all its alpha values. */
static uint8_t make_row_grey(uint8_t *restrict grey, const uint8_t *restrict row, Py_ssize_t width,
                             Py_ssize_t channels)
{
    uint32_t all = 0xff;
    Py_ssize_t x;
    if (channels == 1)
        memcpy(grey, row, (size_t)width);
    else if (channels == 2)
        for (x = 0; x < width; x++) {
            grey[x] = row[2 * x];
            all &= row[2 * x + 1];
        }
    else if (channels == 3)
        for (x = 0; x < width; x++)
            grey[x] = weigh(row[3 * x], row[3 * x + 1], row[3 * x + 2]);
    else
        for (x = 0; x < width; x++) {
            grey[x] = weigh(row[4 * x], row[4 * x + 1], row[4 * x + 2]);
            all &= row[4 * x + 3];
        }
    return (uint8_t)all;
}

static int make_picture(Picture *picture, Py_ssize_t width, Py_ssize_t height)
{
    picture->width = width;
    picture->height = height;
    picture->stride = (width + LANES - 1) / LANES * LANES;
    picture->pixels = malloc((size_t)picture->stride * (size_t)height);
    return picture->pixels != NULL;
}

/* Undoes the filters of all rows and makes them grey. Transparency and little contrast are not plain. */
static Outcome make_grey(Picture grey, const uint8_t *scanlines, Py_ssize_t channels, const uint8_t *lumas,
                         Py_ssize_t colours)
{
    Py_ssize_t length = grey.width * channels, x, y;
    uint8_t *row = calloc(1, (size_t)length), *above = calloc(1, (size_t)length);
    uint8_t darkest = 255, lightest = 0;
    Outcome outcome = row && above ? MADE : NO_MEMORY;
    for (y = 0; y < grey.height && outcome == MADE; y++, scanlines += 1 + length) {
        uint8_t *line = grey.pixels + y * grey.stride, *swapped = row;
        int known = 0;
        switch (channels) {
        case 1: known = undo_filter(row, above, scanlines, length, 1); break;
        case 2: known = undo_filter(row, above, scanlines, length, 2); break;
        case 3: known = undo_filter(row, above, scanlines, length, 3); break;
        case 4: known = undo_filter(row, above, scanlines, length, 4); break;
        }
        if (!known || make_row_grey(line, row, grey.width, channels) != 0xff)
            outcome = NOT_PLAIN;
        for (x = 0; lumas && x < grey.width && outcome == MADE; x++)
            if (line[x] < colours)
                line[x] = lumas[line[x]];
            else
                outcome = NOT_PLAIN;
        for (x = 0; x < grey.width; x++) {
            darkest = line[x] < darkest ? line[x] : darkest;
            lightest = line[x] > lightest ? line[x] : lightest;
        }
        row = above;
        above = swapped;
    }
    free(row);
    free(above);
    if (outcome == MADE && (channels > 1 || lumas) && lightest - darkest < AMPLE_CONTRAST)
        return NOT_PLAIN;
    return outcome;
}

/* Makes the filter for `count` new pixels of `size` old ones: a triangle as wide as two new pixels, or two old ones
   where these are wider. The weights of a new pixel are doubles of the sum 1, then rounded to BITS. */
static int make_filter(Filter *filter, Py_ssize_t size, Py_ssize_t count)
{
    double scale = (double)size / (double)count, support = scale < 1.0 ? 1.0 : scale, *weights;
    Py_ssize_t i, k;
    filter->taps = 2 * (Py_ssize_t)ceil(support) + 1;
    filter->starts = malloc(sizeof(int32_t) * (size_t)count);
    filter->lengths = malloc(sizeof(int32_t) * (size_t)count);
    filter->weights = malloc(sizeof(int32_t) * (size_t)count * (size_t)filter->taps);
    weights = malloc(sizeof(double) * (size_t)filter->taps);
    if (!filter->starts || !filter->lengths || !filter->weights || !weights) {
        free(weights);
        return 0;
    }
    for (i = 0; i < count; i++) {
        double centre = ((double)i + 0.5) * scale, inverse = 1.0 / support, sum = 0.0;
        Py_ssize_t start = (Py_ssize_t)(centre - support + 0.5), end = (Py_ssize_t)(centre + support + 0.5);
        start = start < 0 ? 0 : start;
        end = end > size ? size : end;
        for (k = 0; k < end - start; k++) {
            double distance = fabs(((double)(k + start) - centre + 0.5) * inverse);
            weights[k] = distance < 1.0 ? 1.0 - distance : 0.0;
            sum += weights[k];
        }
        for (k = 0; k < end - start; k++) {
            double weight = sum != 0.0 ? weights[k] / sum : weights[k];
            filter->weights[i * filter->taps + k] = (int32_t)(0.5 + weight * (1 << BITS));
        }
        filter->starts[i] = (int32_t)start;
        filter->lengths[i] = (int32_t)(end - start);
    }
    free(weights);
    return 1;
}

static void free_filter(Filter *filter)
{
    free(filter->starts);
    free(filter->lengths);
    free(filter->weights);
}

/* Sums LANES pixels side by side, `step` bytes from one row of them to the next, each row times its weight. */
static inline void sum_up(uint8_t *scaled, const uint8_t *pixels, Py_ssize_t step, const int32_t *weights,
                          Py_ssize_t count)
{
    const __m128i zero = _mm_setzero_si128();
    __m128i upper[4] = {zero, zero, zero, zero}, lower[4] = {zero, zero, zero, zero}, sums[4];
    Py_ssize_t k;
    int i;
    for (k = 0; k < count; k += 2) { /* two rows together, the last one with none */
        int32_t first = weights[k], second = k + 1 < count ? weights[k + 1] : 0;
        __m128i row = _mm_loadu_si128((const __m128i *)(pixels + k * step));
        __m128i next = k + 1 < count ? _mm_loadu_si128((const __m128i *)(pixels + (k + 1) * step)) : zero;
        __m128i upper_halves = _mm_set1_epi32((second >> LOWER_BITS) << 16 | first >> LOWER_BITS);
        __m128i lower_halves = _mm_set1_epi32((second & LOWER_MASK) << 16 | (first & LOWER_MASK));
        __m128i left = _mm_unpacklo_epi8(row, next), right = _mm_unpackhi_epi8(row, next);
        __m128i pairs[4] = {_mm_unpacklo_epi8(left, zero), _mm_unpackhi_epi8(left, zero),
                            _mm_unpacklo_epi8(right, zero), _mm_unpackhi_epi8(right, zero)};
        for (i = 0; i < 4; i++) {
            upper[i] = _mm_add_epi32(upper[i], _mm_madd_epi16(pairs[i], upper_halves));
            lower[i] = _mm_add_epi32(lower[i], _mm_madd_epi16(pairs[i], lower_halves));
        }
    }
    for (i = 0; i < 4; i++) {
        sums[i] = _mm_add_epi32(_mm_slli_epi32(upper[i], LOWER_BITS), lower[i]);
        sums[i] = _mm_srai_epi32(_mm_add_epi32(sums[i], _mm_set1_epi32(1 << (BITS - 1))), BITS);
    }
    sums[0] = _mm_packus_epi16(_mm_packs_epi32(sums[0], sums[1]), _mm_packs_epi32(sums[2], sums[3]));
    _mm_storeu_si128((__m128i *)scaled, sums[0]);
}

/* Transposes a square of pixels: LANES rows from `x` on. */
static inline void transpose(uint8_t *columns, const uint8_t *const *rows, Py_ssize_t x)
{
    __m128i here[LANES], next[LANES];
    int i, round;
    for (i = 0; i < LANES; i++)
        here[i] = _mm_loadu_si128((const __m128i *)(rows[i] + x));
    for (round = 0; round < 4; round++) {
        for (i = 0; i < LANES / 2; i++) {
            next[2 * i] = _mm_unpacklo_epi8(here[i], here[i + LANES / 2]);
            next[2 * i + 1] = _mm_unpackhi_epi8(here[i], here[i + LANES / 2]);
        }
        memcpy(here, next, sizeof here);
    }
    for (i = 0; i < LANES; i++)
        _mm_storeu_si128((__m128i *)(columns + i * LANES), here[i]);
}

/* Scales along the line. LANES rows are scaled together, of which the pixels of a column lie side by side for that. */
static int change_width(Picture scaled, Picture grey)
{
    Filter filter;
    uint8_t *columns = malloc((size_t)grey.stride * LANES), *new_columns = malloc((size_t)scaled.stride * LANES);
    int complete = make_filter(&filter, grey.width, scaled.width) && columns && new_columns;
    const uint8_t *rows[LANES];
    Py_ssize_t x, y, r;
    for (y = 0; complete && y < grey.height; y += LANES) {
        for (r = 0; r < LANES; r++) /* the last one again where fewer are left */
            rows[r] = grey.pixels + (y + r < grey.height ? y + r : grey.height - 1) * grey.stride;
        for (x = 0; x < grey.stride; x += LANES)
            transpose(columns + x * LANES, rows, x);
        for (x = 0; x < scaled.width; x++)
            sum_up(new_columns + x * LANES, columns + filter.starts[x] * LANES, LANES,
                   filter.weights + x * filter.taps, filter.lengths[x]);
        for (x = 0; x < scaled.stride; x += LANES) {
            uint8_t square[LANES * LANES];
            for (r = 0; r < LANES; r++)
                rows[r] = new_columns + (x + r < scaled.width ? x + r : scaled.width - 1) * LANES;
            transpose(square, rows, 0);
            for (r = 0; r < LANES && y + r < grey.height; r++)
                memcpy(scaled.pixels + (y + r) * scaled.stride + x, square + r * LANES, LANES);
        }
    }
    free_filter(&filter);
    free(columns);
    free(new_columns);
    return complete;
}

/* Scales across the line. */
static int change_height(Picture scaled, Picture grey)
{
    Filter filter;
    int complete = make_filter(&filter, grey.height, scaled.height);
    Py_ssize_t x, y;
    for (y = 0; complete && y < scaled.height; y++)
        for (x = 0; x < scaled.stride; x += LANES)
            sum_up(scaled.pixels + y * scaled.stride + x, grey.pixels + filter.starts[y] * grey.stride + x, grey.stride,
                   filter.weights + y * filter.taps, filter.lengths[y]);
    free_filter(&filter);
    return complete;
}

/* Turns a picture to the left: its last column becomes the first row. */
static int turn_left(Picture turned, Picture grey)
{
    Py_ssize_t x, y;
    for (y = 0; y < grey.height; y++)
        for (x = 0; x < grey.width; x++)
            turned.pixels[(grey.width - 1 - x) * turned.stride + y] = grey.pixels[y * grey.stride + x];
    return 1;
}

/* Puts a picture of this size in the place of `picture`. */
static Outcome replace(Picture *picture, int (*make)(Picture, Picture), Py_ssize_t width, Py_ssize_t height)
{
    Picture next;
    int made = make_picture(&next, width, height) && make(next, *picture);
    free(picture->pixels);
    *picture = next;
    return made ? MADE : NO_MEMORY;
}

/* Makes the line: grey, turned to the left if it is vertical, then scaled along itself, and then across. */
static Outcome make_line(uint8_t *line, Py_ssize_t line_width, Py_ssize_t line_height, const uint8_t *scanlines,
                         Py_ssize_t width, Py_ssize_t height, Py_ssize_t channels, const uint8_t *lumas,
                         Py_ssize_t colours, int vertical)
{
    Picture picture;
    Py_ssize_t y;
    Outcome outcome = make_picture(&picture, width, height) ? make_grey(picture, scanlines, channels, lumas, colours)
                                                            : NO_MEMORY;
    if (outcome == MADE && vertical)
        outcome = replace(&picture, turn_left, height, width);
    if (outcome == MADE && picture.width != line_width)
        outcome = replace(&picture, change_width, line_width, picture.height);
    if (outcome == MADE && picture.height != line_height)
        outcome = replace(&picture, change_height, line_width, line_height);
    for (y = 0; y < line_height && outcome == MADE; y++)
        memcpy(line + y * line_width, picture.pixels + y * picture.stride, (size_t)line_width);
    free(picture.pixels);
    return outcome;
}

/* See scanlines.pyi. */
static PyObject *make_grey_line(PyObject *module, PyObject *arguments)
{
    Py_buffer scanlines, palette;
    Py_ssize_t width, height, channels, line_width, line_height, colours, i;
    int vertical;
    uint8_t lumas[256];
    Outcome outcome = NOT_PLAIN;
    PyObject *line = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*(nnn)y*(nn)p", &scanlines, &width, &height, &channels, &palette,
                          &line_width, &line_height, &vertical))
        return NULL;
    colours = palette.len / 3;
    if (!IS_SIDE(width) || !IS_SIDE(height) || channels < 1 || channels > 4 || scanlines.len % height ||
        scanlines.len / height != 1 + width * channels || palette.len % 3 || colours > 256 ||
        (colours && channels != 1) || !IS_SIDE(line_width) || !IS_SIDE(line_height)) {
        PyErr_SetString(PyExc_ValueError, "sizes that do not fit each other");
    } else if ((line = PyBytes_FromStringAndSize(NULL, line_width * line_height))) {
        const uint8_t *values = palette.buf;
        uint8_t *pixels = (uint8_t *)PyBytes_AsString(line);
        for (i = 0; i < colours; i++)
            lumas[i] = weigh(values[3 * i], values[3 * i + 1], values[3 * i + 2]);
        Py_BEGIN_ALLOW_THREADS
        outcome = make_line(pixels, line_width, line_height, scanlines.buf, width, height, channels,
                            colours ? lumas : NULL, colours, vertical);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&scanlines);
    PyBuffer_Release(&palette);
    if (line && outcome != MADE) {
        Py_DECREF(line);
        line = NULL;
        if (outcome == NO_MEMORY)
            return PyErr_NoMemory();
        Py_RETURN_NONE;
    }
    return line;
}

static PyMethodDef methods[] = {
    {"make_grey_line", make_grey_line, METH_VARARGS, "Makes a grey line of the scanlines of a PNG: see scanlines.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "scanlines", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_scanlines(void)
{
    return PyModuleDef_Init(&definition);
}
