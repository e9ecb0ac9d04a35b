/* The cross network whose weights are vectors, all layers at once.

   Each row is scaled by one number and shifted by a constant (nn/cross.py says why), so that a row
   is read once for its products with the weights and once to be scaled, out of the first cache.

   nn/cross.py calls these functions. */

#include "common.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
  int64_t shares;
  int64_t rows, width, layers;
  const float *x;      /* (rows, width) */
  const float *weight; /* (layers, width) */
  const float *shift;  /* (layers): what the constants so far add to the product with the weight */
} Cross;

typedef struct {
  const Cross *cross;
  const float *constant; /* (width): after the last layer */
  float *products;       /* (rows, layers): of the row with each weight */
  float *output;         /* (rows, width) */
  const float *gradient;
  float *of_x;      /* (rows, width) */
  float *of_weight; /* (shares, layers, width) */
  float *of_shift;  /* (shares, layers) */
} Task;

static float product_of_rows(int64_t width, const float *x, const float *y) {
  vector sums = {0};
  int64_t column = 0;
  for (; column + WIDTH <= width; column += WIDTH) sums += load(x + column) * load(y + column);
  float sum = sum_of(sums);
  for (; column < width; column++) sum += x[column] * y[column];
  return sum;
}

/* What each layer scales the row by, 1 before the first (layers + 1). */
static void scales_of(const Cross *cross, const float *products, float *scales) {
  scales[0] = 1;
  for (int64_t layer = 0; layer < cross->layers; layer++)
    scales[layer + 1] = scales[layer] + scales[layer] * products[layer] + cross->shift[layer];
}

static void forward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Cross *cross = task->cross;
  int64_t width = cross->width, layers = cross->layers;
  int64_t row, end;
  part_of(cross->rows, share, cross->shares, &row, &end);
  float *scales = numbers(layers + 1);
  for (; row < end; row++) {
    const float *x = cross->x + row * width;
    float *products = task->products + row * layers, *output = task->output + row * width;
    for (int64_t layer = 0; layer < layers; layer++)
      products[layer] = product_of_rows(width, x, cross->weight + layer * width);
    scales_of(cross, products, scales);
    float scale = scales[layers];
    for (int64_t column = 0; column < width; column++)
      output[column] = task->constant[column] + scale * x[column];
  }
  free(scales);
}

static void backward_share(void *argument, int64_t share) {
  const Task *task = argument;
  const Cross *cross = task->cross;
  int64_t width = cross->width, layers = cross->layers;
  int64_t row, end;
  part_of(cross->rows, share, cross->shares, &row, &end);
  float *scales = numbers(layers + 1), *of_product = numbers(layers);
  float *of_weight = task->of_weight + share * layers * width;
  float *of_shift = task->of_shift + share * layers;
  memset(of_weight, 0, (size_t)(layers * width) * 4);
  memset(of_shift, 0, (size_t)layers * 4);
  for (; row < end; row++) {
    const float *x = cross->x + row * width, *gradient = task->gradient + row * width;
    const float *products = task->products + row * layers;
    float *of_x = task->of_x + row * width;
    scales_of(cross, products, scales);
    float of_scale = product_of_rows(width, gradient, x), scale = scales[layers];
    for (int64_t layer = layers - 1; layer >= 0; layer--) {
      of_shift[layer] += of_scale;
      of_product[layer] = of_scale * scales[layer];
      of_scale *= 1 + products[layer];
    }
    for (int64_t column = 0; column < width; column++) of_x[column] = scale * gradient[column];
    for (int64_t layer = 0; layer < layers; layer++) {
      const float *weight = cross->weight + layer * width;
      float *sums = of_weight + layer * width, factor = of_product[layer];
      for (int64_t column = 0; column < width; column++) {
        of_x[column] += factor * weight[column];
        sums[column] += factor * x[column];
      }
    }
  }
  free(scales);
  free(of_product);
}

/* The crossed rows, and the products of each with the weights. */
EXPORT void finerank_cross_forward(const Cross *cross, const float *constant, float *products,
                                   float *output) {
  Task task = {cross, constant, products, output, NULL, NULL, NULL, NULL};
  run(forward_share, &task, cross->shares);
}

/* The gradient of the rows, and by share those of the weights and of the shifts. */
EXPORT void finerank_cross_backward(const Cross *cross, float *products, const float *gradient,
                                    float *of_x, float *of_weight, float *of_shift) {
  Task task = {cross, NULL, products, NULL, gradient, of_x, of_weight, of_shift};
  run(backward_share, &task, cross->shares);
}
