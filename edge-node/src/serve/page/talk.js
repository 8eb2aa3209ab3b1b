// The chat box: what is asked, and the answer as it comes.

import { listen, newRequestId } from "./edge.js";

const at = (id) => document.getElementById(id);

// What was said so far: the model sees it again with the next question.
let turns = [];
// How to end the answer that is under way.
let stop = null;

/** What the chooser says if the name is typed. */
export const OTHER = "other:";
const NONE = "none:";
const NAMED = "named:";

/** The cloud prompt that is chosen: its name, or null for none. */
export function chosenPrompt() {
  const value = at("prompt").value;
  if (value === OTHER) return at("other").value.trim() || null;
  return value.startsWith(NAMED) ? value.slice(NAMED.length) : null;
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

/** Offers the prompts that are here; what was chosen stays chosen. */
export function offerPrompts(prompts, hasCloud) {
  const chooser = at("prompt");
  const options = prompts.map((prompt) => option(NAMED + prompt.id, prompt.id));
  options.push(option(OTHER, hasCloud ? "another one of the cloud’s …" : "another one …"));
  options.push(option(NONE, "none: all of it private"));
  const values = options.map((made) => made.value).join("\n");
  const old = Array.from(chooser.options, (made) => made.value).join("\n");
  if (values === old) return;
  const before = chooser.value;
  chooser.replaceChildren(...options);
  const first = prompts.find((prompt) => prompt.default) ?? prompts[0];
  const typed = before === OTHER ? NAMED + at("other").value.trim() : before;
  const wanted = [typed, before, first ? NAMED + first.id : NONE];
  chooser.value = wanted.find((value) => options.some((made) => made.value === value && value !== ""));
  chooser.dispatchEvent(new Event("change"));
}

function addTurn(who, kind) {
  const turn = document.createElement("div");
  turn.className = `turn ${kind}`;
  const parts = ["who", "said", "after"].map((name) => {
    const part = document.createElement("div");
    part.className = name;
    turn.append(part);
    return part;
  });
  parts[0].textContent = who;
  at("talk").append(turn);
  return { turn, said: parts[1], after: parts[2] };
}

/** What was said before need not be computed again, for nobody else. */
const SESSION = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
  byte.toString(16).padStart(2, "0"),
).join("");

function body(words, template) {
  const name = chosenPrompt();
  const common = {
    stream: true,
    stream_options: { include_usage: true },
    return_token_ids: true,
    cloud_prompt: name ?? false,
    prompt_cache_key: SESSION,
    max_tokens: Number(at("max-tokens").value) || 256,
    temperature: Number(at("temperature").value) || 0,
  };
  // Without a chat template the model continues a text, which ends with a line break as cloud
  // prompts do; what was said before is not part of it.
  if (!template) return ["/v1/completions", { ...common, prompt: `${words.trim()}\n` }];
  const messages = [...turns, { role: "user", content: words }];
  return ["/v1/chat/completions", { ...common, messages }];
}

/** What is known of an answer while it comes. */
class Progress {
  constructor() {
    this.tokens = 0;
    this.firstAt = null;
    this.timings = null;
    this.finish = null;
  }

  hear(event) {
    const choice = event.choices[0];
    if (choice?.token_ids?.length > 0) {
      this.firstAt ??= performance.now();
      this.tokens += choice.token_ids.length;
    }
    this.timings = event.timings ?? this.timings;
    this.finish = choice?.finish_reason ?? this.finish;
    return choice?.delta?.content ?? choice?.text ?? "";
  }

  /** Tokens in a second after the first, as far as can be said. */
  speed() {
    if (this.timings) return this.timings.predicted_per_second || null;
    const seconds = this.firstAt === null ? 0 : (performance.now() - this.firstAt) / 1000;
    return seconds > 0.05 ? (this.tokens - 1) / seconds : null;
  }
}

function busy(is) {
  at("send").disabled = is;
  at("stop").disabled = !is;
  at("clear").disabled = is;
}

function complain(message) {
  at("problem").textContent = message;
  at("problem").hidden = message === "";
}

const ENDS = { length: "cut at the length that was asked for", stop: "" };

/** Sends the words and shows the answer; tells `watch` of its beginning, progress and end. */
export async function send(template, watch) {
  const words = at("words").value;
  if (stop !== null || words.trim() === "") return;
  complain("");
  if (at("prompt").value === OTHER && chosenPrompt() === null) {
    complain("Type the name of a cloud prompt, or choose none.");
    at("other").focus();
    return;
  }
  const [path, asked] = body(words, template);
  const id = newRequestId();
  const mine = addTurn("you", "mine");
  mine.said.textContent = words.trim();
  const answer = addTurn("the model, on this edge node", "coming");
  const log = at("talk");
  const progress = new Progress();
  stop = new AbortController();
  busy(true);
  at("words").value = "";
  watch.begin(id);
  let end = "";
  try {
    const warning = await listen(path, { id, body: asked, signal: stop.signal }, (event) => {
      answer.said.textContent += progress.hear(event);
      log.scrollTop = log.scrollHeight;
      watch.progress(progress);
    });
    end = warning ?? ENDS[progress.finish] ?? "";
    turns.push({ role: "user", content: words }, { role: "assistant", content: answer.said.textContent });
  } catch (error) {
    const stopped = error.name === "AbortError";
    end = stopped ? "stopped" : "failed";
    if (!stopped) {
      complain(`No answer: ${error.message}.`);
      at("words").value = words;
    }
  }
  stop = null;
  answer.turn.classList.remove("coming");
  answer.after.textContent = end;
  busy(false);
  watch.end(progress);
}

/** Ends the answer that is under way; the edge node stops computing it. */
export function stopAnswer() {
  stop?.abort();
}

/** Forgets what was said. */
export function clearTalk() {
  turns = [];
  at("talk").replaceChildren();
  complain("");
  at("words").focus();
}
