// The list of requests, newest first, a page at a time.

import { getJson, reasonOf } from "./api.js";
import { element, find, show, write } from "./elements.js";
import { capital, moment, percent, plural, saved, words } from "./words.js";

const PAGE_REQUESTS = 10;

let cursor = null;

/** Make the button work. */
export function prepareRequests() {
  find("older").addEventListener("click", showOlder);
}

/** Show the newest requests. */
export async function showRequests() {
  try {
    const page = await getPage();
    find("requests").replaceChildren(...page.requests.map(item));
    write("no-requests", "None yet.");
    show({ "no-requests": !page.requests.length, older: page.next_cursor });
    cursor = page.next_cursor;
  } catch (error) {
    write("no-requests", reasonOf(error));
    show({ "no-requests": true });
  }
}

async function showOlder() {
  const page = await getPage(cursor).catch(() => null);
  if (!page) return; // the button is there to be pressed again
  const items = page.requests.map(item);
  find("requests").append(...items);
  items[0]?.querySelector("a").focus();
  cursor = page.next_cursor;
  show({ older: cursor });
}

const getPage = (after) =>
  getJson(`requests?${new URLSearchParams({ limit: PAGE_REQUESTS, ...(after && { cursor: after }) })}`);

function item(request) {
  const { progress, bytes_in: before, bytes_out: after } = request;
  const state = request.finished_at
    ? words(request.status)
    : `${words(request.status)}, ${percent(progress.percent)}`;
  const facts = [plural(progress.total, "image"), before && saved(before, after)].filter(Boolean).join(", ");
  const made = moment(request.created_at);
  const label = `${capital(state)}, ${facts}, ${made}`; // many have the same state
  return element(
    "li",
    { class: request.status },
    element("a", { href: `#${request.request_id}`, "aria-label": label }, capital(state)),
    element("span", {}, facts),
    element("time", { datetime: request.created_at }, made),
  );
}
