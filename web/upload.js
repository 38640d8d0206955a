// The form: a CSV is checked as soon as it is chosen, and sent when a person says so.

import { Refusal, call, post, reasonOf } from "./api.js";
import { readLines } from "./csv-lines.js";
import { element, find, show, write } from "./elements.js";
import { bytes, chosen, count, plural } from "./words.js";

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

let file = null;
let checks = 0; // how often one was begun: an older one's answer is not shown
let sending = new AbortController(); // of what is on its way to the service
let key = newKey(); // of this file with these options: a lost answer doesn't make two requests of it

function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Make the form work; `started` hears the id of each request that was begun. */
export function prepareUpload(started) {
  const drop = find("drop");
  find("file").addEventListener("change", ({ target }) => choose(target.files[0]));
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault(); // a browser would open the file
      if (find("home").hidden) return;
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop") choose(event.dataTransfer.files[0]);
    });
  }
  find("options").addEventListener("change", optionsChanged);
  // Where a browser points at what is wrong it has to be seen.
  find("options").addEventListener("invalid", () => find("options").setAttribute("open", ""), true);
  find("again").addEventListener("click", check);
  find("sample").hidden = !LOOPBACK.has(location.hostname);
  find("sample").addEventListener("click", chooseSample);
  find("upload").addEventListener("submit", (event) => {
    event.preventDefault();
    if (file && !find("start").hidden && !find("start").disabled) send(started);
  });
}

function choose(newFile) {
  find("file").value = ""; // so that the same file can be chosen again when it was mended
  if (!newFile) return;
  file = newFile;
  key = newKey();
  check();
}

/** Take the project's own example, with its pictures where this page is. */
async function chooseSample() {
  try {
    const text = await (await call("test.csv")).text();
    const here = text.replaceAll("http://localhost:8000/", new URL(".", location.href).href);
    choose(new File([here], "test.csv", { type: "text/csv" }));
  } catch (error) {
    showRefusal(error);
  }
}

function form(extra = {}) {
  const fields = new FormData(find("upload"));
  for (const [name, value] of Object.entries(extra)) fields.set(name, value);
  fields.set("file", file, file.name);
  return fields;
}

function optionsChanged(event) {
  key = newKey();
  write("options-chosen", chosen(Object.fromEntries(new FormData(find("upload")))) || "all as usual");
  const wasRefused = find("start").hidden;
  if (file && (wasRefused || event.target.id === "strict")) check();
}

/** Let the service read the file without doing anything, and show what it finds. */
async function check() {
  const turn = ++checks;
  sending.abort();
  sending = new AbortController();
  const name = `${file.name}, ${bytes(file.size)}`;
  begin(`Checking ${name} …`);
  try {
    const { signal } = sending;
    const found = await post("upload", form({ dry_run: "true" }), { sent: showSent, signal });
    if (turn !== checks) return;
    begin(name);
    write("start", `Compress ${plural(found.images, "image")}`);
    show({ start: true });
    const held = `${plural(found.products, "product")} with ${plural(found.images, "image")}.`;
    const total = found.warnings_total ?? 0;
    const failing = `${count(total)} of the URLs can’t be fetched as ${total === 1 ? "it stands" : "they stand"}:`;
    write("check-result", total ? `${held} ${failing}` : `${held} Every line is in order.`);
    await showProblems(found.warnings ?? [], total, turn);
  } catch (error) {
    if (turn === checks) await showRefusal(error, turn);
  }
  if (turn === checks) find("check-title").focus();
}

function begin(title) {
  show({ check: true, start: false, again: false, sent: false });
  find("check").classList.remove("bad");
  find("problems").replaceChildren();
  write("check-title", title);
  write("check-result", "");
}

function showSent(part) {
  find("sent").value = part;
  show({ sent: part < 1 });
}

async function send(started) {
  const turn = ++checks;
  find("start").disabled = true;
  write("check-result", "Sending the file …");
  try {
    const headers = { "Idempotency-Key": key };
    const { request_id: id } = await post("upload", form(), { headers, sent: showSent });
    file = null;
    key = newKey();
    show({ check: false });
    started(id);
  } catch (error) {
    if (turn === checks) await showRefusal(error, turn, "start");
    if (turn === checks) find("check-title").focus();
  } finally {
    find("start").disabled = false;
    show({ sent: false });
  }
}

/** Show what is wrong; `button` is what may be pressed again when it was nobody's fault. */
async function showRefusal(error, turn = checks, button = "again") {
  const { errors = [], errors_total: total = 0 } = error.problem ?? {};
  const isPassing = !(error instanceof Refusal) || error.isPassing;
  const isChanged = file && !(error instanceof Refusal) && !(await isReadable(file));
  if (turn !== checks) return;
  begin(file ? `${file.name} ${isPassing ? "could not be sent" : "can’t be taken"}` : "That did not work");
  find("check").classList.add("bad");
  const problems = total === 1 ? "One thing is wrong" : `${count(total)} things are wrong`;
  const mend = `${problems}, and nothing was begun. Mend the file, and choose it again:`;
  const choose = "The file was changed or moved after it was chosen: choose it again.";
  write("check-result", total ? mend : isChanged ? choose : reasonOf(error));
  show({ [isPassing ? button : "again"]: file && !total && !isChanged });
  await showProblems(errors, total, turn);
}

/** Tell whether a file can be read still: browsers refuse one that has changed. */
const isReadable = (chosen) =>
  chosen.slice(0, 1).arrayBuffer().then(() => true, () => false);

/** List problems with the file's own lines below them. */
async function showProblems(problems, total, turn) {
  const lines = await readLines(file, problems.map(({ line }) => line)).catch(() => new Map());
  if (turn !== checks) return;
  const items = problems.map(({ line, column, detail }, index) => {
    const place = [line && `Line ${count(line)}`, column].filter(Boolean).join(", ");
    const text = problems[index + 1]?.line === line ? undefined : lines.get(line); // once a line
    return element(
      "li",
      {},
      element("b", {}, place ? `${place}: ` : ""),
      detail,
      text === undefined ? "" : element("code", { class: "line" }, text),
    );
  });
  if (total > items.length) items.push(element("li", {}, `and ${count(total - items.length)} more`));
  find("problems").replaceChildren(...items);
}
