/* Vectors, memory, matrix products and shares of the work, for all compiled functions.

   Matrices are row by row. Work is divided into shares, one for a thread, and what shares add up is
   summed for each apart, so that results don't depend on which thread was the first. */

#ifndef FINERANK_COMMON_H
#define FINERANK_COMMON_H

#include <stdint.h>

#if defined(__AVX512F__)
#define WIDTH 16 /* numbers in a vector */
#else
#define WIDTH 8
#endif

#define EXPORT __attribute__((visibility("default"))) /* all else stays inside the library */
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

INLINE vector all(float x) { return x - (vector){0}; }
INLINE vector load(const float *x) { return *(const vector *)x; }
INLINE void store(float *x, vector y) { *(vector *)x = y; }

/* Of each number the first where the comparison holds, else the second. */
INLINE vector choose(integers holds, vector x, vector y) {
  return (vector)((holds & (integers)x) | (~holds & (integers)y));
}

/* Of all numbers, halves added to each other. */
INLINE float sum_of(vector x) {
  float parts[WIDTH];
  store(parts, x);
#pragma clang loop unroll(full)
  for (int half = WIDTH / 2; half > 0; half /= 2)
#pragma clang loop unroll(full)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

/* e to the x: of x / ln 2 the whole part as an exponent, the rest by a polynomial of degree 6. */
INLINE vector exponential(vector x) {
  x = choose(x < -87.0f, all(-87.0f), x);
  x = choose(x > 88.0f, all(88.0f), x);
  const float magic = 12582912.0f; /* 1.5 * 2^23: to add it rounds to a whole number */
  vector whole = x * 1.44269504088896341f + magic - magic;
  vector rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  vector y = all(1.9875691500e-4f);
  y = y * rest + 1.3981999507e-3f;
  y = y * rest + 8.3334519073e-3f;
  y = y * rest + 4.1665795894e-2f;
  y = y * rest + 1.6666665459e-1f;
  y = y * rest + 5.0000001201e-1f;
  y = y * rest * rest + rest + 1.0f;
  integers power = (__builtin_convertvector(whole, integers) + 127) << 23;
  return y * (vector)power;
}

/* Up to a multiple of 16. */
INLINE int64_t filled_up(int64_t width) { return (width + 15) / 16 * 16; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Memory for so many numbers, to be freed. */
float *numbers(int64_t count);
float *zeros(int64_t count);

/* The product c (rows, width) of a (rows, depth) and b (depth, width), or what it adds to c.

   a's number of a row and a depth is at a[row * a_row + depth * a_depth]. b's columns lie in
   groups, each group's rows one after another, where b_row is PACKED; else b_row is the distance of
   its rows. The width is a multiple of a vector's. */
#define PACKED 0
void product(int64_t rows, int64_t depth, int64_t width, const float *a, int64_t a_row,
             int64_t a_depth, const float *b, int64_t b_row, float *c, int64_t c_row);
void add_product(int64_t rows, int64_t depth, int64_t width, const float *a, int64_t a_row,
                 int64_t a_depth, const float *b, int64_t b_row, float *c, int64_t c_row);

/* How many vectors of a row of so many numbers make a group. */
int together(int64_t width);

/* Lay out a matrix (depth, width) for `product`, filled up with zeros to `filled` columns. */
float *pack(const float *b, int64_t depth, int64_t width, int64_t filled, int64_t b_depth,
            int64_t b_column);

/* From where up to where a share goes. */
INLINE void part_of(int64_t count, int64_t share, int64_t shares, int64_t *begin, int64_t *end) {
  *begin = count * share / shares;
  *end = count * (share + 1) / shares;
}

/* Do each share of a task, on torch's threads. */
void run(void (*work)(void *task, int64_t share), void *task, int64_t shares);

#endif
