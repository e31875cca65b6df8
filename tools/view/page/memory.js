// What a target needs: the arena over time, and every step's share of flash, RAM and time.

function showMemory() {
  panel.replaceChildren();
  const { memory } = runOf();
  if (!memory.length) { panel.append(heading("memory"), note("No target was named: view with targets=(\"cortex-m4\",), or --target cortex-m4.")); return; }
  for (const found of memory) {
    panel.append(heading(`memory on ${found.target}`), facts([
      ["arena", `${size(found.arena_bytes)} (${found.arena_bytes.toLocaleString("en")} B)`],
      ["constants", `${size(found.constant_bytes)} (${found.constant_bytes.toLocaleString("en")} B)`],
    ]));
    if (found.tenants.length) panel.append(arena(found, (id) => { if (id) select(id, { keepTab: true }); }));
    const timed = found.steps.some((step) => step.microseconds != null), counted = found.steps.some((step) => step.instructions != null);
    const columns = ["step", "kernel", ...(counted ? ["code"] : []), "constants", "RAM", "MACs", ...(counted ? ["instructions"] : []), ...(timed ? ["µs"] : [])];
    panel.append(table(columns, found.steps.map((step) => [step.node, step.node, step.kernel, ...(counted ? [step.code_bytes ?? ""] : []), step.constant_bytes ?? "", step.alive_bytes ?? "", step.macs,
      ...(counted ? [step.instructions ?? ""] : []), ...(timed ? [round(step.microseconds ?? 0, 2)] : [])]), state.selected));
  }
}
