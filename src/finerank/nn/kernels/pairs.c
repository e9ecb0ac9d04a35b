/* The attention's MLP over pairs of a candidate and a history step, forward and backward.

   Pairs are worked on some rows at a time, which stay in the first caches, so that of each layer
   only its linear map's output goes to memory and comes back. Layer by layer, because Dice needs
   the mean and the variance over all rows before its first.

   A layer's width is filled up with zeros to a multiple of 16 numbers. Pairs are divided into
   shares.

   nn/pair_mlp.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

#define TILE 60 /* rows that are worked on together */
#define LONG 16 /* steps from which a matrix for the candidate pays */

/* ---- Activations ---- */

/* An activation s (alpha + (1 - alpha) p), with p the sigmoid of the normalised s (Dice) or
   whether s is above 0 (PReLU; ReLU, where alpha is 0). */
typedef struct {
  const float *alpha;       /* (width) */
  const float *mean;        /* (width), of Dice */
  const float *inverse_std; /* (width); NULL: no Dice */
  /* of the gradient that flows through mean and variance, (width): */
  const float *scale, *slope, *constant;
} Activation;

INLINE vector openness(const Activation *f, vector s, int64_t column) {
  if (f->inverse_std == NULL) return choose(s > 0.0f, all(1.0f), all(0.0f));
  vector normal = (s - load(f->mean + column)) * load(f->inverse_std + column);
  return 1.0f / (1.0f + exponential(-normal));
}

static void activate(const Activation *f, int64_t rows, int64_t width, const float *s,
                     float *output) {
  for (int64_t column = 0; column < width; column += WIDTH) {
    vector alpha = load(f->alpha + column), beta = 1.0f - alpha;
    for (int64_t row = 0; row < rows; row++) {
      vector x = load(s + row * width + column);
      store(output + row * width + column, x * (alpha + beta * openness(f, x, column)));
    }
  }
}

/* What the gradient of an activation sums over rows: of alpha, of the normalised s without its
   factor 1 - alpha, and of that times s - mean. g: the output's gradient. */
static void sum_gradients(const Activation *f, int64_t rows, int64_t width, const float *s,
                          const float *g, double *sums) {
  for (int64_t column = 0; column < width; column += WIDTH) {
    vector of_alpha = {0}, total = {0}, along = {0};
    vector mean = f->inverse_std == NULL ? all(0.0f) : load(f->mean + column);
    for (int64_t row = 0; row < rows; row++) {
      vector x = load(s + row * width + column), p = openness(f, x, column);
      vector product = load(g + row * width + column) * x;
      vector closed = product * (1.0f - p), of_normal = closed * p;
      of_alpha += closed;
      total += of_normal;
      along += of_normal * (x - mean);
    }
    for (int i = 0; i < WIDTH; i++) {
      sums[column + i] += of_alpha[i];
      sums[width + column + i] += total[i];
      sums[2 * width + column + i] += along[i];
    }
  }
}

/* The gradient of s from that of the output, in place. */
static void differentiate(const Activation *f, int64_t rows, int64_t width, const float *s,
                          float *g) {
  for (int64_t column = 0; column < width; column += WIDTH) {
    vector alpha = load(f->alpha + column), beta = 1.0f - alpha;
    if (f->inverse_std == NULL) {
      for (int64_t row = 0; row < rows; row++) {
        float *at = g + row * width + column;
        vector x = load(s + row * width + column);
        store(at, load(at) * (alpha + beta * openness(f, x, column)));
      }
      continue;
    }
    vector scale = load(f->scale + column), slope = load(f->slope + column);
    vector constant = load(f->constant + column);
    for (int64_t row = 0; row < rows; row++) {
      float *at = g + row * width + column;
      vector x = load(s + row * width + column), p = openness(f, x, column), y = load(at);
      vector of_normal = y * x * p * (1.0f - p);
      store(at, of_normal * scale + constant - x * slope + (alpha + beta * p) * y);
    }
  }
}

/* ---- Statistics ---- */

/* Add some rows to the mean and the sum of squares about it (Chan, Golub and LeVeque, 1979). */
static void add_statistics(int64_t rows, int64_t width, const float *s, int64_t before,
                           double *statistics) {
  double share = (double)rows / (double)(before + rows);
  for (int64_t column = 0; column < width; column += WIDTH) {
    vector sum = {0}, squares = {0};
    for (int64_t row = 0; row < rows; row++) sum += load(s + row * width + column);
    vector mean = sum / (float)rows;
    for (int64_t row = 0; row < rows; row++) {
      vector difference = load(s + row * width + column) - mean;
      squares += difference * difference;
    }
    for (int i = 0; i < WIDTH; i++) {
      double *of_mean = statistics + column + i, *of_squares = statistics + width + column + i;
      double difference = (double)mean[i] - *of_mean;
      *of_mean += difference * share;
      *of_squares += (double)squares[i] + difference * difference * share * (double)before;
    }
  }
}

/* ---- Pairs ---- */

/* Which candidate and step each pair is of. A candidate's pairs follow the steps of its history. */
typedef struct {
  int64_t shares;
  const int64_t *bounds;     /* (shares + 1): the candidates of each share */
  const int64_t *offsets;    /* (candidates + 1): each one's pairs */
  const int64_t *first_step; /* (candidates) */
  const float *candidate;    /* (candidates, dim) */
  const float *values;       /* (steps, step_dim) */
  int64_t dim, step_dim;
  int64_t joint; /* whether the step itself stands before the product in what is multiplied */
} Pairs;

INLINE int64_t start_of(const Pairs *pairs, int64_t share) {
  return pairs->offsets[pairs->bounds[share]];
}

INLINE int64_t input_width(const Pairs *pairs) {
  return (pairs->joint ? pairs->step_dim : 0) + pairs->dim;
}

/* The candidate of a pair, at or behind that of an earlier one. */
INLINE int64_t candidate_of(const Pairs *pairs, int64_t pair, int64_t candidate) {
  while (pairs->offsets[candidate + 1] <= pair) candidate++;
  return candidate;
}

/* The step of a candidate's pair. */
INLINE int64_t step_of(const Pairs *pairs, int64_t candidate, int64_t pair) {
  return pairs->first_step[candidate] + pair - pairs->offsets[candidate];
}

/* What the first layer reads of a pair. */
INLINE void read_pair(const Pairs *pairs, int64_t candidate, int64_t step, float *input) {
  const float *c = pairs->candidate + candidate * pairs->dim;
  const float *h = pairs->values + step * pairs->step_dim;
  if (pairs->joint) {
    memcpy(input, h, (size_t)pairs->step_dim * 4);
    input += pairs->step_dim;
  }
  for (int64_t i = 0; i < pairs->dim; i++) input[i] = c[i] * h[i];
}

/* The pairs that are worked on next, of a share's: those of a candidate whose history is long and
   nobody else's, up to a tile of them; or a tile of others'. */
typedef struct {
  int64_t start, rows;
  int64_t candidate; /* of the first pair */
  int is_long;
} Part;

INLINE int is_long(const Pairs *pairs, int64_t candidate) {
  return pairs->joint && pairs->offsets[candidate + 1] - pairs->offsets[candidate] >= LONG;
}

static Part next_part(const Pairs *pairs, Part before, int64_t end) {
  Part part = {before.start + before.rows, 0, before.candidate, 0};
  if (part.start >= end) return part;
  part.candidate = candidate_of(pairs, part.start, before.candidate);
  part.is_long = is_long(pairs, part.candidate);
  int64_t after = part.candidate + 1;
  if (!part.is_long)
    while (pairs->offsets[after] < end && pairs->offsets[after] - part.start < TILE &&
           !is_long(pairs, after))
      after++;
  part.rows = smaller(TILE, smaller(end, pairs->offsets[after]) - part.start);
  return part;
}

/* The first layer's matrix for one candidate, W_h + W_p diag(c), which has the product with the
   candidate in it, so that a step takes one product of its own width. Both are laid out alike: the
   inputs are the rows, or else the columns. */
static void matrix_of(int64_t depth, int64_t width, int inputs_are_rows, const float *c,
                      const float *of_step, const float *of_product, float *matrix) {
  int64_t most = together(width) * WIDTH;
  for (int64_t group = 0; group < width; group += most) {
    int64_t size = smaller(most, width - group);
    for (int64_t k = 0; k < depth; k++)
      for (int64_t column = 0; column < size; column += WIDTH) {
        int64_t at = group * depth + k * size + column;
        vector factor = inputs_are_rows ? all(c[k]) : load(c + group + column);
        store(matrix + at, load(of_step + at) + factor * load(of_product + at));
      }
  }
}

/* A candidate with zeros behind it, as wide as a step is filled up. */
static void read_candidate(const Pairs *pairs, int64_t candidate, int64_t filled, float *c) {
  memcpy(c, pairs->candidate + candidate * pairs->dim, (size_t)pairs->dim * 4);
  memset(c + pairs->dim, 0, (size_t)(filled - pairs->dim) * 4);
}

/* The first layer: output (pairs, width) is the candidate's part (candidates, width), the step's
   (steps, width) where there is one, and the product with what is read of a pair. Statistics, of
   each share: the mean and the sum of squares about it (2, width). */
typedef struct {
  const Pairs *pairs;
  const float *by_candidate, *by_step;
  const float *weight;                /* from what is read of a pair */
  const float *of_step, *of_product;  /* its parts apart, where they are joint */
  int64_t width;
  float *output;
  double *statistics;
} First;

static void first_of_share(void *argument, int64_t share) {
  First *task = argument;
  const Pairs *pairs = task->pairs;
  int64_t width = task->width, inputs = input_width(pairs), step_dim = pairs->step_dim;
  int64_t start = start_of(pairs, share), end = start_of(pairs, share + 1);
  float *input = numbers(TILE * inputs), *c = numbers(step_dim);
  float *matrix = numbers(step_dim * width);
  int64_t of_matrix = -1; /* the candidate whose matrix it is */
  Part part = {start, 0, pairs->bounds[share], 0};
  for (part = next_part(pairs, part, end); part.rows > 0; part = next_part(pairs, part, end)) {
    float *output = task->output + part.start * width;
    int64_t candidate = part.candidate;
    for (int64_t row = 0; row < part.rows; row++) {
      int64_t pair = part.start + row;
      candidate = candidate_of(pairs, pair, candidate);
      int64_t step = step_of(pairs, candidate, pair);
      if (!part.is_long) read_pair(pairs, candidate, step, input + row * inputs);
      float *of_row = output + row * width;
      const float *of_candidate = task->by_candidate + candidate * width;
      if (task->by_step == NULL) {
        memcpy(of_row, of_candidate, (size_t)width * 4);
        continue;
      }
      const float *of_step = task->by_step + step * width;
      for (int64_t i = 0; i < width; i++) of_row[i] = of_candidate[i] + of_step[i];
    }
    if (part.is_long) {
      if (of_matrix != candidate) {
        read_candidate(pairs, candidate, step_dim, c);
        matrix_of(step_dim, width, 1, c, task->of_step, task->of_product, matrix);
        of_matrix = candidate;
      }
      int64_t step = step_of(pairs, candidate, part.start);
      const float *h = pairs->values + step * step_dim;
      add_product(part.rows, step_dim, width, h, step_dim, 1, matrix, PACKED, output, width);
    } else {
      add_product(part.rows, inputs, width, input, inputs, 1, task->weight, PACKED, output, width);
    }
    if (task->statistics != NULL)
      add_statistics(part.rows, width, output, part.start - start,
                     task->statistics + share * 2 * width);
  }
  free(input);
  free(c);
  free(matrix);
}

/* The step's and the product's columns of a weight (outputs, step_dim + dim), each laid out as a
   matrix of step_dim inputs; the product's are filled up with zeros. */
static void pack_apart(const Pairs *pairs, const float *weight, int64_t outputs, int64_t filled,
                       int from_outputs, float **of_step, float **of_product) {
  int64_t step_dim = pairs->step_dim, dim = pairs->dim, inputs = step_dim + dim;
  float *wide = zeros(outputs * step_dim);
  for (int64_t output = 0; output < outputs; output++)
    memcpy(wide + output * step_dim, weight + output * inputs + step_dim, (size_t)dim * 4);
  if (from_outputs) {
    *of_step = pack(weight, outputs, step_dim, filled, inputs, 1);
    *of_product = pack(wide, outputs, step_dim, filled, step_dim, 1);
  } else {
    *of_step = pack(weight, step_dim, outputs, filled, 1, inputs);
    *of_product = pack(wide, step_dim, outputs, filled, 1, step_dim);
  }
  free(wide);
}

EXPORT void finerank_first(const Pairs *pairs, const float *by_candidate, const float *by_step,
                    const float *weight, int64_t outputs, int64_t width, float *output,
                    double *statistics) {
  int64_t inputs = input_width(pairs);
  float *packed = pack(weight, inputs, outputs, width, 1, inputs);
  float *of_step = NULL, *of_product = NULL;
  if (pairs->joint) pack_apart(pairs, weight, outputs, width, 0, &of_step, &of_product);
  First task = {pairs,      by_candidate, by_step, packed, of_step,
                of_product, width,        output,  statistics};
  run(first_of_share, &task, pairs->shares);
  free(packed);
  free(of_step);
  free(of_product);
}

/* A further layer: of the activated input (pairs, input_width), `inputs` of it in use. */
typedef struct {
  const Pairs *pairs;
  const Activation *activation;
  const float *input, *weight, *bias;
  int64_t inputs, input_width, width;
  float *output;
  double *statistics;
} Next;

static void next_of_share(void *argument, int64_t share) {
  Next *task = argument;
  int64_t width = task->width, filled = task->input_width;
  int64_t start = start_of(task->pairs, share), end = start_of(task->pairs, share + 1);
  float *active = numbers(TILE * filled);
  for (int64_t pair = start; pair < end; pair += TILE) {
    int64_t rows = smaller(TILE, end - pair);
    activate(task->activation, rows, filled, task->input + pair * filled, active);
    float *output = task->output + pair * width;
    for (int64_t row = 0; row < rows; row++)
      memcpy(output + row * width, task->bias, (size_t)width * 4);
    add_product(rows, task->inputs, width, active, filled, 1, task->weight, PACKED, output, width);
    if (task->statistics != NULL)
      add_statistics(rows, width, output, pair - start, task->statistics + share * 2 * width);
  }
  free(active);
}

EXPORT void finerank_next(const Pairs *pairs, const Activation *activation, const float *input,
                   int64_t inputs, int64_t filled, const float *weight, const float *bias,
                   int64_t outputs, int64_t width, float *output, double *statistics) {
  float *packed = pack(weight, inputs, outputs, width, 1, inputs);
  Next task = {pairs, activation, input, packed, bias, inputs, filled, width, output, statistics};
  run(next_of_share, &task, pairs->shares);
  free(packed);
}

static void last_of_share(void *argument, int64_t share) {
  Next *task = argument;
  int64_t filled = task->input_width;
  int64_t start = start_of(task->pairs, share), end = start_of(task->pairs, share + 1);
  float *active = numbers(TILE * filled);
  for (int64_t pair = start; pair < end; pair += TILE) {
    int64_t rows = smaller(TILE, end - pair);
    activate(task->activation, rows, filled, task->input + pair * filled, active);
    for (int64_t row = 0; row < rows; row++) {
      vector sum = {0};
      for (int64_t column = 0; column < filled; column += WIDTH)
        sum += load(active + row * filled + column) * load(task->weight + column);
      float logit = task->bias[0];
      for (int i = 0; i < WIDTH; i++) logit += sum[i];
      task->output[pair + row] = logit;
    }
  }
  free(active);
}

/* The logit (pairs) of the last layer's activated output. */
EXPORT void finerank_last(const Pairs *pairs, const Activation *activation, const float *input,
                   int64_t filled, const float *weight, const float *bias, float *output) {
  Next task = {pairs, activation, input, weight, bias, 0, filled, 0, output, NULL};
  run(last_of_share, &task, pairs->shares);
}

/* Each candidate's steps, weighted: output (candidates, step_dim). */
typedef struct {
  const Pairs *pairs;
  const float *weights, *gradient;
  float *output;
} Sum;

static void sum_of_share(void *argument, int64_t share) {
  Sum *task = argument;
  const Pairs *pairs = task->pairs;
  int64_t width = pairs->step_dim;
  for (int64_t b = pairs->bounds[share]; b < pairs->bounds[share + 1]; b++) {
    float *output = task->output + b * width;
    const float *h = pairs->values + pairs->first_step[b] * width;
    memset(output, 0, (size_t)width * 4);
    for (int64_t pair = pairs->offsets[b]; pair < pairs->offsets[b + 1]; pair++, h += width)
      for (int64_t i = 0; i < width; i++) output[i] += task->weights[pair] * h[i];
  }
}

EXPORT void finerank_sum(const Pairs *pairs, const float *weights, float *output) {
  Sum task = {pairs, weights, NULL, output};
  run(sum_of_share, &task, pairs->shares);
}

/* ---- Gradients ---- */

static void sum_gradient_of_share(void *argument, int64_t share) {
  Sum *task = argument;
  const Pairs *pairs = task->pairs;
  int64_t width = pairs->step_dim, whole = width / WIDTH * WIDTH;
  for (int64_t b = pairs->bounds[share]; b < pairs->bounds[share + 1]; b++) {
    const float *g = task->gradient + b * width;
    const float *h = pairs->values + pairs->first_step[b] * width;
    for (int64_t pair = pairs->offsets[b]; pair < pairs->offsets[b + 1]; pair++, h += width) {
      vector sum = {0};
      for (int64_t i = 0; i < whole; i += WIDTH) sum += load(g + i) * load(h + i);
      float total = 0;
      for (int i = 0; i < WIDTH; i++) total += sum[i];
      for (int64_t i = whole; i < width; i++) total += g[i] * h[i];
      task->output[pair] = total;
    }
  }
}

/* The gradient of the weights (pairs) from that of the sums (candidates, step_dim). */
EXPORT void finerank_sum_gradient(const Pairs *pairs, const float *gradient, float *of_weights) {
  Sum task = {pairs, NULL, gradient, of_weights};
  run(sum_gradient_of_share, &task, pairs->shares);
}

/* The gradient of a layer's activated output: a row's of the logit times the last weight, or one
   that is stored. */
typedef struct {
  const float *of_logit, *last_weight; /* (pairs), (width); NULL: */
  const float *stored;                 /* (pairs, width) */
} Upstream;

static void read_upstream(const Upstream *from, int64_t pair, int64_t rows, int64_t width,
                          float *g) {
  if (from->stored != NULL) {
    memcpy(g, from->stored + pair * width, (size_t)(rows * width) * 4);
    return;
  }
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < width; column += WIDTH)
      store(g + row * width + column,
            from->of_logit[pair + row] * load(from->last_weight + column));
}

/* Sums, of each share: those of `sum_gradients` and the last weight's gradient (4, width). */
typedef struct {
  const Pairs *pairs;
  const Activation *activation;
  const float *input, *of_logit, *weight;
  int64_t width;
  double *sums;
} LastGradient;

static void last_gradient_of_share(void *argument, int64_t share) {
  LastGradient *task = argument;
  int64_t width = task->width;
  int64_t start = start_of(task->pairs, share), end = start_of(task->pairs, share + 1);
  Upstream from = {task->of_logit, task->weight, NULL};
  double *sums = task->sums + share * 4 * width, *of_weight = sums + 3 * width;
  float *active = numbers(TILE * width), *g = numbers(TILE * width);
  for (int64_t pair = start; pair < end; pair += TILE) {
    int64_t rows = smaller(TILE, end - pair);
    const float *s = task->input + pair * width;
    activate(task->activation, rows, width, s, active);
    for (int64_t column = 0; column < width; column += WIDTH) {
      vector sum = {0};
      for (int64_t row = 0; row < rows; row++)
        sum += task->of_logit[pair + row] * load(active + row * width + column);
      for (int i = 0; i < WIDTH; i++) of_weight[column + i] += sum[i];
    }
    read_upstream(&from, pair, rows, width, g);
    sum_gradients(task->activation, rows, width, s, g, sums);
  }
  free(active);
  free(g);
}

EXPORT void finerank_last_gradient(const Pairs *pairs, const Activation *activation,
                                   const float *input, int64_t width, const float *weight,
                                   const float *of_logit, double *sums) {
  LastGradient task = {pairs, activation, input, of_logit, weight, width, sums};
  run(last_gradient_of_share, &task, pairs->shares);
}

/* A further layer's gradients: of its weight (inputs, width) and bias for each share, of its input
   (pairs, filled), and the sums (3, filled) of the activation before. */
typedef struct {
  const Pairs *pairs;
  const Activation *activation, *before;
  const Upstream *from;
  const float *output, *input, *weight;
  int64_t inputs, filled, outputs, width;
  float *of_weight, *of_input;
  double *of_bias, *sums;
} NextGradient;

static void next_gradient_of_share(void *argument, int64_t share) {
  NextGradient *task = argument;
  int64_t width = task->width, filled = task->filled;
  int64_t start = start_of(task->pairs, share), end = start_of(task->pairs, share + 1);
  float *of_weight = task->of_weight + share * task->inputs * width;
  double *of_bias = task->of_bias + share * width, *sums = task->sums + share * 3 * filled;
  float *active = numbers(TILE * filled), *g = numbers(TILE * width);
  for (int64_t pair = start; pair < end; pair += TILE) {
    int64_t rows = smaller(TILE, end - pair);
    const float *s = task->input + pair * filled;
    float *of_input = task->of_input + pair * filled;
    read_upstream(task->from, pair, rows, width, g);
    differentiate(task->activation, rows, width, task->output + pair * width, g);
    for (int64_t column = 0; column < width; column += WIDTH) {
      vector sum = {0};
      for (int64_t row = 0; row < rows; row++) sum += load(g + row * width + column);
      for (int i = 0; i < WIDTH; i++) of_bias[column + i] += sum[i];
    }
    activate(task->before, rows, filled, s, active);
    add_product(task->inputs, rows, width, active, 1, filled, g, width, of_weight, width);
    product(rows, task->outputs, filled, g, width, 1, task->weight, PACKED, of_input, filled);
    sum_gradients(task->before, rows, filled, s, of_input, sums);
  }
  free(active);
  free(g);
}

EXPORT void finerank_next_gradient(const Pairs *pairs, const Activation *activation,
                            const Activation *before, const Upstream *from, const float *output,
                            const float *input, const float *weight, int64_t inputs,
                            int64_t filled, int64_t outputs, int64_t width, float *of_weight,
                            float *of_input, double *of_bias, double *sums) {
  float *packed = pack(weight, outputs, inputs, filled, inputs, 1);
  NextGradient task = {pairs,   activation, before,    from,     output,  input,
                       packed,  inputs,     filled,    outputs,  width,   of_weight,
                       of_input, of_bias,   sums};
  run(next_gradient_of_share, &task, pairs->shares);
  free(packed);
}

/* The first layer's: of the weight for each share, of what came from candidates and steps, and of
   these themselves, with what their weighted sum adds to the steps. */
typedef struct {
  const Pairs *pairs;
  const Activation *activation;
  const Upstream *from;
  const float *output, *weight;
  const float *of_step, *of_product; /* laid out from outputs to inputs */
  const float *product_weight;       /* (step_dim, width): the product's, from inputs to outputs */
  int64_t outputs, width, filled, step_filled;
  const float *weights, *of_sums;
  float *of_weight, *by_candidate, *by_step, *of_candidate, *of_values;
} FirstGradient;

/* What a long history's pairs add to the gradients, by its candidate's matrix. */
static void add_long(const FirstGradient *task, const Part *part, const float *g,
                     const float *matrix, float *of_matrix, float *of_input, float *of_weight) {
  const Pairs *pairs = task->pairs;
  int64_t width = task->width, dim = pairs->dim, step_dim = pairs->step_dim;
  int64_t filled = task->step_filled, candidate = part->candidate;
  int64_t step = step_of(pairs, candidate, part->start);
  const float *h = pairs->values + step * step_dim, *c = pairs->candidate + candidate * dim;
  product(step_dim, part->rows, width, h, 1, step_dim, g, width, of_matrix, width);
  float *to_candidate = task->of_candidate + candidate * dim;
  for (int64_t k = 0; k < step_dim; k++) {
    const float *of_row = of_matrix + k * width;
    float *to_step = of_weight + k * width, *to_product = of_weight + (step_dim + k) * width;
    vector sum = {0};
    for (int64_t column = 0; column < width; column += WIDTH) {
      vector x = load(of_row + column);
      store(to_step + column, load(to_step + column) + x);
      if (k >= dim) continue;
      store(to_product + column, load(to_product + column) + c[k] * x);
      sum += x * load(task->product_weight + k * width + column);
    }
    if (k < dim)
      for (int i = 0; i < WIDTH; i++) to_candidate[k] += sum[i];
  }
  product(part->rows, task->outputs, filled, g, width, 1, matrix, PACKED, of_input, filled);
  const float *of_sum = task->of_sums + candidate * step_dim;
  for (int64_t row = 0; row < part->rows; row++) {
    float weight = task->weights[part->start + row];
    float *to_step = task->of_values + (step + row) * step_dim;
    for (int64_t i = 0; i < step_dim; i++)
      to_step[i] = of_input[row * filled + i] + weight * of_sum[i];
  }
}

/* What other pairs add: of each its own input. */
static void add_short(const FirstGradient *task, const Part *part, const float *g, float *input,
                      float *of_input, float *of_weight) {
  const Pairs *pairs = task->pairs;
  int64_t width = task->width, filled = task->filled, inputs = input_width(pairs);
  int64_t dim = pairs->dim, step_dim = pairs->step_dim, behind = inputs - dim;
  int64_t candidate = part->candidate;
  for (int64_t row = 0; row < part->rows; row++) {
    int64_t pair = part->start + row;
    candidate = candidate_of(pairs, pair, candidate);
    int64_t step = step_of(pairs, candidate, pair);
    read_pair(pairs, candidate, step, input + row * inputs);
  }
  add_product(inputs, part->rows, width, input, 1, inputs, g, width, of_weight, width);
  product(part->rows, task->outputs, filled, g, width, 1, task->weight, PACKED, of_input, filled);
  candidate = part->candidate;
  for (int64_t row = 0; row < part->rows; row++) {
    int64_t pair = part->start + row;
    candidate = candidate_of(pairs, pair, candidate);
    int64_t step = step_of(pairs, candidate, pair);
    const float *of_step = of_input + row * filled, *of_crossed = of_step + behind;
    const float *c = pairs->candidate + candidate * dim;
    /* of_values may be where the values are */
    const float *h = pairs->joint ? input + row * inputs : pairs->values + step * step_dim;
    const float *of_sum = task->of_sums + candidate * step_dim;
    float weight = task->weights[pair];
    float *to_step = task->of_values + step * step_dim;
    float *to_candidate = task->of_candidate + candidate * dim;
    if (pairs->joint) /* the step's only pair */
      for (int64_t i = 0; i < step_dim; i++) to_step[i] = of_step[i] + weight * of_sum[i];
    else
      for (int64_t i = 0; i < step_dim; i++) to_step[i] += weight * of_sum[i];
    for (int64_t i = 0; i < dim; i++) {
      to_candidate[i] += of_crossed[i] * h[i];
      to_step[i] += of_crossed[i] * c[i];
    }
  }
}

static void first_gradient_of_share(void *argument, int64_t share) {
  FirstGradient *task = argument;
  const Pairs *pairs = task->pairs;
  int64_t width = task->width, inputs = input_width(pairs), step_dim = pairs->step_dim;
  int64_t end = start_of(pairs, share + 1);
  float *of_weight = task->of_weight + share * inputs * width;
  float *input = numbers(TILE * inputs), *g = numbers(TILE * width);
  float *of_input = numbers(TILE * task->filled), *c = numbers(task->step_filled);
  float *matrix = numbers(task->outputs * task->step_filled);
  float *of_matrix = numbers(step_dim * width);
  int64_t whose_matrix = -1;
  Part part = {start_of(pairs, share), 0, pairs->bounds[share], 0};
  for (part = next_part(pairs, part, end); part.rows > 0; part = next_part(pairs, part, end)) {
    int64_t candidate = part.candidate;
    read_upstream(task->from, part.start, part.rows, width, g);
    differentiate(task->activation, part.rows, width, task->output + part.start * width, g);
    for (int64_t row = 0; row < part.rows; row++) {
      int64_t pair = part.start + row;
      candidate = candidate_of(pairs, pair, candidate);
      float *sum = task->by_candidate + candidate * width, *of_row = g + row * width;
      for (int64_t i = 0; i < width; i++) sum[i] += of_row[i];
      if (task->by_step == NULL) continue;
      int64_t step = step_of(pairs, candidate, pair);
      sum = task->by_step + step * width;
      for (int64_t i = 0; i < width; i++) sum[i] += of_row[i];
    }
    if (!part.is_long) {
      add_short(task, &part, g, input, of_input, of_weight);
      continue;
    }
    if (whose_matrix != candidate) {
      read_candidate(pairs, candidate, task->step_filled, c);
      matrix_of(task->outputs, task->step_filled, 0, c, task->of_step, task->of_product, matrix);
      whose_matrix = candidate;
    }
    add_long(task, &part, g, matrix, of_matrix, of_input, of_weight);
  }
  free(input);
  free(g);
  free(of_input);
  free(c);
  free(matrix);
  free(of_matrix);
}

EXPORT void finerank_first_gradient(const Pairs *pairs, const Activation *activation,
                             const Upstream *from, const float *output, const float *weight,
                             int64_t outputs, int64_t width, const float *weights,
                             const float *of_sums, float *of_weight, float *by_candidate,
                             float *by_step, float *of_candidate, float *of_values) {
  int64_t inputs = input_width(pairs), filled = filled_up(inputs);
  int64_t step_dim = pairs->step_dim, step_filled = filled_up(step_dim);
  FirstGradient task = {
      .pairs = pairs, .activation = activation, .from = from, .output = output,
      .outputs = outputs, .width = width, .filled = filled, .step_filled = step_filled,
      .weights = weights, .of_sums = of_sums, .of_weight = of_weight,
      .by_candidate = by_candidate, .by_step = by_step, .of_candidate = of_candidate,
      .of_values = of_values};
  float *packed = pack(weight, outputs, inputs, filled, inputs, 1);
  float *of_step = NULL, *of_product = NULL, *product_weight = NULL;
  if (pairs->joint) {
    pack_apart(pairs, weight, outputs, step_filled, 1, &of_step, &of_product);
    product_weight = zeros(step_dim * width);
    for (int64_t o = 0; o < outputs; o++)
      for (int64_t k = 0; k < pairs->dim; k++)
        product_weight[k * width + o] = weight[o * inputs + step_dim + k];
  }
  task.weight = packed;
  task.of_step = of_step;
  task.of_product = of_product;
  task.product_weight = product_weight;
  run(first_gradient_of_share, &task, pairs->shares);
  free(packed);
  free(of_step);
  free(of_product);
  free(product_weight);
}
