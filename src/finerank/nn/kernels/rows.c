/* The rows of embedding tables that a batch uses: which they are, and Adam's step for them.

   nn/tables.py and training/row_optimizers.py call these functions. */

#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 16 /* rows: so long before its turn memory is asked for one */
#define LINE 16  /* numbers that memory gives at once */

/* Ask memory for a row of a table. */
INLINE void ask_for(const float *row, int64_t dim) {
  for (int64_t k = 0; k < dim; k += LINE) __builtin_prefetch(row + k, 1);
}

/* Number the different rows among those asked for, in the order of their first use.

   asked: (count). rows: (count), of which the first `different` are found. places: (count), where
   among them each one is. different: -1 where a row is asked for that is not below `size`.

   A table of places is searched from where the row's bits, mixed, point to: what it takes grows
   with the batch only, and not with the tables. */
EXPORT void finerank_rows_in_use(int64_t count, const int64_t *asked, int64_t size, int64_t *rows,
                                 int64_t *places, int64_t *different) {
  int64_t found = 0, bits = 1;
  *different = -1;
  for (int64_t i = 0; i < count; i++)
    if (asked[i] < 0 || asked[i] >= size) return;
  while ((int64_t)1 << bits < 2 * count) bits++;
  size_t slots = (size_t)1 << bits;
  int32_t *place_at = malloc(slots * sizeof *place_at);
  if (place_at == NULL) abort();
  memset(place_at, -1, slots * sizeof *place_at);
  for (int64_t i = 0; i < count; i++) {
    int64_t row = asked[i];
    size_t slot = (size_t)((uint64_t)row * 0x9E3779B97F4A7C15u >> (64 - bits));
    while (place_at[slot] >= 0 && rows[place_at[slot]] != row) slot = (slot + 1) & (slots - 1);
    if (place_at[slot] < 0) {
      place_at[slot] = (int32_t)found;
      rows[found++] = row;
    }
    places[i] = place_at[slot];
  }
  free(place_at);
  *different = found;
}

typedef struct {
  int64_t shares;
  int64_t count, dim;
  const int64_t *rows; /* (count), each once */
  float *moments;      /* (all rows, 2, dim): Adam's, mean and square */
  int32_t *last_use;   /* (all rows): the step of each row's; NULL where rows rest between */
  int64_t step;        /* steps done, this one among them where it is one */
  double beta_1, beta_2, eps, learning_rate;
} Rows;

typedef struct {
  const Rows *rows;
  const double *moves, *of_eps;  /* by the step of the last use */
  const double *left_1, *left_2; /* of the moments, by the steps since */
  float *vectors;                /* (count, dim) */
  const float *gradient;         /* (count, dim) */
  float *weight;                 /* (all rows, dim) */
} Task;

typedef struct {
  int64_t shares, count, dim;
  const int64_t *rows;
  const float *table; /* (all rows, dim) */
  float *found;       /* (count, dim) */
} Gather;

static void gather_share(void *argument, int64_t share) {
  const Gather *gather = argument;
  int64_t i, end, dim = gather->dim;
  part_of(gather->count, share, gather->shares, &i, &end);
  for (; i < end; i++) {
    if (i + AHEAD < end) ask_for(gather->table + gather->rows[i + AHEAD] * dim, dim);
    memcpy(gather->found + i * dim, gather->table + gather->rows[i] * dim, (size_t)dim * 4);
  }
}

/* The given rows of a table (count, dim). */
EXPORT void finerank_gather(int64_t shares, int64_t count, int64_t dim, const int64_t *rows,
                            const float *table, float *found) {
  Gather task = {shares, count, dim, rows, table, found};
  run(gather_share, &task, shares);
}

/* Add to the vectors what Adam did to their rows since their last use. */
static void catch_up_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Rows *rows = task->rows;
  int64_t i, end, dim = rows->dim;
  part_of(rows->count, share, rows->shares, &i, &end);
  for (; i < end; i++) {
    int64_t row = rows->rows[i], later = i + AHEAD < end ? rows->rows[i + AHEAD] : row;
    __builtin_prefetch(rows->last_use + later);
    ask_for(rows->moments + later * 2 * dim, 2 * dim);
    int32_t last = rows->last_use[row];
    if (last == 0) continue; /* it has no moments */
    float *restrict vector_of = task->vectors + i * dim;
    const float *restrict mean = rows->moments + row * 2 * dim, *restrict square = mean + dim;
    double moves = fmax(task->moves[last], 1e-30);
    float eps = (float)fmax(task->of_eps[last] / moves * rows->eps, 1e-30);
    float rate = (float)(rows->learning_rate * task->moves[last]);
    for (int64_t k = 0; k < dim; k++) vector_of[k] -= rate * mean[k] / (sqrtf(square[k]) + eps);
  }
}

static void step_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Rows *rows = task->rows;
  int64_t i, end, dim = rows->dim;
  part_of(rows->count, share, rows->shares, &i, &end);
  float keep = (float)rows->beta_2, rest_1 = (float)(1 - rows->beta_1);
  float rest_2 = (float)(1 - rows->beta_2), eps = (float)rows->eps;
  float scale = (float)(1 / (1 - pow(rows->beta_2, (double)rows->step)));
  float rate = (float)(rows->learning_rate / (1 - pow(rows->beta_1, (double)rows->step)));
  for (; i < end; i++) {
    int64_t row = rows->rows[i], later = i + AHEAD < end ? rows->rows[i + AHEAD] : row;
    ask_for(rows->moments + later * 2 * dim, 2 * dim);
    ask_for(task->weight + later * dim, dim);
    float faded_1 = 1, faded_2 = 1; /* in the steps before this one that did not use the row */
    if (rows->last_use != NULL) {
      int64_t rested = rows->step - 1 - rows->last_use[row];
      faded_1 = (float)task->left_1[rested];
      faded_2 = (float)task->left_2[rested];
      rows->last_use[row] = (int32_t)rows->step;
    }
    const float *restrict vector_of = task->vectors + i * dim;
    const float *restrict gradient = task->gradient + i * dim;
    float *restrict mean = rows->moments + row * 2 * dim, *restrict square = mean + dim;
    float *restrict weight = task->weight + row * dim;
    for (int64_t k = 0; k < dim; k++) {
      float g = gradient[k], m = mean[k] * faded_1, v = square[k] * faded_2;
      m += rest_1 * (g - m);
      v = keep * v + rest_2 * g * g;
      mean[k] = m;
      square[k] = v;
      weight[k] = vector_of[k] - rate * m / (sqrtf(v * scale) + eps);
    }
  }
}

/* Change the vectors (count, dim) of rows to what they are by now; moves: (2, steps). */
EXPORT void finerank_catch_up(const Rows *rows, const double *moves, int64_t steps,
                              float *vectors) {
  Task task = {rows, moves, moves + steps, NULL, NULL, vectors, NULL, NULL};
  run(catch_up_share, &task, rows->shares);
}

/* Adam's step of rows, from their vectors as of now and the gradient of these (count, dim). left:
   (2, steps), of a moment after so many steps without the row; NULL where rows rest between. */
EXPORT void finerank_adam_step(const Rows *rows, const double *left, int64_t steps, float *vectors,
                               const float *gradient, float *weight) {
  const double *left_2 = left == NULL ? NULL : left + steps;
  Task task = {rows, NULL, NULL, left, left_2, vectors, gradient, weight};
  run(step_share, &task, rows->shares);
}
