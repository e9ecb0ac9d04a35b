/* Mixtures of experts: the softmax of the gates' logits and the weighted sum of the experts.

   nn/mixture.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
  int64_t shares;
  int64_t rows, gates, experts, width; /* width: a multiple of 16 */
  const float *outputs;                /* (rows, experts, width): of the experts */
} Mixture;

typedef struct {
  const Mixture *mixture;
  const float *logits;   /* (rows, gates, experts) */
  float *weights;        /* (rows, gates, experts), each gate's summing to 1 */
  float *mixed;          /* (rows, gates, width) */
  const float *gradient; /* (rows, gates, width) */
  float *of_logits, *of_outputs;
} Task;

/* The softmax of each gate's logits (gates, experts); buffer: filled up to a multiple of 16. */
static void softmax(int64_t gates, int64_t experts, const float *logits, float *buffer,
                    float *weights) {
  int64_t count = gates * experts;
  for (int64_t gate = 0; gate < gates; gate++) {
    const float *of_gate = logits + gate * experts;
    float largest = of_gate[0];
    for (int64_t i = 1; i < experts; i++) largest = of_gate[i] > largest ? of_gate[i] : largest;
    for (int64_t i = 0; i < experts; i++) buffer[gate * experts + i] = of_gate[i] - largest;
  }
  for (int64_t i = 0; i < count; i += WIDTH) {
    vector x = load(buffer + i);
    store(buffer + i, choose(x < -87.0f, all(0.0f), exponential(x)));
  }
  for (int64_t gate = 0; gate < gates; gate++) {
    float sum = 0;
    for (int64_t i = 0; i < experts; i++) sum += buffer[gate * experts + i];
    for (int64_t i = 0; i < experts; i++)
      weights[gate * experts + i] = buffer[gate * experts + i] / sum;
  }
}

static void forward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Mixture *mixture = task->mixture;
  int64_t gates = mixture->gates, experts = mixture->experts, width = mixture->width;
  int64_t row, end;
  part_of(mixture->rows, share, mixture->shares, &row, &end);
  float *buffer = zeros(filled_up(gates * experts));
  for (; row < end; row++) {
    float *weights = task->weights + row * gates * experts;
    softmax(gates, experts, task->logits + row * gates * experts, buffer, weights);
    const float *outputs = mixture->outputs + row * experts * width;
    for (int64_t gate = 0; gate < gates; gate++) {
      float *mixed = task->mixed + (row * gates + gate) * width;
      for (int64_t column = 0; column < width; column += WIDTH) {
        vector sum = {0};
        for (int64_t i = 0; i < experts; i++)
          sum += weights[gate * experts + i] * load(outputs + i * width + column);
        store(mixed + column, sum);
      }
    }
  }
  free(buffer);
}

static void backward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Mixture *mixture = task->mixture;
  int64_t gates = mixture->gates, experts = mixture->experts, width = mixture->width;
  int64_t row, end;
  part_of(mixture->rows, share, mixture->shares, &row, &end);
  for (; row < end; row++) {
    const float *weights = task->weights + row * gates * experts;
    const float *outputs = mixture->outputs + row * experts * width;
    const float *gradient = task->gradient + row * gates * width;
    float *of_logits = task->of_logits + row * gates * experts;
    float *of_outputs = task->of_outputs + row * experts * width;
    for (int64_t gate = 0; gate < gates; gate++) {
      float along = 0;
      for (int64_t i = 0; i < experts; i++) {
        vector products = {0};
        for (int64_t column = 0; column < width; column += WIDTH)
          products += load(gradient + gate * width + column) * load(outputs + i * width + column);
        float of_weight = sum_of(products);
        of_logits[gate * experts + i] = of_weight;
        along += of_weight * weights[gate * experts + i];
      }
      for (int64_t i = 0; i < experts; i++) {
        float *at = of_logits + gate * experts + i;
        *at = weights[gate * experts + i] * (*at - along);
      }
    }
    for (int64_t i = 0; i < experts; i++)
      for (int64_t column = 0; column < width; column += WIDTH) {
        vector sum = {0};
        for (int64_t gate = 0; gate < gates; gate++)
          sum += weights[gate * experts + i] * load(gradient + gate * width + column);
        store(of_outputs + i * width + column, sum);
      }
  }
}

/* The weights that the logits stand for, and the experts mixed by them. */
EXPORT void finerank_mixture_forward(const Mixture *mixture, const float *logits, float *weights,
                                     float *mixed) {
  Task task = {mixture, logits, weights, mixed, NULL, NULL, NULL};
  run(forward_share, &task, mixture->shares);
}

/* The gradients of the logits and of the experts' outputs. */
EXPORT void finerank_mixture_backward(const Mixture *mixture, float *weights,
                                      const float *gradient, float *of_logits, float *of_outputs) {
  Task task = {mixture, NULL, weights, NULL, gradient, of_logits, of_outputs};
  run(backward_share, &task, mixture->shares);
}
