// Small drawings in the panel, as SVG elements.

function svg(name, attributes = {}, words = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (words) element.textContent = words;
  return element;
}

// Counts on a square-root scale, the range's ends, mean ± kσ, and below what other observers would have chosen.
function histogram(spread, value) {
  const width = 420, height = 110, rows = Object.entries(spread.alternatives);
  const low = Math.min(spread.low, value?.low ?? 0), high = Math.max(spread.high, value?.high ?? 0), span = high - low || 1;
  const x = (real) => (real - low) / span * width;
  const chart = svg("svg", { class: "chart histogram", viewBox: `0 0 ${width} ${height + 20 + 20 * rows.length}`, role: "img" });
  const most = Math.sqrt(Math.max(...spread.counts, 1)), step = (spread.high - spread.low) / spread.counts.length;
  spread.counts.forEach((count, i) => {
    const tall = Math.sqrt(count) / most * (height - 14);
    const bar = svg("rect", { x: x(spread.low + i * step), y: height - tall, width: Math.max(0.5, x(low + step) - 0.5), height: tall, fill: theme.accent, opacity: 0.7 });
    bar.append(svg("title", {}, `${number(spread.low + i * step)} … ${number(spread.low + (i + 1) * step)}: ${count.toLocaleString("en")}`));
    chart.append(bar);
  });
  for (const k of [-4, -2, 0, 2, 4]) {
    const at = spread.mean + k * spread.std;
    if (at < low || at > high) continue;
    chart.append(svg("line", { x1: x(at), x2: x(at), y1: 10, y2: height, stroke: theme.soft, "stroke-dasharray": k ? "2 3" : "none", "stroke-width": 0.8 }));
    chart.append(svg("text", { x: x(at), y: 8, "text-anchor": "middle" }, k ? `${k > 0 ? "+" : "−"}${Math.abs(k)}σ` : "mean"));
  }
  for (const end of value ? [value.low, value.high] : []) {
    chart.append(svg("line", { class: "clip", x1: x(end), x2: x(end), y1: 0, y2: height, stroke: theme.bad, "stroke-width": 1.6 }));
  }
  chart.append(svg("text", { x: 0, y: height + 11 }, number(low)), svg("text", { x: width, y: height + 11, "text-anchor": "end" }, number(high)));
  rows.forEach(([name, [from, to]], i) => {
    const y = height + 32 + 20 * i;
    chart.append(svg("rect", { class: "alternative", x: x(Math.max(low, from)), y, width: Math.max(1, x(Math.min(high, to)) - x(Math.max(low, from))), height: 4, fill: theme.middle }));
    chart.append(svg("text", { x: 0, y: y - 3 }, `${name} [${number(from)}, ${number(to)}]`));
  });
  return chart;
}

// One column per channel, from its smallest to its largest weight.
function channels(weight) {
  const width = 420, height = 60, count = weight.low.length;
  const reach = Math.max(...weight.low.map(Math.abs), ...weight.high.map(Math.abs)) || 1;
  const y = (real) => height / 2 - real / reach * height / 2;
  const chart = svg("svg", { class: "chart channels", viewBox: `0 0 ${width} ${height}`, role: "img" });
  weight.low.forEach((low, i) => {
    const high = weight.high[i];
    const bar = svg("rect", { x: i * width / count, y: y(high), width: Math.max(0.4, width / count - 0.4), height: Math.max(0.8, y(low) - y(high)), fill: theme.accent });
    bar.append(svg("title", {}, `channel ${i}: ${number(low)} … ${number(high)}`));
    chart.append(bar);
  });
  return chart;
}

// Time to the right, addresses upward; the step that needs the most is marked.
function arena(memory, choose) {
  const width = 420, height = 220, steps = memory.steps.length || 1, room = memory.arena_bytes || 1;
  const chart = svg("svg", { class: "chart arena", viewBox: `0 0 ${width} ${height + 14}`, role: "img" });
  memory.tenants.forEach((tenant, i) => {
    const tall = tenant.bytes / room * height, y = height - (tenant.offset / room) * height - tall;
    const box = svg("rect", { class: "tenant", x: tenant.first / steps * width, y, width: (tenant.last - tenant.first + 1) / steps * width, height: tall,
      fill: mixed(theme.accent, theme.back, 0.2 + 0.15 * (i % 4)), stroke: theme.back, "stroke-width": 0.6 });
    box.append(svg("title", {}, `${tenant.name}: ${size(tenant.bytes)} at ${tenant.offset}, steps ${tenant.first} to ${tenant.last}`));
    box.addEventListener("click", () => choose(memory.steps[tenant.first]?.node));
    chart.append(box);
  });
  const peak = (memory.peak_step + 0.5) / steps * width;
  chart.append(svg("line", { class: "peak", x1: peak, x2: peak, y1: 0, y2: height, stroke: theme.bad, "stroke-dasharray": "4 3" }));
  chart.append(svg("text", { x: peak, y: height + 11, "text-anchor": peak > width / 2 ? "end" : "start" }, `peak: ${memory.steps[memory.peak_step]?.node ?? ""}`));
  return chart;
}
