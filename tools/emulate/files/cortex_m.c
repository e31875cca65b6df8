/* Start-up of a Cortex-M in QEMU: vectors, memory, output and exit by semihosting. */
#include "board.h"

extern uint32_t stack_top, bss_start, bss_end, data_start, data_end, data_load;

static int semihost(int operation, const void *argument) {
  register int r0 __asm("r0") = operation;
  register const void *r1 __asm("r1") = argument;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void board_put(const char *text) { semihost(0x04, text); }

void board_exit(int status) {
  uint32_t block[2] = {0x20026, (uint32_t)status};
  semihost(0x20, block);
  for (;;) {}
}

/* Unwind tables name it; nothing here throws. */
void __aeabi_unwind_cpp_pr0(void) {}

static void fault(void) {
  board_put("fault\n");
  board_exit(99);
}

void reset(void) {
#if __ARM_ARCH >= 7
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: floating point and vectors on */
  __asm volatile("dsb\n isb");
#endif
  for (uint32_t *p = &bss_start; p < &bss_end;) *p++ = 0;
  for (uint32_t *p = &data_start, *from = &data_load; p < &data_end;) *p++ = *from++;
  board_exit(main());
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
