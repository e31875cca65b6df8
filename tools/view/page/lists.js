// Panels that list nodes: the worst, search results, the difference of two passes, two runs side by side.

function table(columns, rows, chosen) {
  const head = element("tr", {}, ...columns.map((name) => element("th", {}, name)));
  const body = rows.map(([id, ...cells]) => {
    const row = element("tr", { "data-id": id, tabindex: "0", ...(id === chosen ? { class: "chosen" } : {}) });
    cells.forEach((cell) => row.append(element("td", typeof cell === "number" ? { class: "number" } : {}, typeof cell === "number" ? number(cell) : cell)));
    const jump = () => { select(id, { keepTab: true }); };
    row.addEventListener("click", jump);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") jump(); });
    return row;
  });
  return element("table", {}, head, ...body);
}

const WORST = 25;

function showWorst() {
  const run = runOf(), measured = Object.keys(run.measured).length > 0;
  // "Worst" means errors, where there are any, rather than mere size.
  const key = COLOURS.includes(state.colour) && !(measured && state.colour === "bytes") ? state.colour : "local_db";
  const measure = MEASURES[key], nodes = nodesOf(run, run.stages.length - 1);
  const found = [...nodes.values()].map((n) => [n, measure.of(n, run)]).filter(([, v]) => v !== undefined);
  found.sort((a, b) => (measure.bad === "low" ? a[1] - b[1] : b[1] - a[1]));
  panel.replaceChildren(heading(`worst ${Math.min(WORST, found.length)} by ${measure.title}`));
  if (!found.length) { panel.append(note("Nothing was measured: view with data and the float model, or choose another colour.")); return; }
  panel.append(table(["node", "local dB", "cumulative dB", "clipped %", measure.title], found.slice(0, WORST).map(([n, v]) => {
    const m = run.measured[n.id];
    return [n.id, n.id, ...(m ? [round(m.local_db), round(m.cumulative_db), round(m.clipped * 100, 4)] : ["", "", ""]), round(v, 4)];
  }), state.selected));
}

const round = (value, digits = 1) => Number(value.toFixed(digits));

function searched() {
  const matches = matcher(state.query);
  return [...shownNodes().values()].filter(matches);
}

function showSearch() {
  panel.replaceChildren(heading("search"));
  if (!state.query.trim()) {
    panel.append(note(`Words are looked for in names, operations, modules and source lines. Comparisons: ${Object.keys(MEASURES).join(", ")} with <, >, <=, >=, =. For example: conv clipped>0.1, or low<-4.`));
    return;
  }
  const found = searched();
  panel.append(note(found.length ? `${found.length} found` : `0 found. ${nearest(state.query)}`), table(["node", "operation", "type"], found.slice(0, 500).map((n) => [n.id, n.id, shortOperation(n), typeText(n)]), state.selected));
}

// "Did you mean": the ids with the fewest letters to change.
function nearest(query) {
  const far = (id) => distance(id.toLowerCase(), query.trim().toLowerCase());
  const close = [...shownNodes().keys()].map((id) => [far(id), id]).filter(([steps, id]) => steps <= Math.max(2, id.length / 3)).sort((a, b) => a[0] - b[0]);
  return close.length ? `Did you mean ${close.slice(0, 3).map(([, id]) => id).join(", ")}?` : "";
}

// Levenshtein's: insertions, deletions and exchanges of letters.
function distance(a, b) {
  let row = [...Array(b.length + 1).keys()];
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) next.push(Math.min(row[j] + (a[i] === b[j] ? 0 : 1), row[j + 1] + 1, next[j] + 1));
    row = next;
  }
  return row[b.length];
}

function showDiff() {
  const run = runOf(), from = state.diff >= 0 ? state.diff : Math.max(0, state.stage - 1);
  panel.replaceChildren(heading("passes"));
  panel.append(table(["pass", "stage", "nodes", "output dB"], run.stages.map((s) => ["", s.name, s.stage, s.nodes.length, s.output_db == null ? "" : s.output_db >= 300 ? "exact" : round(s.output_db)])));
  panel.querySelectorAll("tr[data-id]").forEach((row, place) => row.addEventListener("click", () => setStage(place)));
  const before = nodesOf(run, from), now = shownNodes();
  const kinds = { added: [], removed: [], fused: [], rewired: [], changed: [] }, fused = [];
  for (const node of now.values()) { const kind = difference(node, before.get(node.id)); if (kind) kinds[kind].push(node.id); if (kind === "fused") fused.push(...fusions(node, before.get(node.id))); }
  for (const id of before.keys()) if (!now.has(id)) kinds.removed.push(id);
  panel.append(heading(`${run.stages[from].name} → ${run.stages[state.stage].name}`));
  for (const [kind, ids] of Object.entries(kinds)) {
    const list = element("p", { "data-kind": kind }, element("b", { class: kind }, `${kind} ${ids.length}: `));
    list.append(...(kind === "removed" ? [ids.slice(0, 200).join(", ")] : listed(ids.slice(0, 200))));
    panel.append(list);
  }
  if (fused.length) panel.append(heading("what was fused into what"), table(["taken up", "into"], fused.slice(0, 500).map(([taken, into]) => [into, taken, into]), state.selected));
}

// Two runs, matched by id.
function showCompare() {
  panel.replaceChildren(heading("two runs"));
  if (state.against < 0) { panel.append(note("Choose a run to compare with, above. A page of several runs is made by view({\"one\": …, \"other\": …}).")); return; }
  const [a, b] = [runOf(), doc.runs[state.against]];
  const mine = nodesOf(a, a.stages.length - 1), its = nodesOf(b, b.stages.length - 1);
  const rows = [...mine.values()].filter((n) => its.has(n.id) && n.kind === "call").map((n) => compared(n, its.get(n.id), a, b));
  rows.sort((x, y) => y.weight - x.weight);
  const only = (from, other) => [...from.keys()].filter((id) => !other.has(id));
  panel.append(facts([
    [a.label, total(a)], [b.label, total(b)],
    [`only in ${a.label}`, only(mine, its).join(", ")], [`only in ${b.label}`, only(its, mine).join(", ")],
  ]), table(["node", `local ${a.label}`, b.label, `cumulative ${a.label}`, b.label, "differs"], rows.slice(0, 200).map((row) => row.cells), state.selected));
}

const total = (run) => [run.output_db.length ? `output ${run.output_db.map((db) => db.toFixed(1)).join(", ")} dB` : "not measured", run.agreement == null ? "" : `agreement ${(run.agreement * 100).toFixed(2)} %`].filter(Boolean).join(", ");

function compared(node, other, a, b) {
  const [m, o] = [a.measured[node.id], b.measured[node.id]];
  const differs = [node.dtype !== other.dtype && "dtype", node.value?.scale !== other.value?.scale && "scale", node.is_float !== other.is_float && "float"].filter(Boolean);
  const weight = m && o ? Math.abs(m.cumulative_db - o.cumulative_db) : differs.length ? 0.01 : 0;
  const pair = (key) => [m ? round(m[key]) : "", o ? round(o[key]) : ""];
  return { weight, cells: [node.id, node.id, ...pair("local_db"), ...pair("cumulative_db"), differs.join(", ")] };
}
