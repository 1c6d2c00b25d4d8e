// Requests to the server this page came from: its errors, its keys, and its wishes to wait.

const STORED_KEY = "ifedicl-api-key";
const MAX_WAITS = 5;
const BATCH = 64; // texts a request: large enough to be fast, small enough to show progress

/** An answer other than 2xx, in the server's own words. */
export class ServerError extends Error {
  constructor(status, body) {
    super(messageOf(status, body));
    this.status = status;
    this.kind = body?.error?.type ?? "";
  }
}

/** The API key of this tab, as long as it is open. */
export const key = {
  get: () => sessionStorage.getItem(STORED_KEY),
  set: (value) => sessionStorage.setItem(STORED_KEY, value),
  forget: () => sessionStorage.removeItem(STORED_KEY),
};

/**
 * The server. `askKey(refused)` resolves to whether there is another key to try, and
 * `wait(seconds, error, signal)` resolves when a request may be sent again.
 */
export class Server {
  constructor(askKey, wait) {
    this.askKey = askKey;
    this.wait = wait;
    this.asking = null;
  }

  tasks() {
    return this.#get("v1/tasks");
  }

  card(task) {
    return this.#get(`v1/tasks/${encodeURIComponent(task)}`);
  }

  fitted(task) {
    return this.#get(`v1/tasks/${encodeURIComponent(task)}/fitted`);
  }

  /**
   * Classify texts by tasks in batches: yields `{start, results, ms, usage}` for each, the results
   * of a text in the order of the tasks. `options` are `truncate` and `adapted`.
   */
  async *classify(texts, tasks, options, signal) {
    const by = tasks.length > 1 ? { tasks } : { task: tasks[0] };
    for (let start = 0; start < texts.length; start += BATCH) {
      const input = texts.slice(start, start + BATCH);
      const { json, ms } = await this.#request("v1/classify", { ...by, ...options, input }, signal);
      const results = input.map((_, index) =>
        json.data.slice(index * tasks.length, (index + 1) * tasks.length),
      );
      yield { start, results, ms, usage: json.usage };
    }
  }

  async #get(path) {
    return (await this.#request(path)).json;
  }

  async #request(path, body, signal) {
    for (let waits = 0; ; ) {
      const sentKey = key.get();
      const { response, json, ms } = await exchange(path, body, signal, sentKey);
      if (response.ok) return { json, ms };
      const error = new ServerError(response.status, json);
      const seconds = secondsToWait(response);
      if (response.status === 401) {
        if (sentKey === key.get() && !(await this.#anotherKey(sentKey !== null))) throw error;
      } else if (seconds !== null && waits < MAX_WAITS) {
        waits += 1;
        await this.wait(seconds, error, signal);
      } else throw error;
    }
  }

  /** Ask once, however many requests were refused. */
  #anotherKey(refused) {
    this.asking ??= this.askKey(refused).finally(() => (this.asking = null));
    return this.asking;
  }
}

async function exchange(path, body, signal, bearer) {
  const headers = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const options = { headers, signal, credentials: "omit" };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  const sent = performance.now();
  try {
    const response = await fetch(path, options);
    const text = await response.text();
    return { response, json: parsed(text), ms: performance.now() - sent };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
}

/** JSON, or null: a proxy's error page, perhaps. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** OpenAI's shape, vLLM's short one (`{"error": "Unauthorized"}`), or no JSON at all. */
function messageOf(status, body) {
  const error = body?.error;
  return error?.message ?? (typeof error === "string" ? error : `The server answered ${status}.`);
}

/** Seconds in a 429's or 503's Retry-After (a number or a date), or null without one. */
function secondsToWait(response) {
  const value = response.headers.get("Retry-After");
  if (value === null || ![429, 503].includes(response.status)) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0, Math.ceil(seconds));
}
