/* Linear maps of several members side by side, each of its own input: forward and backward.

   A row has the members' inputs one after another, and so its output. Rows are worked on some at a
   time, member by member, and may pass a ReLU on their way in, so that its output never goes to
   memory.

   nn/compiled_linear.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

#define TILE 120 /* rows that are worked on together */

typedef struct {
  int64_t shares;
  int64_t rows, members, inputs, outputs;
  int64_t relu;        /* whether the input passes one */
  const float *input;  /* (rows, members, inputs) */
  const float *weight; /* (members, outputs, inputs) */
} Members;

typedef struct {
  const Members *members;
  const float *packed; /* the only member's weight; NULL: each share packs one after another */
  const float *bias;   /* (members, outputs); NULL: zeros */
  float *output;       /* (rows, members, outputs) */
  const float *gradient;
  float *of_input;  /* (rows, members, inputs); NULL: it needs none */
  float *of_weight; /* (members, outputs, inputs), of the first share; NULL: it needs none */
  float *of_others; /* of the shares behind it (shares - 1, members, outputs, inputs) */
} Task;

/* Copy a matrix; the distance of its rows may be another. */
static void copy(int64_t rows, int64_t width, const float *from, int64_t from_row, float *to,
                 int64_t to_row) {
  for (int64_t row = 0; row < rows; row++)
    memcpy(to + row * to_row, from + row * from_row, (size_t)width * 4);
}

/* Of some rows of a member's input what has passed the ReLU, filled up with what is there. */
static void opened(const Members *members, const float *input, int64_t rows, float *found) {
  int64_t inputs = members->inputs, filled = filled_up(inputs);
  int64_t row_of_input = members->members * inputs;
  if (!members->relu) {
    copy(rows, inputs, input, row_of_input, found, filled);
    return;
  }
  for (int64_t row = 0; row < rows; row++, input += row_of_input, found += filled) {
    int64_t column = 0;
    for (; column + WIDTH <= inputs; column += WIDTH) {
      vector x = load(input + column);
      store(found + column, choose(x <= 0.0f, all(0.0f), x)); /* NaN stays */
    }
    for (; column < inputs; column++) found[column] = input[column] <= 0 ? 0 : input[column];
  }
}

/* Close the gradient (rows, inputs) where the input did not pass the ReLU. */
static void closed(const Members *members, const float *input, int64_t rows, float *gradient) {
  int64_t inputs = members->inputs, row_of_input = members->members * inputs;
  for (int64_t row = 0; row < rows; row++, input += row_of_input, gradient += row_of_input) {
    int64_t column = 0;
    for (; column + WIDTH <= inputs; column += WIDTH) {
      vector x = load(input + column);
      store(gradient + column, choose(x <= 0.0f, all(0.0f), load(gradient + column)));
    }
    for (; column < inputs; column++)
      if (input[column] <= 0) gradient[column] = 0;
  }
}

/* Rows of zeros, or each of the same numbers. */
static void fill(int64_t rows, int64_t width, const float *numbers_of_row, float *to,
                 int64_t to_row) {
  for (int64_t row = 0; row < rows; row++) {
    if (numbers_of_row == NULL)
      memset(to + row * to_row, 0, (size_t)width * 4);
    else
      memcpy(to + row * to_row, numbers_of_row, (size_t)width * 4);
  }
}

/* A member's weight as the products take it: for its output, and for the gradient of its input. */
static float *packed_forward(const Members *members, int64_t member) {
  int64_t inputs = members->inputs, outputs = members->outputs;
  const float *weight = members->weight + member * outputs * inputs;
  return pack(weight, inputs, outputs, filled_up(outputs), 1, inputs);
}

static float *packed_backward(const Members *members, int64_t member) {
  int64_t inputs = members->inputs, outputs = members->outputs;
  const float *weight = members->weight + member * outputs * inputs;
  return pack(weight, outputs, inputs, filled_up(inputs), inputs, 1);
}

static void forward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Members *members = task->members;
  int64_t inputs = members->inputs, outputs = members->outputs, row, end;
  int64_t input_row = members->members * inputs, output_row = members->members * outputs;
  int64_t filled = filled_up(outputs), active_row = filled_up(inputs);
  float *active = numbers(TILE * active_row), *tile = zeros(TILE * filled);
  part_of(members->rows, share, members->shares, &row, &end);
  for (int64_t member = 0; member < members->members; member++) {
    const float *bias = task->bias == NULL ? NULL : task->bias + member * outputs;
    float *own = task->packed == NULL ? packed_forward(members, member) : NULL;
    const float *weight = own == NULL ? task->packed : own;
    for (int64_t at = row; at < end; at += TILE) {
      int64_t rows = smaller(TILE, end - at);
      const float *input = members->input + at * input_row + member * inputs;
      float *output = task->output + at * output_row + member * outputs;
      float *to = filled == outputs ? output : tile;
      int64_t to_row = filled == outputs ? output_row : filled;
      fill(rows, outputs, bias, to, to_row);
      if (members->relu) {
        opened(members, input, rows, active);
        add_product(rows, inputs, filled, active, active_row, 1, weight, PACKED, to, to_row);
      } else {
        add_product(rows, inputs, filled, input, input_row, 1, weight, PACKED, to, to_row);
      }
      if (to == tile) copy(rows, outputs, tile, filled, output, output_row);
    }
    free(own);
  }
  free(active);
  free(tile);
}

static void backward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Members *members = task->members;
  int64_t inputs = members->inputs, outputs = members->outputs, row, end;
  int64_t input_row = members->members * inputs, output_row = members->members * outputs;
  int64_t filled = filled_up(inputs);
  float *active = zeros(TILE * filled), *tile = numbers(TILE * filled);
  int64_t size = outputs * inputs;
  float *wide = task->of_weight == NULL || filled == inputs ? NULL : numbers(outputs * filled);
  float *of_share = task->of_weight;
  if (of_share != NULL && share > 0)
    of_share = task->of_others + (share - 1) * members->members * size;
  part_of(members->rows, share, members->shares, &row, &end);
  for (int64_t member = 0; member < members->members; member++) {
    float *of_member = task->of_weight == NULL ? NULL : of_share + member * size;
    float *of_weight = wide == NULL ? of_member : wide;
    int needs_own = task->of_input != NULL && task->packed == NULL;
    float *own = needs_own ? packed_backward(members, member) : NULL;
    const float *weight = own == NULL ? task->packed : own;
    if (of_weight != NULL) memset(of_weight, 0, (size_t)(outputs * filled) * 4);
    for (int64_t at = row; at < end; at += TILE) {
      int64_t rows = smaller(TILE, end - at);
      const float *input = members->input + at * input_row + member * inputs;
      const float *gradient = task->gradient + at * output_row + member * outputs;
      if (of_weight != NULL) {
        opened(members, input, rows, active);
        add_product(outputs, rows, filled, gradient, 1, output_row, active, filled, of_weight,
                    filled);
      }
      if (weight == NULL) continue;
      float *of_input = task->of_input + at * input_row + member * inputs;
      float *to = filled == inputs ? of_input : tile;
      int64_t to_row = filled == inputs ? input_row : filled;
      product(rows, outputs, filled, gradient, output_row, 1, weight, PACKED, to, to_row);
      if (to == tile) copy(rows, inputs, tile, filled, of_input, input_row);
      if (members->relu) closed(members, input, rows, of_input);
    }
    if (wide != NULL) copy(outputs, inputs, wide, filled, of_member, inputs);
    free(own);
  }
  free(active);
  free(tile);
  free(wide);
}

/* Add what the other shares found of some of the weights' gradients to what the first did. */
static void add_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Members *members = task->members;
  int64_t size = members->members * members->outputs * members->inputs, begin, end;
  part_of(size, share, members->shares, &begin, &end);
  for (int64_t other = 0; other < members->shares - 1; other++)
    for (int64_t i = begin; i < end; i++) task->of_weight[i] += task->of_others[other * size + i];
}

/* output (rows, members, outputs): each member's input times its weight, and its bias. */
EXPORT void finerank_members_forward(const Members *members, const float *bias, float *output) {
  float *packed = members->members == 1 ? packed_forward(members, 0) : NULL;
  Task task = {members, packed, bias, output, NULL, NULL, NULL, NULL};
  run(forward_share, &task, members->shares);
  free(packed);
}

/* The gradients of the input and of the weights; those that are not NULL. */
EXPORT void finerank_members_backward(const Members *members, const float *gradient,
                                      float *of_input, float *of_weight) {
  int64_t size = members->members * members->outputs * members->inputs;
  int64_t others = of_weight == NULL ? 0 : members->shares - 1;
  float *of_others = others == 0 ? NULL : numbers(others * size);
  int is_one = members->members == 1 && of_input != NULL;
  float *packed = is_one ? packed_backward(members, 0) : NULL;
  Task task = {members, packed, NULL, NULL, gradient, of_input, of_weight, of_others};
  run(backward_share, &task, members->shares);
  if (others > 0) run(add_share, &task, members->shares);
  free(of_others);
  free(packed);
}
