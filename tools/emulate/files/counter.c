/* QEMU TCG plugin: instructions executed between marks.
 *
 *   -plugin counter.so,out=FILE,mark=ADDRESS
 *
 * Each time the function at ADDRESS is entered a new count begins; FILE gets one count per line, from the program's start
 * on. Debian's QEMU ships no plugin header: what is used of the plugin interface (version 1) is declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct info { const char *target; struct { int min, cur; } version; bool system; };
enum flags { NO_REGISTERS };
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), enum flags, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

static uint64_t mark, *counts;
static size_t used = 1, room = 1024;
static FILE *out;

static void ran(unsigned cpu, void *instructions) { counts[used - 1] += (uintptr_t)instructions; }

static void marked(unsigned cpu, void *instructions) {
  if (used == room) {
    counts = realloc(counts, 2 * room * sizeof *counts);
    memset(counts + room, 0, room * sizeof *counts);
    room *= 2;
  }
  ++used;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
  bool at_mark = qemu_plugin_tb_vaddr(block) == mark;
  uintptr_t instructions = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_cb(block, at_mark ? marked : ran, NO_REGISTERS, (void *)instructions);
}

static void finish(plugin_id id, void *nothing) {
  for (size_t i = 0; i < used; ++i) fprintf(out, "%" PRIu64 "\n", counts[i]);
  fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int count, char **options) {
  for (int i = 0; i < count; ++i) {
    if (!strncmp(options[i], "out=", 4)) out = fopen(options[i] + 4, "w");
    if (!strncmp(options[i], "mark=", 5)) mark = strtoull(options[i] + 5, NULL, 0);
  }
  counts = calloc(room, sizeof *counts);
  if (!out || !counts) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finish, NULL);
  return 0;
}
