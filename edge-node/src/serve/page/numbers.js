// What the server says of itself: /v1/status and /v1/cloud-prompts as numbers on the page.

import { milliseconds } from "./chart.js";

const at = (id) => document.getElementById(id);

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit + 1 < units.length) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? count.toFixed(0) : count.toFixed(1)} ${units[unit]}`;
}

export function plural(count, one) {
  return `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
}

function bits(rate) {
  const mega = rate / 1e6;
  return mega >= 1000 ? `${(mega / 1000).toFixed(1)} Gbit/s` : `${mega.toFixed(mega < 10 ? 1 : 0)} Mbit/s`;
}

function gauge(id, used, all) {
  at(id).max = Math.max(all, 1);
  at(id).value = used;
  at(`${id}-text`).textContent = `${bytes(used)} of ${bytes(all)}`;
}

// The status before the last one: rates are differences.
let before = null;

function serverSpeed(status) {
  const earlier = before;
  if (earlier === null || status.uptime_ms - earlier.uptime_ms >= 900) before = status;
  if (earlier === null || status.uptime_ms < earlier.uptime_ms) return null;
  const seconds = (status.uptime_ms - earlier.uptime_ms) / 1000;
  if (seconds < 0.9) return null;
  return (status.generation_tokens_total - earlier.generation_tokens_total) / seconds;
}

function cell(text, kind) {
  const made = document.createElement("td");
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

/** Where a prompt's layers came from; older servers do not say. */
function source(prompt) {
  if (typeof prompt.source === "string") return prompt.source;
  if (prompt.state !== "filled") return "–";
  return prompt.received_bytes > 0 ? "cloud" : "this edge";
}

const REASONS = {
  unreachable: "the cloud could not be reached",
  refused: "the cloud refused",
  link_lost: "the link was lost",
  corrupt: "what came was damaged",
  stalled: "the cloud stopped sending",
  slow: "they came too slowly",
};

/** How many layers this edge computed of a cloud prompt, and why. */
export function computedHere(prompt) {
  const parts = [];
  if (prompt.recomputed_layers > 0) {
    const reason = REASONS[prompt.recompute_reason] ?? prompt.recompute_reason ?? "they did not come";
    parts.push(`${prompt.recomputed_layers}: ${reason}`);
  }
  if (prompt.chosen_layers > 0) {
    const why = prompt.received_bytes > 0 ? "sooner than sent" : "none was asked for";
    parts.push(`${prompt.chosen_layers}: ${why}`);
  }
  if (prompt.state === "broken") parts.push("cannot be completed");
  return parts.join("; ") || (prompt.state === "filled" ? "none" : "–");
}

export function showPrompts(prompts) {
  at("prompts-none").hidden = prompts.length > 0;
  const rows = prompts.map((prompt) => {
    const row = document.createElement("tr");
    const layers = `${prompt.layers_here}/${prompt.layer_count}`;
    const received = prompt.received_bytes === undefined ? "…" : bytes(prompt.received_bytes);
    row.append(
      cell(prompt.id),
      cell(source(prompt)),
      cell(prompt.token_count.toLocaleString("en"), "number"),
      cell(layers, "number"),
      cell(received, "number"),
      cell(computedHere(prompt)),
    );
    return row;
  });
  at("prompts").replaceChildren(...rows);
}

function showCloud(cloud) {
  const told = at("told");
  at("told-details").hidden = cloud === null;
  if (cloud === null) {
    told.textContent = "Nothing: this edge node was started without a cloud.";
    at("rate").textContent = "no cloud";
    at("rtt").textContent = "–";
    return;
  }
  told.textContent = `${plural(cloud.sent_messages, "message")}, ${bytes(cloud.sent_bytes)} since this edge node started.`;
  const lines = cloud.last_messages.map((words) => {
    const line = document.createElement("li");
    line.textContent = words;
    return line;
  });
  at("told-list").replaceChildren(...lines);
  const known = cloud.rate_bits_per_second !== null;
  at("rate").textContent = known ? bits(cloud.rate_bits_per_second) : "not measured yet";
  at("rtt").textContent = milliseconds(cloud.rtt_ms);
}

export function showStatus(status) {
  at("model").textContent = `${status.model.id}, ${plural(status.model.layer_count, "layer")}, up to ${status.model.max_model_len.toLocaleString("en")} tokens`;
  at("version").textContent = `edgeprompt ${status.version}`;
  const speed = serverSpeed(status);
  if (speed !== null) at("server-speed").textContent = `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`;
  at("requests").textContent = `${status.requests.running} run, ${status.requests.waiting} wait`;
  gauge("private-kv", status.private_kv.used_bytes, status.private_kv.bytes);
  gauge("cloud-kv", status.cloud_kv.used_bytes, status.cloud_kv.bytes_max);
  showCloud(status.cloud);
}
