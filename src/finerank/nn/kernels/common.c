#include "common.h"

#include <stdlib.h>
#include <string.h>

#if WIDTH == 16
#define COLUMNS 5 /* vectors of a row that are summed in registers together */
static const int ROWS_OF[] = {0, 16, 12, 8, 6, 5}; /* and rows, for so many vectors of each */
#else
#define COLUMNS 3
static const int ROWS_OF[] = {0, 8, 4, 4};
#endif

#define DEPTH 128 /* of a product, that is worked on together */

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static Parallel parallel = NULL;

/* Where threads come from: GOMP_parallel of the OpenMP library that torch runs on. */
EXPORT void finerank_threads(void *gomp_parallel) { parallel = (Parallel)gomp_parallel; }

float *numbers(int64_t count) {
  float *found = aligned_alloc(64, (size_t)(count * 4 + 63) / 64 * 64);
  if (found == NULL) abort();
  return found;
}

float *zeros(int64_t count) {
  float *found = numbers(count);
  memset(found, 0, (size_t)count * 4);
  return found;
}

/* ---- Matrix products ---- */

/* The product of `rows` rows of a and `columns` vectors of each of b's `depth` rows; c is it, or it
   is added to c. */
INLINE void product_of_block(const int rows, const int columns, int adds, int64_t depth,
                             const float *a, int64_t a_row, int64_t a_depth, const float *b,
                             int64_t b_depth, float *c, int64_t c_row) {
  vector sums[16][COLUMNS];
#pragma clang loop unroll(full)
  for (int row = 0; row < rows; row++)
#pragma clang loop unroll(full)
    for (int column = 0; column < columns; column++)
      sums[row][column] = adds ? load(c + row * c_row + column * WIDTH) : all(0.0f);
  for (int64_t k = 0; k < depth; k++) {
    vector of_b[COLUMNS];
#pragma clang loop unroll(full)
    for (int column = 0; column < columns; column++)
      of_b[column] = load(b + k * b_depth + column * WIDTH);
#pragma clang loop unroll(full)
    for (int row = 0; row < rows; row++) {
      vector of_a = all(a[row * a_row + k * a_depth]);
#pragma clang loop unroll(full)
      for (int column = 0; column < columns; column++) sums[row][column] += of_a * of_b[column];
    }
  }
#pragma clang loop unroll(full)
  for (int row = 0; row < rows; row++)
#pragma clang loop unroll(full)
    for (int column = 0; column < columns; column++)
      store(c + row * c_row + column * WIDTH, sums[row][column]);
}

typedef void (*Block)(int, int64_t, const float *, int64_t, int64_t, const float *, int64_t,
                      float *, int64_t);

#define BLOCK(rows, columns)                                                                     \
  static void block_##rows##_##columns(int adds, int64_t depth, const float *a, int64_t a_row,   \
                                       int64_t a_depth, const float *b, int64_t b_depth,         \
                                       float *c, int64_t c_row) {                                \
    product_of_block(rows, columns, adds, depth, a, a_row, a_depth, b, b_depth, c, c_row);       \
  }
#define BLOCKS(most, columns) BLOCK(most, columns) BLOCK(3, columns) BLOCK(1, columns)
#define NAMES(most, columns) {block_##most##_##columns, block_3_##columns, block_1_##columns}

#if COLUMNS == 5
BLOCKS(16, 1) BLOCKS(12, 2) BLOCKS(8, 3) BLOCKS(6, 4) BLOCKS(5, 5)
static const Block BLOCK_OF[][3] = {{NULL},       NAMES(16, 1), NAMES(12, 2),
                                    NAMES(8, 3), NAMES(6, 4),  NAMES(5, 5)};
#else
BLOCKS(8, 1) BLOCKS(4, 2) BLOCKS(4, 3)
static const Block BLOCK_OF[][3] = {{NULL}, NAMES(8, 1), NAMES(4, 2), NAMES(4, 3)};
#endif

int together(int64_t width) {
  int64_t vectors = width / WIDTH, times = (vectors + COLUMNS - 1) / COLUMNS;
  return (int)((vectors + times - 1) / times);
}

static void multiply(int adds, int64_t rows, int64_t depth, int64_t width, const float *a,
                     int64_t a_row, int64_t a_depth, const float *b, int64_t b_row, float *c,
                     int64_t c_row) {
  int most = together(width);
  int64_t first = 0;
  do { /* once, be there nothing to multiply */
    int64_t deep = smaller(DEPTH, depth - first);
    for (int64_t column = 0; column < width; column += most * WIDTH) {
      int columns = (int)(smaller(most * WIDTH, width - column) / WIDTH);
      int64_t b_depth = b_row == PACKED ? columns * WIDTH : b_row;
      const float *of_b = b + (b_row == PACKED ? column * depth : column) + first * b_depth;
      const float *of_a = a + first * a_depth;
      float *of_c = c + column;
      int64_t left = rows;
      for (int size = 0; size < 3; size++) {
        int step = size == 0 ? ROWS_OF[columns] : size == 1 ? 3 : 1;
        for (; left >= step; left -= step, of_a += step * a_row, of_c += step * c_row)
          BLOCK_OF[columns][size](adds, deep, of_a, a_row, a_depth, of_b, b_depth, of_c, c_row);
      }
    }
    adds = 1;
    first += DEPTH;
  } while (first < depth);
}

void product(int64_t rows, int64_t depth, int64_t width, const float *a, int64_t a_row,
             int64_t a_depth, const float *b, int64_t b_row, float *c, int64_t c_row) {
  multiply(0, rows, depth, width, a, a_row, a_depth, b, b_row, c, c_row);
}

void add_product(int64_t rows, int64_t depth, int64_t width, const float *a, int64_t a_row,
                 int64_t a_depth, const float *b, int64_t b_row, float *c, int64_t c_row) {
  multiply(1, rows, depth, width, a, a_row, a_depth, b, b_row, c, c_row);
}

float *pack(const float *b, int64_t depth, int64_t width, int64_t filled, int64_t b_depth,
            int64_t b_column) {
  float *found = zeros(depth * filled);
  int64_t most = together(filled) * WIDTH;
  for (int64_t column = 0; column < width; column++) {
    int64_t group = column / most * most, size = smaller(most, filled - group);
    for (int64_t k = 0; k < depth; k++)
      found[group * depth + k * size + column - group] = b[k * b_depth + column * b_column];
  }
  return found;
}

/* ---- Shares of the rows ---- */

typedef struct {
  void (*work)(void *, int64_t);
  void *task;
  int64_t shares, next;
} Shared;

static void take_shares(void *argument) {
  Shared *shared = argument;
  for (;;) {
    int64_t share = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
    if (share >= shared->shares) return;
    shared->work(shared->task, share);
  }
}

void run(void (*work)(void *, int64_t), void *task, int64_t shares) {
  Shared shared = {work, task, shares, 0};
  if (parallel != NULL && shares > 1)
    parallel(take_shares, &shared, (unsigned)shares, 0);
  else
    take_shares(&shared);
}
