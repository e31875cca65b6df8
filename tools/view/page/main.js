// Hands on keyboard and mouse.

const $ = (id) => document.getElementById(id);
const TABS = { node: "node", worst: "worst", search: "search", diff: "passes", compare: "compare", memory: "memory" };

function show() {
  for (const button of $("tabs").children) button.setAttribute("aria-selected", String(button.dataset.tab === state.tab));
  if (state.tab === "node") { if (state.edge) showEdge(state.edge); else showNode(state.selected); }
  else ({ worst: showWorst, search: showSearch, diff: showDiff, compare: showCompare, memory: showMemory })[state.tab]();
}

function refresh({ refit = false } = {}) {
  const edge = state.edge;
  prepare();
  if (edge) state.edge = view.plan.edges.find((found) => found.id === edge.id && found.item.key === edge.item.key) ?? null;
  const run = runOf(), stage = run.stages[state.stage];
  $("stage").max = String(run.stages.length - 1);
  $("stage").value = String(state.stage);
  $("stage-name").textContent = `${state.stage + 1}/${run.stages.length} ${stage.name} (${stage.stage})`;
  $("totals").textContent = `${stage.nodes.length} nodes, ${view.plan.order.length} shown · ${total(run)}${run.samples ? ` over ${run.samples} samples` : ""}`;
  show();
  if (refit) fit(); else redraw();
}

function select(id, { keepTab = false } = {}) {
  state.selected = id; state.edge = null;
  if (!keepTab) state.tab = "node";
  const node = shownNodes().get(id);
  if (node) {
    // Unfold whatever hides it.
    for (let module = foldedModule(node); module; module = foldedModule(node)) unfold(module);
    prepare();
    reveal(id);
  }
  show(); redraw();
}

// A module opens to its parts, each of them folded.
function unfold(module) {
  state.folded.delete(module);
  const depth = module.split(".").length + 1;
  for (const path of modulesOf(shownNodes())) if (path.startsWith(`${module}.`) && path.split(".").length === depth) state.folded.add(path);
}

function reveal(id) {
  const item = view.plan.items.get(view.plan.home.get(id));
  if (!item) return;
  const [x, y] = [item.x * view.scale + view.x, item.y * view.scale + view.y];
  const inside = x > 0 && y > 0 && x + WIDTH * view.scale < canvas.clientWidth && y + HEIGHT * view.scale < canvas.clientHeight;
  if (inside) return;
  view.x = canvas.clientWidth / 2 - (item.x + WIDTH / 2) * view.scale;
  view.y = canvas.clientHeight / 2 - item.y * view.scale;
}

function setStage(place) { state.stage = place; refresh(); }

function setRun(place) {
  state.run = place; state.stage = runOf().stages.length - 1; state.diff = -1; state.edge = null;
  fillSelects(); foldAtFirst(shownNodes()); refresh({ refit: true });
}

function fillSelects() {
  const fill = (id, entries, value) => { $(id).replaceChildren(...entries.map(([key, words]) => element("option", { value: key }, words))); $(id).value = String(value); };
  fill("run", doc.runs.map((run, i) => [i, run.label]), state.run);
  fill("against", [[-1, "none"], ...doc.runs.map((run, i) => [i, run.label]).filter(([i]) => i !== state.run)], state.against);
  fill("diff", [[-1, "none"], ...runOf().stages.map((stage, i) => [i, stage.name])], state.diff);
  const has = (key) => [...nodesOf(runOf(), runOf().stages.length - 1).values()].some((n) => MEASURES[key].of(n, runOf()) !== undefined);
  const colours = [...COLOURS.filter(has).map((key) => [key, MEASURES[key].title]), ["dtype", "dtype"], ["kind", "kind"]];
  if (!colours.some(([key]) => key === state.colour)) state.colour = colours[0][0];
  fill("colour", colours, state.colour);
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left - view.x) / view.scale, (event.clientY - box.top - view.y) / view.scale];
}

const itemAt = (x, y) => view.plan.order.find((item) => x >= item.x && x <= item.x + WIDTH && y >= item.y && y <= item.y + HEIGHT);

function edgeAt(x, y) {
  const reach = 6 / view.scale;
  const near = (ax, ay, bx, by) => {
    const [dx, dy] = [bx - ax, by - ay], t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
    return Math.hypot(x - ax - t * dx, y - ay - t * dy) <= reach;
  };
  return view.plan.edges.find((e) => near(e.x1, e.y1, e.x1, e.x1 === e.x2 ? e.y2 : e.bend) || (e.x1 !== e.x2 && near(e.x1, e.bend, e.x2, e.y2)));
}

function choose(event) {
  const [x, y] = at(event), item = itemAt(x, y);
  if (item?.module) { unfold(item.module); refresh(); return; }
  if (item) { select(item.ids[item.ids.length - 1]); return; }
  state.edge = edgeAt(x, y) ?? null;
  if (state.edge) { state.selected = state.edge.id; state.tab = "node"; show(); }
  redraw();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.max(0.02, Math.min(4, view.scale * factor)), real = scale / view.scale;
  [view.x, view.y, view.scale] = [x - (x - view.x) * real, y - (y - view.y) * real, scale];
  redraw();
}

let drag = null;
canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, moved: false }; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.moved && Math.hypot(dx, dy) < 4) return;
  Object.assign(drag, { x: event.clientX, y: event.clientY, moved: true });
  view.x += dx; view.y += dy; redraw();
});
canvas.addEventListener("pointerup", (event) => { if (drag && !drag.moved) choose(event); drag = null; });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey || event.metaKey) { const box = canvas.getBoundingClientRect(); zoom(Math.exp(-event.deltaY / 200), event.clientX - box.left, event.clientY - box.top); return; }
  view.x -= event.deltaX; view.y -= event.deltaY; redraw();
}, { passive: false });

function step(key) {
  const nodes = shownNodes(), node = nodes.get(state.selected);
  if (!node) return select([...nodes.keys()][0]);
  const item = view.plan.items.get(view.plan.home.get(node.id));
  if (key === "ArrowUp" || key === "ArrowDown") {
    const next = key === "ArrowUp" ? item?.from.keys().next().value : view.plan.order.find((other) => other.from.has(item?.key))?.key;
    const target = next && view.plan.items.get(next);
    return target && select(target.ids[target.ids.length - 1]);
  }
  const row = view.plan.order.filter((other) => other.row === item?.row), place = row.indexOf(item) + (key === "ArrowLeft" ? -1 : 1);
  return row[place] && select(row[place].ids[row[place].ids.length - 1]);
}

function toggle(name) { state[name] = !state[name]; $(name).setAttribute("aria-pressed", String(state[name])); refresh({ refit: name === "near" }); }
function foldAll() { state.folded = new Set(modulesOf(shownNodes())); refresh({ refit: true }); }
function unfoldAll() { state.folded = new Set(); refresh({ refit: true }); }
function switchTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  readTheme(); refresh();
}
function saveSvg() {
  const url = URL.createObjectURL(new Blob([svgText()], { type: "image/svg+xml" }));
  element("a", { href: url, download: `${doc.title.replace(/[^\w.-]+/g, "_")}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const KEYS = {
  "/": () => $("search").focus(), f: fit, m: foldAll, u: unfoldAll, n: () => toggle("near"), c: () => toggle("critical"), t: switchTheme,
  "+": () => zoom(1.25), "-": () => zoom(0.8), "[": () => state.stage > 0 && setStage(state.stage - 1),
  "]": () => !isLastStage() && setStage(state.stage + 1), Escape: () => { state.selected = null; state.edge = null; refresh(); },
};
document.addEventListener("keydown", (event) => {
  if (/INPUT|SELECT/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && event.target === canvas) { event.preventDefault(); step(event.key); return; }
  if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); }
});

$("search").addEventListener("input", (event) => { state.query = event.target.value; state.tab = "search"; show(); });
$("search").addEventListener("keydown", (event) => { if (event.key === "Enter" && searched().length) select(searched()[0].id); });
$("run").addEventListener("change", (event) => { if (state.against === Number(event.target.value)) state.against = -1; setRun(Number(event.target.value)); });
$("against").addEventListener("change", (event) => { state.against = Number(event.target.value); state.tab = "compare"; show(); });
$("stage").addEventListener("input", (event) => setStage(Number(event.target.value)));
$("diff").addEventListener("change", (event) => { state.diff = Number(event.target.value); state.tab = "diff"; refresh(); });
$("colour").addEventListener("change", (event) => { state.colour = event.target.value; refresh(); });
for (const name of ["near", "critical"]) $(name).addEventListener("click", () => toggle(name));
for (const [id, action] of Object.entries({ fold: foldAll, unfold: unfoldAll, fit, svg: saveSvg, theme: switchTheme })) $(id).addEventListener("click", action);
$("tabs").append(...Object.entries(TABS).map(([tab, words]) => element("button", { "data-tab": tab, role: "tab", onclick: () => { state.tab = tab; show(); } }, words)));
new ResizeObserver(redraw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); refresh(); });

// For those who drive the page by a program.
window.fxquant = {
  state, document: doc, svg: svgText, select, draw,
  position(id) {
    const item = view.plan.items.get(view.plan.home.get(id)), box = canvas.getBoundingClientRect();
    return item && { x: box.left + view.x + (item.x + WIDTH / 2) * view.scale, y: box.top + view.y + (item.y + HEIGHT / 2) * view.scale };
  },
  edges: () => view.plan.edges.map((e) => ({ from: e.id, into: e.item.ids, x: canvas.getBoundingClientRect().left + view.x + e.x1 * view.scale, y: canvas.getBoundingClientRect().top + view.y + (e.y1 + 6) * view.scale })),
  shown: () => view.plan.order.map((item) => item.key),
  labels: () => view.plan.order.map((item) => [item.key, item.label]),
};

readTheme();
setRun(0);
// After the frame that the line above asked for: what opening took, in the browser's own clock.
requestAnimationFrame(() => performance.mark("drawn"));
