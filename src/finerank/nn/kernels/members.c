/* Linear maps of several members side by side, each of its own input: forward and backward.

   A row has the members' inputs one after another, and so its output. Rows are worked on some at a
   time, member by member, and may pass a ReLU on their way in, so that its output never goes to
   memory.

   members.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

#define TILE 96 /* rows that are worked on together */

typedef struct {
  int64_t shares;
  int64_t rows, members, inputs, outputs; /* inputs and outputs: multiples of 16 */
  int64_t relu;                           /* whether the input passes one */
  const float *input;                     /* (rows, members, inputs) */
  const float *weight;                    /* (members, outputs, inputs) */
} Members;

typedef struct {
  const Members *members;
  const float *bias; /* (members, outputs); NULL: zeros */
  float *output;     /* (rows, members, outputs) */
  const float *gradient;
  float *of_input;  /* (rows, members, inputs) */
  float *of_weight; /* (shares, members, outputs, inputs) */
  float *of_bias;   /* (shares, members, outputs); NULL: there is none */
} Task;

static void rows_of(const Members *members, int64_t share, int64_t *row, int64_t *end) {
  *row = members->rows * share / members->shares;
  *end = members->rows * (share + 1) / members->shares;
}

/* Of some rows of a member's input, side by side, what has passed the ReLU. */
static void opened(const Members *members, const float *input, int64_t rows, float *found) {
  int64_t inputs = members->inputs, row_of_input = members->members * inputs;
  for (int64_t row = 0; row < rows; row++, input += row_of_input, found += inputs)
    for (int64_t column = 0; column < inputs; column += WIDTH) {
      vector x = load(input + column);
      store(found + column, members->relu ? choose(x <= 0.0f, all(0.0f), x) : x); /* NaN stays */
    }
}

static void forward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Members *members = task->members;
  int64_t inputs = members->inputs, outputs = members->outputs, row, end;
  int64_t input_row = members->members * inputs, output_row = members->members * outputs;
  float *active = numbers(TILE * inputs);
  rows_of(members, share, &row, &end);
  for (int64_t member = 0; member < members->members; member++) {
    float *weight = pack(members->weight + member * outputs * inputs, inputs, outputs, outputs, 1,
                         inputs);
    for (int64_t at = row; at < end; at += TILE) {
      int64_t rows = smaller(TILE, end - at);
      float *output = task->output + at * output_row + member * outputs;
      for (int64_t i = 0; i < rows; i++) {
        if (task->bias == NULL)
          memset(output + i * output_row, 0, (size_t)outputs * 4);
        else
          memcpy(output + i * output_row, task->bias + member * outputs, (size_t)outputs * 4);
      }
      opened(members, members->input + at * input_row + member * inputs, rows, active);
      product(rows, inputs, outputs, active, inputs, 1, weight, PACKED, output, output_row);
    }
    free(weight);
  }
  free(active);
}

/* Close the gradient (rows, inputs) where the input did not pass the ReLU. */
static void closed(const Members *members, const float *input, int64_t rows, float *gradient) {
  int64_t row_of_input = members->members * members->inputs;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < members->inputs; column += WIDTH) {
      float *at = gradient + row * row_of_input + column;
      vector x = load(input + row * row_of_input + column);
      store(at, choose(x <= 0.0f, all(0.0f), load(at)));
    }
}

static void backward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Members *members = task->members;
  int64_t inputs = members->inputs, outputs = members->outputs, row, end;
  int64_t input_row = members->members * inputs, output_row = members->members * outputs;
  float *active = numbers(TILE * inputs);
  rows_of(members, share, &row, &end);
  for (int64_t member = 0; member < members->members; member++) {
    int64_t place = share * members->members + member;
    float *of_weight = task->of_weight + place * outputs * inputs;
    float *of_bias = task->of_bias == NULL ? NULL : task->of_bias + place * outputs;
    float *weight = pack(members->weight + member * outputs * inputs, outputs, inputs, inputs,
                         inputs, 1);
    memset(of_weight, 0, (size_t)(outputs * inputs) * 4);
    if (of_bias != NULL) memset(of_bias, 0, (size_t)outputs * 4);
    for (int64_t at = row; at < end; at += TILE) {
      int64_t rows = smaller(TILE, end - at);
      const float *input = members->input + at * input_row + member * inputs;
      const float *gradient = task->gradient + at * output_row + member * outputs;
      float *of_input = task->of_input + at * input_row + member * inputs;
      opened(members, input, rows, active);
      product(outputs, rows, inputs, gradient, 1, output_row, active, inputs, of_weight, inputs);
      for (int64_t column = 0; of_bias != NULL && column < outputs; column += WIDTH) {
        vector sum = load(of_bias + column);
        for (int64_t i = 0; i < rows; i++) sum += load(gradient + i * output_row + column);
        store(of_bias + column, sum);
      }
      for (int64_t i = 0; i < rows; i++)
        memset(of_input + i * input_row, 0, (size_t)inputs * 4);
      product(rows, outputs, inputs, gradient, output_row, 1, weight, PACKED, of_input, input_row);
      if (members->relu) closed(members, input, rows, of_input);
    }
    free(weight);
  }
  free(active);
}

/* output (rows, members, outputs): each member's input times its weight, and its bias. */
EXPORT void finerank_members_forward(const Members *members, const float *bias, float *output) {
  Task task = {members, bias, output, NULL, NULL, NULL, NULL};
  run(forward_share, &task, members->shares);
}

/* The gradients of the input, and by share of the weights and the bias. */
EXPORT void finerank_members_backward(const Members *members, const float *gradient,
                                      float *of_input, float *of_weight, float *of_bias) {
  Task task = {members, NULL, NULL, gradient, of_input, of_weight, of_bias};
  run(backward_share, &task, members->shares);
}
