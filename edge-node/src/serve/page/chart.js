// Draws timelines: each layer has two lanes, above what came from the cloud, below what the edge did.

const SVG = "http://www.w3.org/2000/svg";
const LABEL_WIDTH = 36;
const HEAD = 18;
const FOOT = 18;
const NARROWEST_BAR = 1.5;

const WORDS = {
  cloud: "cloud computed",
  wire: "on the wire",
  waited: "edge waited",
  public: "prepared or computed here, public",
  private: "computed here, private",
};

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  const abs = Math.abs(ms);
  if (abs >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  return abs >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

function bars(kind, lane, spans, shift) {
  const some = spans.filter((span) => span !== null && span !== undefined);
  return some.map((span) => ({ kind, lane, start: span.start_ms + shift, end: span.end_ms + shift }));
}

/** What the cloud prompt's arrival adds to each layer, `shift` milliseconds later. */
function arrival(timeline, shift) {
  return timeline.layers.map((layer) => [
    ...bars("cloud", 0, [layer.cloud_compute], shift),
    ...bars("wire", 0, [layer.wire], shift),
    ...bars("public", 1, layer.edge_compute, shift),
  ]);
}

/** The chart of a request, and of its cloud prompt as far as that was still on its way. */
export function requestChart(told) {
  const { timeline, cloud_prompt: cloud } = told;
  const shift = cloud?.began_ms ?? null;
  const above = shift === null ? [] : arrival(cloud.timeline, shift);
  const layers = timeline.layers.map((layer, index) => [
    ...(above[index] ?? []),
    ...bars("waited", 1, [layer.edge_wait], 0),
    ...bars("private", 1, layer.edge_compute, 0),
  ]);
  const moments =
    timeline.ttft_ms === null
      ? [{ at: told.now_ms, label: "now", kind: "now" }]
      : [{ at: timeline.ttft_ms, label: "first token", kind: "first" }];
  return { layers, moments };
}

/** The chart of how a cloud prompt came, counted from its fetch. */
export function fillChart(cloud) {
  const waits = cloud.timeline.layers.map((layer) => bars("waited", 1, [layer.edge_wait], 0));
  const came = arrival(cloud.timeline, 0);
  return { layers: came.map((bars, index) => [...waits[index], ...bars]), moments: [] };
}

/** How long each kind took, all layers together. */
export function totals(chart) {
  const sums = {};
  for (const bar of chart.layers.flat()) {
    sums[bar.kind] = (sums[bar.kind] ?? 0) + Math.max(0, bar.end - bar.start);
  }
  const words = Object.keys(WORDS).filter((kind) => kind in sums);
  return words.map((kind) => `${WORDS[kind]} ${milliseconds(sums[kind])}`).join(" · ");
}

function niceStep(length, count) {
  const raw = Math.max(length / count, 1e-6);
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
}

function extent(chart) {
  const all = chart.layers.flat();
  const starts = [0, ...all.map((bar) => bar.start)];
  const ends = [...all.map((bar) => bar.end), ...chart.moments.map((moment) => moment.at)];
  const from = Math.min(...starts);
  return { from, to: Math.max(from + 0.1, ...ends) };
}

function drawAxis(svg, { from, to }, { x, width, bottom }) {
  const step = niceStep(to - from, Math.max(2, Math.floor(width / 90)));
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    svg.append(element("line", { class: "grid", x1: x(at), x2: x(at), y1: HEAD, y2: bottom }));
    const anchor = x(at) > width - 24 ? "end" : "middle";
    const label = `${Number(at.toPrecision(6))}${x(at) > width - 100 ? " ms" : ""}`;
    svg.append(element("text", { x: x(at), y: bottom + 14, "text-anchor": anchor }, label));
  }
}

function drawMoments(svg, moments, { x, width, bottom }) {
  for (const { at, label, kind } of moments) {
    svg.append(element("line", { class: `moment ${kind}`, x1: x(at), x2: x(at), y1: HEAD - 4, y2: bottom }));
    const anchor = x(at) > width / 2 ? "end" : "start";
    const text = `${label} ${milliseconds(at)}`;
    svg.append(element("text", { class: "moment-label", x: x(at), y: 11, "text-anchor": anchor }, text));
  }
}

function drawLayer(svg, index, layer, { x, y, lane, labelled }) {
  if (labelled) {
    svg.append(element("text", { x: LABEL_WIDTH - 8, y: y + lane + 4, "text-anchor": "end" }, `${index}`));
  }
  for (const { kind, lane: row, start, end } of layer) {
    const width = Math.max(NARROWEST_BAR, x(end) - x(start));
    const top = y + row * lane + 1;
    const bar = element("rect", { class: kind, x: x(start), y: top, width, height: lane - 2, rx: 1.5 });
    const took = `layer ${index}: ${WORDS[kind]}, ${milliseconds(start)} to ${milliseconds(end)}`;
    bar.append(element("title", {}, took));
    svg.append(bar);
  }
}

/** Draws a chart in place of what `place` shows. */
export function draw(place, chart, name) {
  const width = Math.max(240, place.clientWidth);
  const count = chart.layers.length;
  const lane = count > 40 ? 4 : count > 16 ? 6 : 10;
  const every = Math.ceil(count / 24);
  const { from, to } = extent(chart);
  const right = width - 4;
  const x = (at) => LABEL_WIDTH + ((at - from) / (to - from)) * (right - LABEL_WIDTH);
  const pitch = 2 * lane + 4;
  const bottom = HEAD + count * pitch;
  const height = bottom + FOOT;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: ${totals(chart)}` });
  for (let index = 0; index < count; index += 2) {
    const y = HEAD + index * pitch;
    svg.append(element("rect", { class: "stripe", x: 0, y, width, height: pitch }));
  }
  svg.append(element("text", { x: LABEL_WIDTH - 8, y: 11, "text-anchor": "end" }, "layer"));
  drawAxis(svg, { from, to }, { x, width: right, bottom });
  chart.layers.forEach((layer, index) => {
    const y = HEAD + index * pitch + 2;
    drawLayer(svg, index, layer, { x, y, lane, labelled: index % every === 0 });
  });
  drawMoments(svg, chart.moments, { x, width: right, bottom });
  place.replaceChildren(svg);
}
