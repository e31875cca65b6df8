// Rows in topological order and lanes as version control draws branches: O(nodes + edges), thousands in milliseconds.

const ROW = 46, LANE = 204, WIDTH = 176, HEIGHT = 30;
// With more items than this, modules start out folded.
const MOST_ITEMS = 300;

// The outermost folded module around a node, "" for none.
function foldedModule(node) {
  if (!state.folded.size || !node.module) return "";
  let path = "";
  for (const part of node.module.split(".")) {
    path = path ? `${path}.${part}` : part;
    if (state.folded.has(path)) return path;
  }
  return "";
}

// What is drawn: nodes and folded modules by key, each with the ids it holds. Accumulators are part of their rounding.
function itemsOf(nodes) {
  const items = new Map(), home = new Map();
  const keep = state.near && state.selected ? neighbours(nodes, state.selected, 3) : null;
  for (const node of nodes.values()) {
    if (keep && !keep.has(node.id)) continue;
    const module = foldedModule(node);
    const isPart = !module && nodes.has(node.feeds) && !foldedModule(nodes.get(node.feeds)) && (!keep || keep.has(node.feeds));
    const key = module ? `module ${module}` : isPart ? node.feeds : node.id;
    if (!items.has(key)) items.set(key, { key, module, ids: [], from: new Map(), row: 0, lane: 0 });
    items.get(key).ids.push(node.id);
    home.set(node.id, key);
  }
  for (const [id, key] of home) {
    for (const source of nodes.get(id).inputs) {
      const origin = home.get(source);
      if (origin !== undefined && origin !== key && !items.get(key).from.has(origin)) items.get(key).from.set(origin, source);
    }
  }
  return { items, home };
}

function neighbours(nodes, id, distance) {
  const users = usersOf(nodes), found = new Set([id]);
  let front = [id];
  for (let step = 0; step < distance; step++) {
    front = front.flatMap((at) => [...(nodes.get(at)?.inputs ?? []), ...(users.get(at) ?? [])]).filter((next) => !found.has(next));
    for (const next of front) found.add(next);
  }
  return found;
}

// A folded module may both feed and need something outside of it: such edges point upward and do not count for rows.
function layout(nodes) {
  const { items, home } = itemsOf(nodes);
  const order = [...items.values()];
  order.forEach((item, place) => { item.place = place; });
  const left = new Map();
  for (const item of order) {
    for (const origin of item.from.keys()) {
      const source = items.get(origin);
      left.set(origin, (left.get(origin) ?? 0) + 1);
      if (source.place < item.place) item.row = Math.max(item.row, source.row + 1);
    }
  }
  order.sort((a, b) => a.row - b.row || a.place - b.place);
  const lanes = [];
  for (const item of order) {
    const freed = [];
    for (const origin of item.from.keys()) {
      left.set(origin, left.get(origin) - 1);
      const source = items.get(origin);
      if (left.get(origin) === 0 && lanes[source.lane] === origin) freed.push(source.lane);
    }
    // The lane of an operand that nobody else needs, else the first free one.
    const lane = freed.length ? Math.min(...freed) : lanes.findIndex((owner) => owner === undefined);
    item.lane = lane < 0 ? lanes.length : lane;
    for (const other of freed) lanes[other] = undefined;
    lanes[item.lane] = left.get(item.key) ? item.key : undefined;
  }
  for (const item of order) Object.assign(item, { x: item.lane * LANE, y: item.row * ROW });
  const width = Math.max(1, lanes.length) * LANE, height = (Math.max(0, ...order.map((item) => item.row)) + 1) * ROW;
  return { items, home, order, edges: edgesOf(items, nodes), width, height };
}

function edgesOf(items, nodes) {
  const edges = [];
  for (const item of items.values()) {
    for (const [origin, id] of item.from) {
      const source = items.get(origin);
      const x1 = source.x + WIDTH / 2, y1 = source.y + HEIGHT, x2 = item.x + WIDTH / 2, y2 = item.y;
      edges.push({ id, source, item, x1, y1, x2, y2, bend: Math.max(y1, y2 - ROW + HEIGHT), bytes: nodes.get(id).bytes });
    }
  }
  return edges;
}

// Every prefix of a module path that holds more than one node.
function modulesOf(nodes) {
  const counts = new Map();
  for (const node of nodes.values()) {
    let path = "";
    for (const part of node.module ? node.module.split(".") : []) {
      path = path ? `${path}.${part}` : part;
      counts.set(path, (counts.get(path) ?? 0) + 1);
    }
  }
  return [...counts].filter(([, count]) => count > 1).map(([path]) => path);
}

// Large graphs start folded, at the deepest level of modules that leaves few enough items.
function foldAtFirst(nodes) {
  state.folded = new Set();
  if (itemsOf(nodes).items.size <= MOST_ITEMS) return;
  const modules = modulesOf(nodes), deepest = Math.max(0, ...modules.map((path) => path.split(".").length));
  for (let depth = deepest; depth > 0; depth--) {
    state.folded = new Set(modules.filter((path) => path.split(".").length === depth));
    if (itemsOf(nodes).items.size <= MOST_ITEMS) return;
  }
}
