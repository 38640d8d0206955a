// An image before and after, one over the other, with a slider between them. The original comes
// from its own origin, and only now: the service keeps none.

import { element, find, show, write } from "./elements.js";
import { bytes, fileName, formatName, saved } from "./words.js";

let steps = {};

/** Make the dialog's controls work. */
export function prepareCompare() {
  const dialog = find("compare");
  find("compare-close").addEventListener("click", () => dialog.close());
  find("compare-next").addEventListener("click", () => steps.next());
  find("compare-previous").addEventListener("click", () => steps.previous());
  find("split").addEventListener("input", split);
  find("actual").addEventListener("click", toggleSize);
  find("before").addEventListener("load", () => {
    find("stage").classList.remove("alone");
    if (document.activeElement === find("compare-title")) find("split").focus();
  });
  find("before").addEventListener("error", () => {
    if (!find("before").hasAttribute("src")) return;
    tell("The original can’t be shown: its origin doesn’t give it to this browser, or it is of a kind that browsers don’t show.");
  });
  dialog.addEventListener("close", () => {
    for (const id of ["before", "after"]) find(id).removeAttribute("src"); // loads no further
    if (document.activeElement.matches("body, dialog *")) find("images-title").focus(); // page turned
  });
}

/** Show an image; `next` and `previous` are called for another one, where there is one. */
export function openCompare(image, { next, previous }) {
  steps = { next, previous };
  const { output_url: url, input_url: source, width, height } = image;
  const { bytes_in: before, bytes_out: after } = image;
  write("compare-title", image.product_name);
  const quality = typeof image.quality === "number" ? `quality ${image.quality}` : image.quality;
  const made = [formatName(image.format), quality, `${width} × ${height}`].join(", ");
  find("compare-facts").replaceChildren(
    element("bdi", {}, fileName(source)),
    `: ${bytes(before)} → ${bytes(after)}, ${saved(before, after)}. ${made}.`,
  );
  const link = (href, text) => element("a", { href, target: "_blank", rel: "noreferrer" }, text);
  find("compare-links").replaceChildren(link(source, "Original"), " ", link(url, "Compressed image"));
  show({ "compare-trouble": false });
  find("stage").classList.add("alone"); // until the original is there
  find("stage").style.setProperty("--ratio", `${width} / ${height}`);
  find("stage").style.setProperty("--width", `${width}px`);
  find("after").src = url;
  find("after").alt = `Compressed: ${image.product_name}`;
  find("before").src = source;
  find("before").alt = `Original: ${image.product_name}`;
  find("split").value = 50;
  split();
  find("compare-next").disabled = !next;
  find("compare-previous").disabled = !previous;
  if (find("compare").open) return; // the focus stays on what was pressed
  find("compare").showModal();
  find("compare-title").focus(); // and goes on to the slider, once there is something to compare
}

function split() {
  find("stage").style.setProperty("--split", `${find("split").value}%`);
  find("split").setAttribute("aria-valuetext", `${find("split").value} percent of the original`);
}

function toggleSize() {
  const isActual = find("scroller").classList.toggle("actual");
  find("actual").setAttribute("aria-pressed", isActual);
}

function tell(text) {
  write("compare-trouble", text);
  show({ "compare-trouble": true });
}
