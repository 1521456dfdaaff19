// The server's API: JSON, its errors, and streams of events.

let key = sessionStorage.getItem("understudy-key") || "";

export const hasKey = () => key !== "";

export function setKey(value) {
  key = value.trim();
  sessionStorage.setItem("understudy-key", key);
}

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `The server answered ${status}.`);
    this.status = status;
    this.code = error.code || "";
  }
}

async function request(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const sent = body === undefined ? undefined : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: sent, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer. Does it still run?" });
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new ApiError(response.status, answer.error || {});
}

export const get = async (path) => (await request("GET", path)).json();
export const post = async (path, body = {}) => (await request("POST", path, body)).json();
export const remove = (path) => request("DELETE", path);

/** Leave no character behind when the tab is closed. */
export function leave(path) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  fetch(path, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

/** Events of a stream, as objects; leaving the loop or aborting the signal ends the request. */
export async function* stream(path, body, signal) {
  const response = await request("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value;
      const blocks = pending.split("\n\n");
      pending = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").find((line) => line.startsWith("data: "));
        if (!data) continue;
        const event = JSON.parse(data.slice(6));
        if (event.type === "error") throw new ApiError(500, event.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
