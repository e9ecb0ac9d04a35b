/* Rows of several columns at once.

   data/columns.py calls this function. */

#include "common.h"

/* Each column's numbers at some rows, whatever they stand for; -1 where a row is not there.

   columns: (width), of `size` numbers of four bytes each. rows: (count). found: (width, count). */
EXPORT void finerank_take(int64_t width, const int64_t *columns, int64_t size, int64_t count,
                          const int64_t *rows, int32_t *found, int64_t *state) {
  *state = 0;
  for (int64_t i = 0; i < count; i++)
    if (rows[i] < 0 || rows[i] >= size) *state = -1;
  if (*state < 0) return;
  for (int64_t column = 0; column < width; column++) {
    const int32_t *numbers = (const int32_t *)(uintptr_t)columns[column];
    for (int64_t i = 0; i < count; i++) found[column * count + i] = numbers[rows[i]];
  }
}
