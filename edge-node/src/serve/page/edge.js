// Everything that this page says to the edge node goes through here.

// Kept here and nowhere else: no storage, no cookie, no address.
let key = "";

export function useKey(given) {
  key = given;
}

/** What the server says when it does not answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A request's id that nobody guesses; it also opens the request's timeline. */
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function headers(more) {
  const authorisation = key === "" ? {} : { authorization: `Bearer ${key}` };
  return { ...authorisation, ...more };
}

async function refused(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `the edge node answered ${response.status}`;
  return new Refusal(response.status, message);
}

/** The JSON under a path. */
export async function look(path) {
  const response = await fetch(path, { headers: headers(), cache: "no-store" });
  if (!response.ok) throw await refused(response);
  return response.json();
}

/** Asks for an answer; gives each of its events to `heard` as it comes. */
export async function listen(path, { id, body, signal }, heard) {
  const response = await fetch(path, {
    method: "POST",
    headers: headers({ "content-type": "application/json", "x-request-id": id }),
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await refused(response);
  const warning = response.headers.get("x-edgeprompt-warning");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Refusal(0, "the answer broke off");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events.filter((event) => event.startsWith("data: "))) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return warning;
      const said = JSON.parse(data);
      if (said.error) throw new Refusal(500, said.error.message);
      heard(said);
    }
  }
}
