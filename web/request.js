// One request: its progress as it goes on, its figures and failures, and what can be done with it.

import { Refusal, call, reasonOf } from "./api.js";
import { confirmed, element, find, say, show, write } from "./elements.js";
import { listFailures, refreshGallery, showGallery } from "./gallery.js";
import {
  FINAL_STATUSES,
  bytes,
  capital,
  chosen,
  count,
  duration,
  moment,
  percent,
  plural,
  words,
} from "./words.js";

const SEEN_PAUSE_SECONDS = 2;
const TITLE = document.title;

let shown = ""; // the id of the request that is followed
let etag = null; // of the status as it is shown; null before the first
let timer = 0;

const pathOf = (id) => `status/${encodeURIComponent(id)}`;
const isFinal = (status) => FINAL_STATUSES.has(status.status);

/** Make the buttons work. */
export function prepareRequest() {
  find("retry").addEventListener("click", () => act("POST", `${pathOf(shown)}/retry`));
  find("resend").addEventListener("click", () => act("POST", `${pathOf(shown)}/webhook`));
  find("cancel").addEventListener("click", cancel);
  find("delete").addEventListener("click", remove);
  document.addEventListener("visibilitychange", () => {
    if (shown && !document.hidden) look();
  });
}

/** Show a request and follow it to its end. */
export function follow(id) {
  leave();
  shown = id;
  write("request-title", "Request");
  write("request-id", id);
  write("request-made", "");
  show({ found: false, trouble: false });
  look();
}

/** Follow no request any more. */
export function leave() {
  clearTimeout(timer);
  shown = "";
  etag = null;
  document.title = TITLE;
}

async function look() {
  clearTimeout(timer);
  const id = shown;
  let pause = null;
  try {
    pause = await lookOnce(id);
  } catch (error) {
    if (id !== shown) return;
    const isPassing = !(error instanceof Refusal) || error.isPassing;
    trouble(reasonOf(error) + (isPassing ? " Trying again …" : ""));
    if (!isPassing) show({ found: false });
    pause = isPassing ? 3 : null;
  }
  if (id === shown && pause !== null) timer = setTimeout(look, 1000 * pause);
}

/** Ask once; return the seconds until the next time, or null when this was the last. */
async function lookOnce(id) {
  const response = await call(pathOf(id), { cache: "no-cache" });
  const status = await response.json();
  if (id !== shown) return null;
  show({ trouble: false });
  const tag = response.headers.get("ETag");
  if (tag !== etag) {
    showStatus(status);
    if (etag === null) showGallery(pathOf(id), status);
    else refreshGallery(status);
    etag = tag;
  }
  if (isFinal(status) && status.webhook?.state !== "pending") return null;
  // Nobody watches a page that is hidden; one that is seen should move.
  const asked = Number(response.headers.get("Retry-After")) || SEEN_PAUSE_SECONDS;
  return document.hidden ? asked : Math.min(asked, SEEN_PAUSE_SECONDS);
}

function trouble(text) {
  write("trouble", text);
  show({ trouble: true });
}

// What it says

function showStatus(status) {
  const { progress, links } = status;
  const ended = isFinal(status);
  const cancelled = status.status === "cancelled" ? progress.total - progress.succeeded : 0;
  const again = cancelled || progress.failed;
  const facts = [plural(status.products, "product"), moment(status.created_at)];
  const options = chosen(status.options);
  write("request-made", [...facts, options].filter(Boolean).join(" · "));
  showProgress(status);
  showFigures(status);
  showWebhook(status.webhook);
  listFailures(status.errors_by_code);
  write("retry", `Run the ${plural(again, cancelled ? "unfinished image" : "failed image")} again`);
  write("cancel", status.status === "cancelling" ? "Being cancelled …" : "Cancel");
  find("cancel").disabled = status.status === "cancelling";
  if (links.output_csv) find("output-csv").href = links.output_csv;
  if (links.report_csv) find("report-csv").href = links.report_csv;
  show({
    found: true,
    "output-csv": links.output_csv,
    "report-csv": links.report_csv,
    retry: again && status.status !== "cancelling",
    cancel: !ended,
    delete: ended,
  }, "request-title");
}

function showProgress(status) {
  const { progress } = status;
  const name = capital(words(status.status));
  find("bar").max = Math.max(1, progress.total);
  find("bar").value = progress.done;
  write("request-title", name);
  write("state", describe(status));
  document.title = isFinal(status) ? `${name} – ${TITLE}` : `${percent(progress.percent)} – ${TITLE}`;
  const tenth = Math.floor(progress.percent / 10);
  say(isFinal(status) ? `${name}. ${describe(status)}` : `${name}, ${10 * tenth} percent`);
}

function describe(status) {
  const { total, done, succeeded, failed, images_per_second: rate, eta_seconds: eta } =
    status.progress;
  if (isFinal(status)) {
    const rest = total - succeeded - failed;
    return [
      `${plural(succeeded, "image")} succeeded`,
      failed && `${count(failed)} failed`,
      rest && `${count(rest)} cancelled`,
      status.started_at && `in ${duration(secondsOf(status))}`,
    ]
      .filter(Boolean)
      .join(", ");
  }
  return [
    `${count(done)} of ${plural(total, "image")}`,
    rate && `${rate.toFixed(1)} images a second`,
    eta != null && `about ${duration(eta)} left`,
  ]
    .filter(Boolean)
    .join(" · ");
}

const secondsOf = (status) =>
  (new Date(status.finished_at) - new Date(status.started_at)) / 1000;

function showFigures({ progress, bytes_in: before, bytes_out: after }) {
  const figures = {
    Succeeded: count(progress.succeeded),
    Failed: count(progress.failed),
    Before: bytes(before),
    After: bytes(after),
    Saved: after < before ? `${bytes(before - after)}, ${percent((100 * (before - after)) / before)}` : "–",
  };
  find("figures").replaceChildren(
    ...Object.entries(figures).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}

function showWebhook(webhook) {
  const isOver = webhook && ["delivered", "failed"].includes(webhook.state);
  show({ webhook, resend: isOver, "deliveries-part": webhook?.deliveries.length });
  if (!webhook) return;
  find("deliveries").replaceChildren(...webhook.deliveries.map(deliveryItem));
  const last = webhook.last_error ?? (webhook.last_status && `answered ${webhook.last_status}`);
  const tries = webhook.attempts ? `, ${webhook.attempts === 1 ? "1 try" : `${webhook.attempts} tries`}` : "";
  const next = webhook.next_attempt_at ? `, next one ${moment(webhook.next_attempt_at)}` : "";
  write("webhook-state", `Webhook: ${webhook.state}${tries}${last ? `; ${last}` : ""}${next}.`);
}

function deliveryItem({ at, attempt, replay, status, error, seconds }) {
  const answer = error ?? `answered ${status}`;
  const number = replay ? `try ${attempt} since it was sent again` : `try ${attempt}`;
  return element("li", {}, `${moment(at)}, ${number}: ${answer} (${seconds.toFixed(1)} s)`);
}

// What can be done

/** Do something to the request that is shown, and look at it again. */
async function act(method, path) {
  const id = shown;
  try {
    await call(path, { method });
  } catch (error) {
    if (id === shown) trouble(reasonOf(error));
    return false;
  }
  if (id === shown) look();
  return true;
}

async function cancel() {
  const question = "Cancel this request? Images that are done stay; the rest is not begun.";
  if (await confirmed(question, "Cancel the request")) await act("DELETE", pathOf(shown));
}

async function remove() {
  const question = "Delete this request, its images and its CSV? Their URLs will lead nowhere.";
  if (!(await confirmed(question, "Delete for good"))) return;
  const id = shown;
  try {
    await call(pathOf(id), { method: "DELETE" });
  } catch (error) {
    trouble(reasonOf(error));
    return;
  }
  if (id === shown) location.hash = "";
}
