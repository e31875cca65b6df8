/* What a program under emulation has: text out, an exit, and on bare machines a stack that can be looked at. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

int main(void);
void board_put(const char *text);
void board_exit(int status);

#endif
