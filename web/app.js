// The page over the service's own HTTP: upload, watch, list. The address's #fragment is the
// request that is shown, so that a reload, a bookmark or the back button finds it again.

const FINAL_STATUSES = new Set(["completed", "completed_with_errors", "failed", "cancelled"]);
const PAGE_IMAGES = 50;
const RECENT_REQUESTS = 10;
const MAX_PAUSE_SECONDS = 30;

const find = (id) => document.getElementById(id);
const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// HTTP

/** An answer that is not a success; `problem` is its RFC 9457 document, or empty. */
class Refusal extends Error {
  constructor(response, problem) {
    super(problem.detail || problem.title || `${response.status} ${response.statusText}`);
    this.status = response.status;
    this.problem = problem;
  }
}

const reasonOf = (error) =>
  error instanceof Refusal ? error.message : "The service can’t be reached.";

/** Fetch a path relative to this page, with the key when there is one. Throws Refusal. */
async function call(path, init = {}) {
  const key = find("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...init, headers });
  if (response.ok) return response;
  if (response.status === 401) find("key-row").hidden = false;
  throw new Refusal(response, await response.json().catch(() => ({})));
}

const getJson = async (path) => (await call(path)).json();

// Words

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const words = (status) => status.replaceAll("_", " ");

function bytes(count) {
  if (count == null) return "–";
  if (count < 1000) return `${count} B`;
  const power = Math.min(4, Math.floor(Math.log10(count) / 3));
  return `${(count / 1000 ** power).toFixed(1)} ${["kB", "MB", "GB", "TB"][power - 1]}`;
}

function percentSaved(before, after) {
  return before && after != null ? `${(100 * (1 - after / before)).toFixed(1)} %` : "–";
}

function duration(seconds) {
  const minutes = Math.ceil(seconds / 60);
  return seconds < 90 ? plural(Math.ceil(seconds), "second") : plural(minutes, "minute");
}

// Elements. Text goes in as text, never as HTML: names and URLs are other people's.

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function list(id, items) {
  find(id).replaceChildren(...items.map((item) => element("li", item)));
}

// Upload

function showRefusal(error) {
  const { errors = [], errors_total: total = errors.length } = error.problem ?? {};
  const items = errors.map(({ line, column, detail }) => {
    const place = [line && `line ${line}`, column && `column ${column}`].filter(Boolean).join(", ");
    return element("li", place ? `${place}: ${detail}` : detail);
  });
  if (total > errors.length) items.push(element("li", `and ${total - errors.length} more`));
  const lines = element("ul");
  lines.append(...items);
  find("refusal").replaceChildren(element("p", reasonOf(error)), lines);
}

async function upload(event) {
  event.preventDefault();
  find("refusal").replaceChildren();
  find("send").disabled = true;
  try {
    const body = new FormData(find("upload"));
    const response = await call("upload", { method: "POST", body });
    location.hash = (await response.json()).request_id;
    showRecent();
  } catch (error) {
    showRefusal(error);
    if (error.status === 401) find("key").focus();
  } finally {
    find("send").disabled = false;
  }
}

// One request

const pathOf = (id) => `status/${encodeURIComponent(id)}`;
const isLasting = (error) => error instanceof Refusal && error.status < 500 && error.status !== 429;
let turns = 0; // how often the page turned to a request

function describe(status) {
  const { total, done, succeeded, failed, eta_seconds: eta } = status.progress;
  const { bytes_in: before, bytes_out: after } = status;
  const state = words(status.status);
  if (!FINAL_STATUSES.has(status.status)) {
    const left = eta == null ? "" : `, about ${duration(eta)} left`;
    return `${state}: ${done} of ${plural(total, "image")}, ${failed} failed${left}`;
  }
  const counts = `${state}: ${plural(succeeded, "image")} succeeded, ${failed} failed.`;
  if (!before) return counts;
  return `${counts} ${bytes(before)} became ${bytes(after)}, ${percentSaved(before, after)} saved.`;
}

function showStatus(status) {
  const { total, done } = status.progress;
  find("bar").max = Math.max(1, total);
  find("bar").value = done;
  find("state").textContent = describe(status);
  list("failures", Object.entries(status.errors_by_code).map(([code, n]) => `${n} × ${code}`));
  const { output_csv: output, report_csv: report } = status.links;
  find("links").hidden = !output;
  if (output) find("output-csv").href = output;
  if (report) find("report-csv").href = report;
}

/** Show the request of the address until its end, or until the page turns to another. */
async function follow() {
  const turn = ++turns;
  const isShown = () => turn === turns;
  const id = decodeURIComponent(location.hash.slice(1));
  find("request").hidden = !id;
  if (!id) return;
  clearRequest();
  find("request-id").textContent = id;
  find("request-title").focus();
  let pause = 0;
  while (pause !== null && isShown()) {
    await wait(pause);
    pause = await look(id, isShown);
  }
}

/** Look at a request once; return the seconds until the next look, null when it was the last. */
async function look(id, isShown) {
  try {
    const response = await call(pathOf(id));
    const status = await response.json();
    if (!isShown()) return null;
    showStatus(status);
    if (!FINAL_STATUSES.has(status.status)) {
      return Math.min(Number(response.headers.get("Retry-After")) || 1, MAX_PAUSE_SECONDS);
    }
    await Promise.all([showImages(id, isShown), showRecent()]);
    return null;
  } catch (error) {
    if (!isShown()) return null;
    find("state").textContent = reasonOf(error) + (isLasting(error) ? "" : " Trying again …");
    return isLasting(error) ? null : 2;
  }
}

function clearRequest() {
  find("bar").removeAttribute("value");
  find("state").textContent = "";
  find("images").replaceChildren();
  list("failures", []);
  for (const id of ["links", "image-list", "more"]) find(id).hidden = true;
}

// Its images

function imageRow(image) {
  const name = image.input_url.split("/").pop() || image.input_url;
  const cell = element("td", "", { title: `${image.product_name}: ${image.input_url}` });
  cell.append(image.output_url ? element("a", name, { href: image.output_url }) : name);
  const made = image.format ? `${image.format}, ${image.width} × ${image.height}` : image.state;
  const result = image.error
    ? element("td", image.error.detail || image.error.code, { class: "bad" })
    : element("td", made);
  const { bytes_in: before, bytes_out: after } = image;
  const saved = percentSaved(before, after);
  const row = element("tr");
  row.append(element("td", image.row, { class: "row" }), cell, result);
  for (const [label, text] of Object.entries({
    Before: bytes(before),
    After: bytes(after),
    Saved: saved,
  })) {
    row.append(element("td", text, { class: "number", "data-label": label }));
  }
  return row;
}

/** Add a page of images to the table; the button brings the next one. */
async function showImages(id, isShown, cursor = null) {
  const query = new URLSearchParams({ limit: PAGE_IMAGES, ...(cursor && { cursor }) });
  const page = await getJson(`${pathOf(id)}/images?${query}`);
  if (!isShown()) return;
  find("images").append(...page.images.map(imageRow));
  find("image-list").hidden = false;
  const more = find("more");
  more.hidden = !page.next_cursor;
  more.onclick = () => {
    more.hidden = true;
    showImages(id, isShown, page.next_cursor).catch(() => (more.hidden = false));
  };
}

// Recent requests

function recentItem(request) {
  const item = element("li");
  const made = new Date(request.created_at);
  item.append(
    element("a", words(request.status), { href: `#${encodeURIComponent(request.request_id)}` }),
    request.progress ? `, ${plural(request.progress.total, "image")}, ` : ", ",
    element("time", made.toLocaleString(), { datetime: request.created_at }),
  );
  return item;
}

/** Show the newest requests; without a key, or when the service is away, the list stays. */
async function showRecent() {
  const page = await getJson(`requests?limit=${RECENT_REQUESTS}`).catch(() => ({ requests: [] }));
  if (page.requests.length) find("recent").replaceChildren(...page.requests.map(recentItem));
}

find("upload").addEventListener("submit", upload);
find("key").addEventListener("change", () => {
  showRecent();
  follow();
});
window.addEventListener("hashchange", follow);
showRecent();
follow();
