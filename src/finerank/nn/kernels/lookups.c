/* A linear map of embeddings that are looked up, where a batch looks few of them up often.

   Of each column of ids the map is made once for each different id, and the results are looked up
   and added instead of the embeddings: for D numbers a vector, one addition takes the place of D
   multiplications. Backward, gradients are added up by id first.

   Some outputs of some columns are worked on at a time, so that what is looked up stays in a cache.

   nn/lookups.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

#define TOGETHER 4       /* vectors of the output that are worked on together */
#define CACHED (1 << 17) /* numbers that stay in a cache of one core */

typedef struct {
  int64_t shares;
  int64_t rows, columns, dim, width;
  int64_t weight_row;           /* numbers of the weight from one output to the next */
  const int32_t *places;        /* (rows, columns), among all columns' different ids */
  const int64_t *first;         /* (columns + 1): of which each column's begin here */
  const int64_t *first_vector;  /* (columns): and their vectors here, in the same order */
  const int64_t *weight_column; /* (columns): where each one's weights begin */
  int64_t count;
  const float *vectors;         /* (count, dim) */
  const float *weight;          /* (width, weight_row) */
} Lookups;

/* ---- Which ids are different ---- */

/* Number the places of a column, where each different one follows the one before; else tell. */
static int number_in_turn(int64_t rows, int64_t columns, const int64_t *places, int32_t *numbered,
                          int64_t *count) {
  *count = 0;
  for (int64_t row = 0; row < rows; row++) {
    int64_t number = places[row] - places[0];
    if (number < 0 || number > *count) return 0;
    *count += number == *count;
    numbered[row * columns] = (int32_t)number;
  }
  return 1;
}

/* Number the different places of each column, and leave out columns that have more than `most`.

   places: (columns, rows). different: (columns, most), how many: (columns), the places in the order
   of their first use; -1 of columns that are left out. numbered: (rows, columns), of each place its
   number in its column. in_turn: (columns), whether each different place follows the one before.
   state: -1 where a place is not below `size`, and nothing else then. */
EXPORT void finerank_different(int64_t rows, int64_t columns, int64_t size, int64_t most,
                               const int64_t *places, int64_t *different, int64_t *how_many,
                               int32_t *numbered, int64_t *in_turn, int64_t *state) {
  *state = 0;
  for (int64_t i = 0; i < rows * columns; i++)
    if (places[i] < 0 || places[i] >= size) *state = -1;
  if (*state < 0) return;
  int32_t *seen = calloc((size_t)size * 2, sizeof *seen), *number = seen + size;
  if (seen == NULL) abort();
  for (int64_t column = 0; column < columns; column++, places += rows) {
    int64_t count = 0, *of_column = different + column * most;
    in_turn[column] = number_in_turn(rows, columns, places, numbered + column, &count);
    if (in_turn[column]) {
      for (int64_t i = 0; i < count && i < most; i++) of_column[i] = places[0] + i;
      how_many[column] = count <= most ? count : -1;
      continue;
    }
    count = 0;
    for (int64_t row = 0; row < rows; row++) {
      int64_t place = places[row];
      if (seen[place] != column + 1) {
        if (count == most) {
          count = -1;
          break;
        }
        seen[place] = (int32_t)column + 1;
        number[place] = (int32_t)count;
        of_column[count++] = place;
      }
      numbered[row * columns + column] = number[place];
    }
    how_many[column] = count;
  }
  free(seen);
}

/* ---- Some outputs of some columns ---- */

typedef struct {
  const Lookups *lookups;
  const float *base;  /* (rows, width), or (width) where base_row is 0; NULL: zeros */
  int64_t base_row;
  float *output;      /* (rows, width) */
  const float *gradient; /* (rows, width), of the output */
  float *of_weight;   /* (width, weight_row); the looked up columns' are written */
  float *of_vectors;  /* (shares, vectors, dim filled up) */
} Task;

/* Of a share the outputs from `*output` up to `*end`, in vectors. */
static void outputs_of(const Lookups *lookups, int64_t share, int64_t *output, int64_t *end) {
  int64_t vectors = (lookups->width + WIDTH - 1) / WIDTH;
  part_of(vectors, share, lookups->shares, output, end);
}

/* How many vectors of those from `output` to `end` are taken next. */
static int64_t next_of(int64_t output, int64_t end) {
  int64_t left = end - output, times = (left + TOGETHER - 1) / TOGETHER;
  return (left + times - 1) / times;
}

/* Up to where columns are worked on together with the given one: as many as the cache holds. */
static int64_t columns_of(const Lookups *lookups, int64_t column, int64_t outputs) {
  int64_t first = lookups->first[column], end = column + 1;
  while (end < lookups->columns && (lookups->first[end + 1] - first) * outputs <= CACHED) end++;
  return end;
}

/* The most numbers that columns worked on together have. */
static int64_t most_of(const Lookups *lookups) {
  int64_t most = CACHED, outputs = TOGETHER * WIDTH;
  for (int64_t column = 0; column < lookups->columns; column++) {
    int64_t of_column = (lookups->first[column + 1] - lookups->first[column]) * outputs;
    if (of_column > most) most = of_column;
  }
  return most;
}

/* Numbers to load `size` vectors from: themselves, or the valid ones of them with zeros behind. */
INLINE const float *with_zeros(const int size, const float *from, int64_t valid, float *part) {
  if (valid == size * WIDTH) return from;
  memset(part, 0, (size_t)(size * WIDTH) * 4);
  memcpy(part, from, (size_t)valid * 4);
  return part;
}

/* Look up and add `size` vectors of `mapped` for each row; to the base in the first columns. */
INLINE void add_up(const int size, const Task *task, const float *mapped, int64_t output,
                   int64_t from, int64_t end) {
  const Lookups *lookups = task->lookups;
  int64_t columns = lookups->columns, width = lookups->width;
  const float *to_add_to = from > 0 ? task->output : task->base;
  int64_t row_of_base = from > 0 ? width : task->base_row;
  mapped -= lookups->first[from] * size * WIDTH;
  int64_t valid = smaller(size * WIDTH, width - output);
  for (int64_t row = 0; row < lookups->rows; row++) {
    const int32_t *places = lookups->places + row * columns;
    vector sums[TOGETHER];
    float part[TOGETHER * WIDTH];
    const float *base = to_add_to == NULL ? NULL : to_add_to + row * row_of_base + output;
    if (base != NULL) base = with_zeros(size, base, valid, part);
#pragma clang loop unroll(full)
    for (int i = 0; i < size; i++) sums[i] = base == NULL ? all(0.0f) : load(base + i * WIDTH);
    for (int64_t column = from; column < end; column++) {
      const float *of_place = mapped + (int64_t)places[column] * size * WIDTH;
#pragma clang loop unroll(full)
      for (int i = 0; i < size; i++) sums[i] += load(of_place + i * WIDTH);
    }
    float *to = task->output + row * width + output, *at = valid < size * WIDTH ? part : to;
#pragma clang loop unroll(full)
    for (int i = 0; i < size; i++) store(at + i * WIDTH, sums[i]);
    if (at == part) memcpy(to, part, (size_t)valid * 4);
  }
}

/* Add each row's gradient to those of the places that it looks up. */
INLINE void give_back(const int size, const Task *task, float *mapped, int64_t output,
                      int64_t from, int64_t end) {
  const Lookups *lookups = task->lookups;
  int64_t columns = lookups->columns, width = lookups->width;
  mapped -= lookups->first[from] * size * WIDTH;
  int64_t valid = smaller(size * WIDTH, width - output);
  for (int64_t row = 0; row < lookups->rows; row++) {
    const int32_t *places = lookups->places + row * columns;
    vector gradient[TOGETHER];
    float part[TOGETHER * WIDTH];
    const float *of_row = with_zeros(size, task->gradient + row * width + output, valid, part);
#pragma clang loop unroll(full)
    for (int i = 0; i < size; i++) gradient[i] = load(of_row + i * WIDTH);
    for (int64_t column = from; column < end; column++) {
      float *of_place = mapped + (int64_t)places[column] * size * WIDTH;
#pragma clang loop unroll(full)
      for (int i = 0; i < size; i++)
        store(of_place + i * WIDTH, load(of_place + i * WIDTH) + gradient[i]);
    }
  }
}

#define FOR_SIZE(function, ...)                                                                  \
  switch (size) {                                                                                \
    case 1: function(1, __VA_ARGS__); break;                                                     \
    case 2: function(2, __VA_ARGS__); break;                                                     \
    case 3: function(3, __VA_ARGS__); break;                                                     \
    default: function(4, __VA_ARGS__);                                                           \
  }

/* A column's weights of some outputs, as (dim, outputs). */
static void weights_of(const Lookups *lookups, int64_t column, int64_t output, int64_t outputs,
                       float *found) {
  int64_t dim = lookups->dim, valid = smaller(outputs, lookups->width - output);
  if (valid < outputs) memset(found, 0, (size_t)(dim * outputs) * 4);
  const float *weight = lookups->weight + output * lookups->weight_row;
  weight += lookups->weight_column[column];
  for (int64_t i = 0; i < valid; i++)
    for (int64_t k = 0; k < dim; k++) found[k * outputs + i] = weight[i * lookups->weight_row + k];
}

static void forward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Lookups *lookups = task->lookups;
  int64_t dim = lookups->dim, columns = lookups->columns, output, end;
  float *mapped = numbers(most_of(lookups)), *weights = numbers(dim * TOGETHER * WIDTH);
  outputs_of(lookups, share, &output, &end);
  while (output < end) {
    int64_t size = next_of(output, end), outputs = size * WIDTH;
    for (int64_t from = 0, to; from < columns; from = to) {
      int64_t begin = lookups->first[from];
      to = columns_of(lookups, from, outputs);
      for (int64_t column = from; column < to; column++) {
        int64_t first = lookups->first[column], different = lookups->first[column + 1] - first;
        weights_of(lookups, column, output * WIDTH, outputs, weights);
        const float *vectors = lookups->vectors + lookups->first_vector[column] * dim;
        product(different, dim, outputs, vectors, dim, 1, weights, outputs,
                mapped + (first - begin) * outputs, outputs);
      }
      FOR_SIZE(add_up, task, mapped, output * WIDTH, from, to)
    }
    output += size;
  }
  free(mapped);
  free(weights);
}

/* The gradients of a column's weights and vectors, from that of what was looked up of some outputs
   (different, outputs). weights: memory for (dim filled up, outputs). */
static void of_column(const Task *task, int64_t column, int64_t output, int64_t outputs,
                      const float *mapped, float *weights, float *of_vectors) {
  const Lookups *lookups = task->lookups;
  int64_t dim = lookups->dim, filled = filled_up(dim), row = lookups->weight_row;
  int64_t different = lookups->first[column + 1] - lookups->first[column];
  int64_t first = lookups->first_vector[column], valid = smaller(outputs, lookups->width - output);
  int64_t begin = output * row + lookups->weight_column[column];
  const float *vectors = lookups->vectors + first * dim;
  product(dim, different, outputs, vectors, 1, dim, mapped, outputs, weights, outputs);
  for (int64_t i = 0; i < valid; i++)
    for (int64_t k = 0; k < dim; k++)
      task->of_weight[begin + i * row + k] = weights[k * outputs + i];
  memset(weights, 0, (size_t)(filled * outputs) * 4);
  for (int64_t i = 0; i < valid; i++)
    memcpy(weights + i * filled, lookups->weight + begin + i * row, (size_t)dim * 4);
  add_product(different, outputs, filled, mapped, outputs, 1, weights, filled,
              of_vectors + first * filled, filled);
}

static void backward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Lookups *lookups = task->lookups;
  int64_t columns = lookups->columns, filled = filled_up(lookups->dim), output, end;
  float *mapped = numbers(most_of(lookups)), *weights = numbers(filled * TOGETHER * WIDTH);
  float *of_vectors = task->of_vectors + share * lookups->count * filled;
  memset(of_vectors, 0, (size_t)(lookups->count * filled) * 4);
  outputs_of(lookups, share, &output, &end);
  while (output < end) {
    int64_t size = next_of(output, end), outputs = size * WIDTH;
    for (int64_t from = 0, to; from < columns; from = to) {
      int64_t begin = lookups->first[from];
      to = columns_of(lookups, from, outputs);
      memset(mapped, 0, (size_t)((lookups->first[to] - begin) * outputs) * 4);
      FOR_SIZE(give_back, task, mapped, output * WIDTH, from, to)
      for (int64_t column = from; column < to; column++)
        of_column(task, column, output * WIDTH, outputs,
                  mapped + (lookups->first[column] - begin) * outputs, weights, of_vectors);
    }
    output += size;
  }
  free(mapped);
  free(weights);
}

/* output (rows, width): `base` and all columns' vectors times their weights. */
EXPORT void finerank_lookups_forward(const Lookups *lookups, const float *base,
                                     int64_t base_row, float *output) {
  Task task = {lookups, base, base_row, output, NULL, NULL, NULL};
  run(forward_share, &task, lookups->shares);
}

/* The gradients of the columns' weights, and of the vectors by share (shares, vectors, filled). */
EXPORT void finerank_lookups_backward(const Lookups *lookups, const float *gradient,
                                      float *of_weight, float *of_vectors) {
  Task task = {lookups, NULL, 0, NULL, gradient, of_weight, of_vectors};
  run(backward_share, &task, lookups->shares);
}
