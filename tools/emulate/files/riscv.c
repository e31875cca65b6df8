/* Start-up of QEMU's RISC-V "virt" board: serial output, exit, and the three C functions that compiled code may call. */
#include "board.h"

/* Vectors and floating point are off until mstatus says otherwise; a core without them takes no notice. */
__asm(".option arch, +zicsr\n.section .start,\"ax\"\n.globl reset\nreset: la sp, stack_top\n li t0, 0x2200\n"
      " csrs mstatus, t0\n call begin\n.text\n");

extern uint32_t bss_start, bss_end;

void board_put(const char *text) {
  while (*text) *(volatile uint8_t *)0x10000000 = (uint8_t)*text++;
}

void board_exit(int status) {
  *(volatile uint32_t *)0x100000 = status ? ((uint32_t)status << 16 | 0x3333) : 0x5555;
  for (;;) {}
}

void begin(void) {
  for (uint32_t *p = &bss_start; p < &bss_end;) *p++ = 0;
  board_exit(main());
}

void *memcpy(void *to, const void *from, size_t n) {
  for (size_t i = 0; i < n; ++i) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}

void *memmove(void *to, const void *from, size_t n) {
  if (to <= from) return memcpy(to, from, n);
  while (n--) ((volatile uint8_t *)to)[n] = ((const uint8_t *)from)[n];
  return to;
}

void *memset(void *to, int value, size_t n) {
  for (size_t i = 0; i < n; ++i) ((volatile uint8_t *)to)[i] = (uint8_t)value;
  return to;
}
