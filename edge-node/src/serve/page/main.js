// Looks at the edge node again and again, and shows what it says.

import { draw, fillChart, milliseconds, requestChart, totals } from "./chart.js";
import { Refusal, look, useKey } from "./edge.js";
import { computedHere, plural, showPrompts, showStatus } from "./numbers.js";
import { OTHER, chosenPrompt, clearTalk, offerPrompts, send, stopAnswer } from "./talk.js";

const at = (id) => document.getElementById(id);

const IDLE_MS = 2500;
const BUSY_MS = 1000;
const TIMELINE_MS = 150;

// The last status, the request that is shown, and whether it is still being answered.
let status = null;
let shown = null;
let answering = false;
let looking = null;

function state(text, kind) {
  at("state").textContent = text;
  at("state").className = `state ${kind}`;
}

function showState() {
  if (status.cloud === null) return state("ready, without a cloud", "good");
  if (status.cloud.kv_plane === "ok") return state("ready", "good");
  return state("ready; the cloud does not send, this edge computes", "bad");
}

function showWay() {
  const cloud = status.cloud !== null;
  at("way-cloud").textContent = cloud ? "cloud" : "no cloud";
  at("way-up").textContent = cloud ? "a name" : "nothing";
  at("way-down").textContent = cloud ? "keys, values" : "nothing";
}

function needKey(message) {
  const form = at("key-form");
  if (form.hidden) {
    form.hidden = false;
    at("key").focus();
  }
  if (message) at("key-note").textContent = message;
  state("needs an API key", "");
}

/** Looks once; says whether it is worth to go on soon. */
async function lookAround() {
  try {
    const [now, prompts] = await Promise.all([look("/v1/status"), look("/v1/cloud-prompts")]);
    status = now;
    at("key-form").hidden = true;
    showStatus(now);
    showState();
    showWay();
    showPrompts(prompts.data);
    offerPrompts(prompts.data, now.cloud !== null);
    showToldNow();
  } catch (error) {
    if (!(error instanceof Refusal)) state("the edge node cannot be reached", "bad");
    else if (error.status === 401) needKey();
    else state(error.message, "bad");
  }
}

function lookAgain() {
  clearTimeout(looking);
  const pause = answering ? BUSY_MS : IDLE_MS;
  looking = setTimeout(async () => {
    // A page that nobody sees asks nothing.
    if (document.visibilityState === "visible" && at("key-form").hidden) await lookAround();
    lookAgain();
  }, pause);
}

/** What the cloud was told while the answer that is shown was made. */
function showToldNow() {
  const line = at("told-now");
  if (shown === null || status.cloud === null || shown.sentBefore === null) return;
  const count = status.cloud.sent_messages - shown.sentBefore;
  const during = count === 0 ? "nothing" : plural(count, "message");
  line.textContent = `Since you last pressed Send: ${during}. No message has a place for your words.`;
}

async function showChosen() {
  at("other-line").hidden = at("prompt").value !== OTHER;
  const name = chosenPrompt();
  const here = name !== null && at("prompt").value !== OTHER;
  at("prompt-details").hidden = !here;
  at("prompt-note").textContent = here || name !== null
    ? "Only this name goes to the cloud, once, however many ask."
    : "Nothing public is used: this edge computes everything itself.";
  if (at("prompt").value === OTHER) at("prompt-note").textContent = "The name that you type here goes to the cloud, so it must be nothing private.";
  at("prompt-text").textContent = "";
  if (!here) return;
  try {
    const prompt = await look(`/v1/cloud-prompts/${encodeURIComponent(name)}`);
    if (chosenPrompt() === name) at("prompt-text").textContent = prompt.text ?? "";
  } catch (error) {
    at("prompt-text").textContent = error.message;
  }
}

function fillTitle(cloud) {
  const came = cloud.received_bytes > 0 ? "came to this edge" : "was computed on this edge";
  return `Before you asked: how “${cloud.id}” ${came}`;
}

/** What a timeline says, as drawings and in words. */
function showTimeline(told) {
  const chart = requestChart(told);
  at("request-none").hidden = true;
  at("request-figure").hidden = false;
  draw(at("request-chart"), chart, "Timeline of this answer until its first token");
  const cloud = told.cloud_prompt;
  const before = cloud !== null && cloud.began_ms === null;
  const notes = [totals(chart)];
  if (before) notes.push("the cloud prompt was here already, so nothing was sent for this answer");
  if (cloud !== null && !before) notes.push(`layers of the cloud prompt that this edge computed: ${computedHere(cloud)}`);
  if (told.spans_omitted > 0) notes.push(`${plural(told.spans_omitted, "further span")} not drawn`);
  at("request-caption").textContent = `${notes.filter(Boolean).join("; ")}.`;
  at("fill-figure").hidden = !before;
  if (before) {
    const fill = fillChart(cloud);
    at("fill-title").textContent = fillTitle(cloud);
    draw(at("fill-chart"), fill, at("fill-title").textContent);
    at("fill-caption").textContent = `${totals(fill)}; layers that this edge computed: ${computedHere(cloud)}.`;
  }
  at("ttft").textContent = milliseconds(told.timeline.ttft_ms);
  at("cloud-tokens").textContent = cloud === null ? "none" : cloud.token_count.toLocaleString("en");
}

async function lookAtTimeline(request) {
  try {
    const told = await look(`/v1/requests/${request.id}/timeline`);
    if (shown !== request) return;
    request.told = told;
    showTimeline(told);
  } catch (error) {
    // It is not there before the server has read the request, nor after a refusal.
    if (!(error instanceof Refusal)) throw error;
  }
}

async function follow(request) {
  while (shown === request && answering) {
    // The server has to read the request first.
    await new Promise((resolve) => setTimeout(resolve, TIMELINE_MS));
    await lookAtTimeline(request);
    if (request.told?.timeline.ttft_ms) return;
  }
}

const watch = {
  begin(id) {
    shown = { id, told: null, sentBefore: status?.cloud?.sent_messages ?? null };
    answering = true;
    for (const fact of ["ttft", "speed", "cloud-tokens", "private-tokens"]) at(fact).textContent = "–";
    follow(shown).catch(() => state("the edge node cannot be reached", "bad"));
    lookAgain();
  },
  progress(progress) {
    const speed = progress.speed();
    if (speed !== null) at("speed").textContent = `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`;
  },
  async end(progress) {
    answering = false;
    this.progress(progress);
    if (progress.timings) at("private-tokens").textContent = progress.timings.prompt_n.toLocaleString("en");
    await lookAtTimeline(shown).catch(() => {});
    await lookAround();
    lookAgain();
  },
};

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (status !== null) send(status.model.chat_template, watch);
});
at("words").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
at("stop").addEventListener("click", stopAnswer);
at("clear").addEventListener("click", clearTalk);
at("prompt").addEventListener("change", showChosen);
at("other").addEventListener("input", showChosen);
at("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(at("key").value.trim());
  at("key").value = "";
  await lookAround();
  if (!at("key-form").hidden) needKey("That key does not open this server.");
});
document.addEventListener("visibilitychange", lookAgain);

let drawnWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  // Drawings also change its height; only another width asks for other drawings.
  if (contentRect.width === drawnWidth) return;
  drawnWidth = contentRect.width;
  if (shown?.told) showTimeline(shown.told);
}).observe(at("request-figure").parentElement);

await lookAround();
lookAgain();
