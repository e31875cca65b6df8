/* What a program under emulation has: text out, an exit, and on bare machines a stack that can be looked at. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

int main(void);
void board_put(const char *text);
void board_exit(int status);

/* A line of a name and a number. */
static inline void board_put_number(const char *what, uint32_t number) {
  char digits[12];
  int at = 11;
  digits[at] = 0;
  do { digits[--at] = (char)('0' + number % 10); } while (number /= 10);
  board_put(what);
  board_put(digits + at);
  board_put("\n");
}

#endif
