// The document, what of it is shown, and what can be asked of a node.

// gzip within Base64: see fxquant/tools/view/page_file.py.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const doc = await unpacked(document.getElementById("document").textContent);
const state = {
  run: 0, against: -1, stage: 0, diff: -1, colour: "", selected: null, edge: null,
  folded: new Set(), near: false, critical: false, tab: "node", query: "",
};

const runOf = () => doc.runs[state.run];
const isLastStage = () => state.stage === runOf().stages.length - 1;

// Node records of a stage by id, in topological order.
const stageCache = new Map();
function nodesOf(run, stage) {
  const key = `${doc.runs.indexOf(run)} ${stage}`;
  if (!stageCache.has(key)) {
    const nodes = run.stages[stage].nodes.map((place) => run.pool[place]);
    stageCache.set(key, new Map(nodes.map((node) => [node.id, node])));
  }
  return stageCache.get(key);
}
const shownNodes = () => nodesOf(runOf(), state.stage);

function usersOf(nodes) {
  const users = new Map([...nodes.keys()].map((id) => [id, []]));
  for (const node of nodes.values()) for (const source of node.inputs) users.get(source)?.push(node.id);
  return users;
}

// Measured costs by node id, of the first target that was measured.
function costOf(id, run = runOf()) {
  for (const memory of run.memory) {
    const step = memory.steps.find((found) => found.node === id);
    if (step && (step.instructions ?? step.microseconds) != null) return step;
  }
  return null;
}

// What nodes can be coloured by, searched for and sorted by. `bad` tells which end is worse.
const MEASURES = {
  local_db: { title: "local SQNR", unit: "dB", bad: "low", of: (n, run) => run.measured[n.id]?.local_db },
  cumulative_db: { title: "cumulative SQNR", unit: "dB", bad: "low", of: (n, run) => run.measured[n.id]?.cumulative_db },
  clipped: { title: "clipping", unit: "%", bad: "high", of: (n, run) => percent(run.measured[n.id]?.clipped) },
  saturated: { title: "saturated", unit: "", bad: "high", of: (n, run) => run.measured[n.id]?.saturated },
  bytes: { title: "bytes", unit: "B", bad: "high", of: (n) => n.bytes || undefined },
  macs: { title: "MACs", unit: "", bad: "high", of: (n) => n.macs || undefined },
  instructions: { title: "instructions", unit: "", bad: "high", of: (n, run) => costOf(n.id, run)?.instructions ?? undefined },
  us: { title: "latency", unit: "µs", bad: "high", of: (n, run) => costOf(n.id, run)?.microseconds ?? undefined },
  bits: { title: "bits", unit: "", bad: "high", of: (n) => n.value?.bits },
  low: { title: "low", unit: "", of: (n) => n.value?.low },
  high: { title: "high", unit: "", of: (n) => n.value?.high },
  range: { title: "width of the range", unit: "", bad: "high", of: (n) => (n.value ? n.value.high - n.value.low : undefined) },
  scale: { title: "scale", unit: "", bad: "high", of: (n) => n.value?.scale },
};
const ALIASES = { sqnr: "cumulative_db", local: "local_db", cumulative: "cumulative_db", clip: "clipped", latency: "us" };
const COLOURS = ["local_db", "cumulative_db", "clipped", "bytes", "macs", "instructions", "us"];

function percent(share) { return share == null ? undefined : share * 100; }

// What words are looked for in; a rounding is also what it rounds: its row is that of the convolution.
function wordsOf(n) {
  const parts = n.inputs.map((id) => shownNodes().get(id)).filter((part) => part?.feeds === n.id);
  return [n.id, ...n.originals, ...n.aliases, n.dtype, ...[n, ...parts].flatMap((one) => [one.operation, one.module, one.source])];
}

// "conv clipped>0.1 low<-4": every word must be found, every comparison must hold.
function matcher(query) {
  const tests = query.trim().split(/\s+/).filter(Boolean).map((word) => {
    const found = /^([a-z_]+)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)$/i.exec(word);
    const measure = found && MEASURES[ALIASES[found[1]] ?? found[1]];
    if (!measure) {
      const text = word.toLowerCase();
      return (n) => wordsOf(n).some((part) => part.toLowerCase().includes(text));
    }
    const bound = Number(found[3]);
    const holds = { "<": (a) => a < bound, ">": (a) => a > bound, "<=": (a) => a <= bound, ">=": (a) => a >= bound, "=": (a) => a === bound }[found[2]];
    return (n) => { const value = measure.of(n, runOf()); return value !== undefined && holds(value); };
  });
  return (node) => tests.every((test) => test(node));
}

// How a node of `now` differs from its namesake `before`: "", "added", "fused", "rewired" or "changed".
function difference(now, before) {
  if (!before) return "added";
  if (fusions(now, before).length) return "fused";
  if (now.inputs.join() !== before.inputs.join()) return "rewired";
  // Of what a pass only writes down, its own name and sentences about the rest say nothing new.
  const facts = (n) => JSON.stringify({ ...n, why: "", feeds: "", passes: [] });
  return facts(now) === facts(before) ? "" : "changed";
}

// What became one with what since `before`, as pairs [taken, into].
function fusions(now, before) {
  const taken = now.originals.filter((id) => id !== now.id && !before.originals.includes(id)).map((id) => [id, now.id]);
  return now.fused_into && now.fused_into !== before.fused_into ? [[now.id, now.fused_into], ...taken] : taken;
}

const shortNumber = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
function number(value, digits = 4) {
  if (value == null) return "";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
}
function size(bytes) {
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  return bytes >= 1 << 10 ? `${(bytes / (1 << 10)).toFixed(1)} KiB` : `${bytes} B`;
}
const typeText = (node) => (node.dtype ? `${node.dtype}[${node.shape.join(", ")}]` : "");
const shortOperation = (node) => node.operation.replace(/^(fxq|aten)\./, "");
