// The service's HTTP, relative to this page, with the API key when there is one.

import { find } from "./elements.js";

const KEY = "api-key"; // in the tab's own storage

/** An answer that is no success; `problem` is its RFC 9457 document, or empty. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service answered with status ${status}.`);
    this.status = status;
    this.problem = problem;
  }

  /** Whether asking again later may be answered better. */
  get isPassing() {
    return this.status >= 500 || this.status === 429;
  }
}

/** Return what a person may read of an error. */
export function reasonOf(error) {
  return error instanceof Refusal ? error.message : "The service can’t be reached.";
}

/** Ask for the key where one is needed; `changed` is called with each new one. */
export function keepKey(changed) {
  const field = find("key");
  field.value = sessionStorage.getItem(KEY) ?? "";
  find("key-form").hidden = !field.value;
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, field.value.trim());
    changed();
  });
}

function authorization() {
  const key = find("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function refusal(status, problem) {
  if (status !== 401) return new Refusal(status, problem);
  find("key-form").hidden = false;
  find("key").focus();
  const detail = find("key").value ? "The service doesn’t know this API key." : "The service needs an API key.";
  return new Refusal(status, { ...problem, detail });
}

/** Fetch a path. Throws Refusal, and TypeError when there is no answer. */
export async function call(path, { headers, ...init } = {}) {
  const response = await fetch(path, { ...init, headers: { ...headers, ...authorization() } });
  if (response.ok) return response;
  throw refusal(response.status, await response.json().catch(() => ({})));
}

export const getJson = async (path) => (await call(path)).json();

/**
 * Send a form; `sent` hears which part of it is on its way, from 0 to 1. Returns the answer's JSON.
 * Throws like `call`, and TypeError when the signal ends it. Not by `fetch`, which doesn't tell how far it is.
 */
export function post(path, form, { headers = {}, sent = () => {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    for (const [name, value] of Object.entries({ ...headers, ...authorization() })) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 0);
    request.onerror = request.onabort = () => reject(new TypeError("no answer"));
    signal?.addEventListener("abort", () => request.abort());
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(request.response);
      else reject(refusal(request.status, request.response ?? {}));
    };
    request.send(form);
  });
}
