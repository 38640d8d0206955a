// The images of a request, a page at a time: no more is asked for than is shown, however many there
// are. While they are worked on, those that are shown are looked at again.

import { getJson, reasonOf } from "./api.js";
import { prepareCompare, openCompare } from "./compare.js";
import { element, find, show, write } from "./elements.js";
import { bytes, capital, count, fileName, plural, reason, saved } from "./words.js";

const PAGE_IMAGES = 48; // full rows of two, three, four and six

let path = ""; // of the request's images
let total = 0;
let places = []; // the pages up to the shown one: its query, and how many images stand before it
let page = { images: [], next_cursor: null };
let shownPlace = null; // the place that `page` is from
let isOver = false; // whether the request was finished when last seen
let turns = 0; // how often a page was asked for: an older one's answer is not shown

/** Make the controls work. */
export function prepareGallery() {
  prepareCompare();
  find("filter").addEventListener("change", start);
  for (const [id, turn] of Object.entries({ first: start, next, previous })) {
    find(id).addEventListener("click", async () => {
      if (await turn()) find("images-title").scrollIntoView();
    });
  }
  find("places").addEventListener("submit", (event) => {
    event.preventDefault();
    goTo(Number(find("from").value));
  });
}

/** Show the images of another request from its beginning on. */
export function showGallery(requestPath, status) {
  path = `${requestPath}/images`;
  page = { images: [], next_cursor: null };
  isOver = status.finished_at !== null;
  find("gallery").replaceChildren();
  find("filter").value = "";
  showFilters(status);
  start();
}

/** Take in a newer status: what is shown may have changed, too. */
export function refreshGallery(status) {
  showFilters(status);
  const isFiltered = find("filter").value !== "";
  const isMoving = page.images.some(({ state }) => state === "pending" || state === "running");
  const wasOver = isOver;
  isOver = status.finished_at !== null;
  if (isFiltered || isMoving || isOver || wasOver) load();
}

/** List the codes of failed images, each with what it means and a way to its images. */
export function listFailures(numbers) {
  const codes = Object.entries(numbers).sort(([, a], [, b]) => b - a);
  show({ "failures-part": codes.length });
  const text = JSON.stringify(codes);
  const list = find("failures");
  if (list.dataset.shown === text) return; // so that the focus stays where it is
  list.dataset.shown = text;
  list.replaceChildren(
    ...codes.map(([code, number]) => {
      const { title, advice } = reason(code);
      const button = element("button", { type: "button", class: "link" }, `Show ${plural(number, "image")}`);
      button.addEventListener("click", () => {
        find("filter").value = `code=${code}`;
        start();
        find("images-title").focus();
      });
      return element("li", {}, element("b", {}, title), `: ${advice} `, button);
    }),
  );
}

// Which images

function showFilters({ progress, errors_by_code: codes }) {
  total = progress.total;
  const select = find("filter");
  const { value } = select;
  const cancelled = progress.done - progress.succeeded - progress.failed;
  const options = [
    ["", `all ${count(total)}`],
    ["state=succeeded", `succeeded: ${count(progress.succeeded)}`],
    ["state=failed", `failed: ${count(progress.failed)}`],
    ...Object.entries(codes).map(([code, number]) => [
      `code=${code}`,
      `– ${reason(code).title}: ${count(number)}`,
    ]),
    ["state=running", "being worked on"],
    ["state=pending", "waiting"],
    ["state=cancelled", `cancelled: ${count(cancelled)}`],
  ];
  if (value.startsWith("code=") && !options.some(([name]) => name === value)) {
    options.push([value, `– ${reason(value.slice(5)).title}: 0`]); // after a retry
  }
  const text = JSON.stringify(options);
  if (select.dataset.shown === text) return; // an open list stays open
  select.dataset.shown = text;
  select.replaceChildren(...options.map(([name, label]) => element("option", { value: name }, label)));
  select.value = value;
  find("from").max = total;
}

function start() {
  places = [{ query: {}, before: 0 }];
  return load();
}

function next() {
  if (shownPlace !== places.at(-1)) return load(); // pressed again before the page was there
  const { before } = places.at(-1);
  places.push({ query: { cursor: page.next_cursor }, before: before + page.images.length });
  return load();
}

function previous() {
  const { before } = places.pop();
  if (places.length) return load();
  return goTo(Math.max(1, before + 1 - PAGE_IMAGES)); // from where somebody went to
}

function goTo(number) {
  find("filter").value = "";
  places = [{ query: { from: number }, before: number - 1 }];
  return load();
}

/** Ask for the page that is to be shown, and show it; return whether it is there. */
async function load() {
  const turn = ++turns;
  const query = new URLSearchParams(find("filter").value);
  for (const [name, value] of Object.entries({ limit: PAGE_IMAGES, ...places.at(-1).query })) {
    query.set(name, value);
  }
  try {
    const asked = await getJson(`${path}?${query}`);
    if (turn !== turns) return false;
    page = asked;
    shownPlace = places.at(-1);
    showPage();
    return true;
  } catch (error) {
    if (turn === turns) write("range", reasonOf(error));
    return false;
  }
}

function showPage() {
  const { before } = places.at(-1);
  const { length } = page.images;
  const isFiltered = find("filter").value !== "";
  const whole = isFiltered ? "" : ` of ${count(total)}`;
  const range = `Images ${count(before + 1)} to ${count(before + length)}${whole}`;
  write("range", length ? range : "There are none.");
  const buttons = { first: before, previous: before, next: page.next_cursor };
  show({ "go-to": total > PAGE_IMAGES, ...buttons }, "images-title");
  const cards = [...find("gallery").children];
  const made = page.images.map((image, place) => {
    const text = JSON.stringify(image);
    return cards[place]?.dataset.shown === text ? cards[place] : card(image, text);
  });
  // Only what has changed is put in anew: a picture that is there doesn't flicker.
  made.forEach((item, place) => {
    if (!cards[place]) find("gallery").append(item);
    else if (cards[place] !== item) cards[place].replaceWith(item);
  });
  cards.slice(made.length).forEach((item) => item.remove());
}

// One image

function card(image, text) {
  const item = element("li", { class: image.state });
  item.dataset.shown = text;
  item.append(picture(image), element("h3", {}, image.product_name), ...facts(image));
  return item;
}

function picture(image) {
  if (!image.output_url) {
    const state = image.error ? reason(image.error.code).title : capital(stateWord(image.state));
    return element("p", { class: "none" }, state);
  }
  const shown = element("img", { src: image.output_url, alt: "", loading: "lazy", decoding: "async" });
  shown.style.setProperty("--ratio", image.width / image.height);
  const label = `Compare ${nameOf(image)}`;
  const button = element("button", { type: "button", class: "picture", "aria-label": label }, shown);
  button.addEventListener("click", () => compare(image.output_url));
  return button;
}

const nameOf = (image) => `${image.product_name}, ${fileName(image.input_url)}`;
const stateWord = (state) => ({ pending: "waiting", running: "being worked on" })[state] ?? state;

function facts(image) {
  const row = element("p", { class: "where" }, `Row ${count(image.row)}: ${fileName(image.input_url)}`);
  if (image.error) return [row, element("p", { class: "why" }, image.error.detail)];
  if (!image.output_url) return [row];
  const { bytes_in: before, bytes_out: after } = image;
  const sizes = `${bytes(before)} → ${bytes(after)}`;
  return [row, element("p", {}, sizes, " ", element("b", {}, saved(before, after)))];
}

// Comparing

const comparable = () => page.images.filter(({ output_url: url }) => url);

/** Compare an image, and let the next and previous ones be compared, over the ends of the page. */
function compare(url) {
  const images = comparable();
  const place = images.findIndex(({ output_url: other }) => other === url);
  if (place < 0) return;
  const step = (turn, then) => async () => {
    if (await turn()) {
      const [first, last] = [comparable()[0], comparable().at(-1)];
      if (first) compare((then === "first" ? first : last).output_url);
    }
  };
  openCompare(images[place], {
    next: images[place + 1] ? () => compare(images[place + 1].output_url) : page.next_cursor && step(next, "first"),
    previous: images[place - 1] && (() => compare(images[place - 1].output_url)),
  });
}
