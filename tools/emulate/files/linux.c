/* A program under an operating system. */
#include "board.h"

#include <stdio.h>

void board_put(const char *text) { fputs(text, stdout); }
