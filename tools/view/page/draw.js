// The picture, by a pen: on the canvas what is in sight, into an SVG file all of it.

const canvas = document.getElementById("canvas");
const view = { x: 0, y: 0, scale: 1, plan: null };
let theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "ink", "soft", "line", "accent", "node", "input", "float", "group", "edge", "good", "middle", "bad", "added", "changed", "rewired", "fused"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

function canvasPen(context) {
  return {
    line(points, colour, width) {
      context.strokeStyle = colour; context.lineWidth = width;
      context.beginPath(); context.moveTo(...points[0]);
      for (const point of points.slice(1)) context.lineTo(...point);
      context.stroke();
    },
    box(x, y, width, height, fill, stroke, weight, dashed) {
      context.fillStyle = fill; context.strokeStyle = stroke; context.lineWidth = weight;
      context.setLineDash(dashed ? [4, 3] : []);
      context.beginPath(); context.roundRect(x, y, width, height, 5); context.fill(); context.stroke();
      context.setLineDash([]);
    },
    text(x, y, words, colour, points) {
      context.fillStyle = colour; context.font = `${points}px system-ui, sans-serif`; context.fillText(words, x, y);
    },
  };
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

function svgPen() {
  const parts = [];
  return {
    parts,
    line: (points, colour, width) => parts.push(`<polyline points="${points.map((p) => p.join()).join(" ")}" fill="none" stroke="${colour}" stroke-width="${width}"/>`),
    box: (x, y, width, height, fill, stroke, weight, dashed) => parts.push(`<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="5" fill="${fill}" stroke="${stroke}" stroke-width="${weight}"${dashed ? ' stroke-dasharray="4 3"' : ""}/>`),
    text: (x, y, words, colour, points) => parts.push(`<text x="${x}" y="${y}" fill="${colour}" font-size="${points}">${escaped(words)}</text>`),
  };
}

// From 0 (best) to 1 (worst) within the stage, undefined where there is nothing to say.
function badness(measure, ids, nodes, ends) {
  const found = ids.map((id) => measure.of(nodes.get(id), runOf())).filter((value) => value !== undefined);
  if (!found.length) return undefined;
  const value = measure.bad === "low" ? Math.min(...found) : Math.max(...found);
  const place = ends[1] > ends[0] ? (value - ends[0]) / (ends[1] - ends[0]) : 0;
  return measure.bad === "low" ? 1 - place : place;
}

const limited = (measure, value) => (measure.unit === "dB" ? Math.max(-10, Math.min(80, value)) : value);

function shade(part) {
  const [from, to, share] = part < 0.5 ? [theme.good, theme.middle, part * 2] : [theme.middle, theme.bad, part * 2 - 1];
  return mixed(mixed(from, to, share), theme.back, 0.35);
}

function mixed(from, to, share) {
  const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `#${a.map((value, i) => Math.round(value + (b[i] - value) * share).toString(16).padStart(2, "0")).join("")}`;
}

// Everything about the stage that drawing needs, computed once and not for every frame.
function prepare() {
  const nodes = shownNodes(), measure = MEASURES[state.colour];
  view.plan = layout(nodes);
  const all = measure ? [...nodes.values()].map((n) => measure.of(n, runOf())).filter((v) => v !== undefined).map((v) => limited(measure, v)) : [];
  view.ends = all.length ? [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))] : null;
  const before = state.diff >= 0 ? nodesOf(runOf(), state.diff) : null;
  const most = view.plan.edges.reduce((a, edge) => Math.max(a, edge.bytes), 1);
  const critical = new Set(state.critical ? runOf().critical_path : []);
  for (const item of view.plan.order) {
    const main = nodes.get(item.ids[item.ids.length - 1]);
    item.fill = fillOf(item, main, nodes, measure);
    item.label = item.module ? `▸ ${item.module} (${item.ids.length})` : main.id;
    item.detail = item.module ? "" : [item.ids.map((id) => shortOperation(nodes.get(id))).join(" › "), main.id.startsWith(main.module) ? "" : main.module].filter(Boolean).join(" · ");
    item.dashed = item.ids.some((id) => nodes.get(id).is_float);
    item.critical = item.ids.some((id) => critical.has(id));
    const kinds = before ? item.ids.map((id) => difference(nodes.get(id), before.get(id))) : [];
    item.difference = ["added", "fused", "rewired", "changed"].find((kind) => kinds.includes(kind)) ?? "";
  }
  for (const edge of view.plan.edges) {
    edge.width = 1 + 4 * Math.log2(1 + edge.bytes) / Math.log2(1 + most);
    const clipped = isLastStage() ? runOf().measured[edge.id]?.clipped : undefined;
    edge.colour = clipped > 0 ? mixed(theme.edge, theme.bad, Math.min(1, 0.25 + clipped * 20)) : theme.edge;
  }
  legend(measure);
}

function fillOf(item, main, nodes, measure) {
  if (measure && view.ends) {
    const part = badness({ ...measure, of: (n, run) => { const v = measure.of(n, run); return v === undefined ? v : limited(measure, v); } }, item.ids, nodes, view.ends);
    if (part !== undefined) return shade(part);
  }
  if (item.module) return theme.group;
  if (state.colour === "dtype") return { int8: theme.good, int16: theme.middle, int32: theme.accent, float32: theme.bad }[main.dtype] ? mixed({ int8: theme.good, int16: theme.middle, int32: theme.accent, float32: theme.bad }[main.dtype], theme.back, 0.45) : theme.node;
  return main.is_float ? theme.float : main.kind === "call" ? theme.node : theme.input;
}

function paint(pen, seen, scale) {
  const { order, edges } = view.plan;
  for (const edge of edges) {
    if (!seen(Math.min(edge.x1, edge.x2), Math.min(edge.y1, edge.y2), Math.max(edge.x1, edge.x2), Math.max(edge.y1, edge.y2))) continue;
    const chosen = edge === state.edge;
    const points = edge.x1 === edge.x2 ? [[edge.x1, edge.y1], [edge.x2, edge.y2]] : [[edge.x1, edge.y1], [edge.x1, edge.bend], [edge.x2, edge.y2]];
    pen.line(points, chosen ? theme.accent : edge.colour, chosen ? edge.width + 2 : edge.width);
  }
  for (const item of order) {
    if (!seen(item.x, item.y, item.x + WIDTH, item.y + HEIGHT)) continue;
    const chosen = item.ids.includes(state.selected);
    const stroke = chosen ? theme.accent : item.difference ? theme[item.difference] : item.critical ? theme.bad : theme.line;
    pen.box(item.x, item.y, WIDTH, HEIGHT, item.fill, stroke, chosen || item.difference || item.critical ? 2.5 : 1, item.dashed);
    if (scale < 0.4) continue;
    pen.text(item.x + 7, item.y + (item.detail ? 13 : 19), clipFront(item.label, 28), theme.ink, 11);
    if (item.detail) pen.text(item.x + 7, item.y + 25, clip(item.detail, 34), theme.soft, 9.5);
  }
}

// Of a long path the end tells more.
const clipFront = (text, length) => (text.length > length ? `…${text.slice(text.length - length + 1)}` : text);
const clip = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function draw() {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== width * ratio || canvas.height !== height * ratio) [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = theme.back; context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  const [left, top] = [-view.x / view.scale, -view.y / view.scale];
  const [right, bottom] = [left + width / view.scale, top + height / view.scale];
  paint(canvasPen(context), (x1, y1, x2, y2) => x1 <= right && x2 >= left && y1 <= bottom && y2 >= top, view.scale);
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function fit() {
  const { width, height } = view.plan, [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const whole = Math.min((w - 40) / width, (h - 40) / height, 1.2);
  // Too long to be read whole: as wide as fits, from the top.
  view.scale = whole >= 0.45 ? whole : Math.max(0.45, Math.min(1, (w - 40) / width));
  view.x = Math.max(20, (w - width * view.scale) / 2);
  view.y = 20;
  redraw();
}

function svgText() {
  const pen = svgPen(), { width, height } = view.plan;
  paint(pen, () => true, 1);
  const box = `-20 -20 ${width + 40} ${height + 40}`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box}" font-family="system-ui, sans-serif"><rect x="-20" y="-20" width="100%" height="100%" fill="${theme.back}"/>${pen.parts.join("")}</svg>`;
}

function legend(measure) {
  const element = document.getElementById("legend");
  element.replaceChildren();
  const entry = (colour, words) => { const mark = document.createElement("i"); mark.style.background = colour; element.append(mark, words); };
  if (measure && view.ends) {
    const [best, worst] = measure.bad === "low" ? [view.ends[1], view.ends[0]] : view.ends;
    entry(shade(0), `${number(best, 3)} ${measure.unit}`); entry(shade(1), `${number(worst, 3)} ${measure.unit} (${measure.title})`);
  }
  entry(theme.float, "float"); entry(theme.input, "input, output"); entry(theme.group, "folded module");
  if (state.diff >= 0) for (const kind of ["added", "fused", "changed", "rewired"]) entry(theme[kind], kind);
}
