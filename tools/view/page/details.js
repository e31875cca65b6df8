// The panel of one node or edge: what it is, how exact, and why.

const panel = document.getElementById("panel");

// All text goes in as text: a name from a model is never read as HTML.
function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") found.addEventListener("click", value); else found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
}

const heading = (words) => element("h2", {}, words);
const note = (words) => element("p", { class: "note" }, words);
const link = (id) => element("button", { class: "link", "data-to": id, onclick: () => select(id) }, id);

function facts(rows) {
  const table = element("table", { class: "facts" });
  for (const [name, value] of rows) {
    if (value === "" || value == null) continue;
    table.append(element("tr", {}, element("th", {}, name), element("td", {}, ...(Array.isArray(value) ? value : [value]))));
  }
  return table;
}

function listed(ids) {
  return ids.flatMap((id, i) => (i ? [", ", link(id)] : [link(id)]));
}

function valueRows(node) {
  const value = node.value;
  return [
    ["type", typeText(node)], ["bytes", node.bytes ? size(node.bytes) : ""],
    ["bits", value?.bits], ["range", value && `[${number(value.low)}, ${number(value.high)}]`],
    ["scale", value && number(value.scale, 6)], ["zero point", value && String(value.zero_point)],
    ["codes", value && `${value.qmin} … ${value.qmax}`],
  ];
}

function showNode(id) {
  const run = runOf(), node = shownNodes().get(id);
  panel.replaceChildren();
  if (!node) {
    panel.append(note(id ? `${id} is not in the graph after ${run.stages[state.stage].name}.` : "Click a node or an edge, or press / to search."));
    return;
  }
  const measured = isLastStage() ? run.measured[id] : undefined, users = usersOf(shownNodes()).get(id) ?? [];
  panel.append(heading(id), facts([
    ["id", id], ["operation", node.operation], ...valueRows(node), ["MACs", node.macs ? number(node.macs) : ""],
    ["inputs", listed(node.inputs)], ["users", listed(users)],
  ].filter(([, value]) => !Array.isArray(value) || value.length)));
  showErrors(node, measured);
  showWhy(node);
  if (node.weight) showWeight(node.weight);
  if (node.multipliers.length) showMultipliers(node.multipliers);
  // Also those of the accumulators that it rounds: a kernel does both.
  for (const part of [id, ...node.inputs.filter((source) => shownNodes().get(source)?.feeds === id)]) showCosts(part);
  if (node.constants.length) {
    panel.append(heading("constants"), facts(node.constants.map((c) => [c.name, `${c.dtype}[${c.shape.join(", ")}], ${size(c.bytes)}`])));
  }
}

function showErrors(node, measured) {
  if (!node.value) return;
  panel.append(heading("error"));
  if (!measured) {
    panel.append(note(isLastStage() ? "Not measured: view with data and the float model." : "Errors are those of the last pass: move the slider to the right."));
    return;
  }
  panel.append(facts([
    ["local SQNR", `${measured.local_db.toFixed(1)} dB (this operation alone)`],
    ["cumulative SQNR", `${measured.cumulative_db.toFixed(1)} dB (since the input)`],
    ["clipped", `${(measured.clipped * 100).toFixed(4)} %`],
    ["saturated", `${measured.saturated.toLocaleString("en")} of ${measured.count.toLocaleString("en")} integers`],
    ["mean ± σ", `${number(measured.spread.mean)} ± ${number(measured.spread.std)}`],
  ]), histogram(measured.spread, node.value));
}

function showWhy(node) {
  const made = runOf().made_by[node.id], fused = node.fused_into;
  panel.append(heading("why"), facts([
    ["range", node.value?.reason], ["in a sentence", node.why], ["stayed float", node.is_float ? "yes" : ""],
    ["plan", node.plan], ["made by", runOf().stages.length > 1 ? made : ""], ["passes", node.passes.join(" → ")], ["fused into", fused && [link(fused)]],
    ["rounded by", node.feeds && [link(node.feeds)]],
    ["computes", node.originals.join(", ")], ["also called", node.aliases.filter((name) => name !== node.id).join(", ")], ["module", node.module],
    ["source", node.source && element("span", { class: "source" }, node.source)],
  ]));
}

function showWeight(weight) {
  panel.append(heading("weight"), facts([
    ["type", `${weight.dtype}[${weight.shape.join(", ")}]`], ["bits", weight.bits], ["bytes", size(weight.bytes)],
    ["scales", `${number(weight.scale_low)} … ${number(weight.scale_high)}`],
  ]));
  if (weight.low.length) panel.append(note("range of each channel"), channels(weight));
}

function showMultipliers(multipliers) {
  panel.append(heading("requantize"));
  for (const m of multipliers) {
    panel.append(facts([
      ["multiplier", m.low === m.high ? number(m.low, 6) : `${number(m.low, 6)} … ${number(m.high, 6)}`],
      ["integer", `${m.integer_low === m.integer_high ? m.integer_low : `${m.integer_low} … ${m.integer_high}`} · 2^${m.shift - 32}`],
      ["relative error", `${m.is_bound ? "at most " : ""}${m.relative_error.toExponential(2)}`],
    ]));
  }
}

function showCosts(id) {
  for (const memory of runOf().memory) {
    const step = memory.steps.find((found) => found.node === id);
    if (!step) continue;
    panel.append(heading(`cost on ${memory.target}`), facts([
      ["kernel", step.kernel], ["instructions", number(step.instructions)], ["latency", step.microseconds == null ? "" : `${number(step.microseconds)} µs`],
      ["constants", step.constant_bytes == null ? "" : size(step.constant_bytes)],
      ["arena in use", step.alive_bytes == null ? "" : size(step.alive_bytes)],
    ]));
  }
}

function showEdge(edge) {
  const node = shownNodes().get(edge.id), measured = isLastStage() ? runOf().measured[edge.id] : undefined;
  const into = edge.item.ids.filter((id) => shownNodes().get(id).inputs.includes(edge.id));
  panel.replaceChildren(heading(`${edge.id} → ${into.join(", ")}`), facts([
    ["from", [link(edge.id)]], ["to", listed(into)], ...valueRows(node),
    ["clipped", measured ? `${(measured.clipped * 100).toFixed(4)} %` : ""],
  ]));
  if (node.multipliers.length) showMultipliers(node.multipliers);
}
