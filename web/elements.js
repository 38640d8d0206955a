// Elements of the page. Text goes in as text, never as HTML: names and URLs are other people's.

export const find = (id) => document.getElementById(id);

/** Make an element with attributes and children; children may be texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * Show some elements and hide others, by id: `{ bar: true, retry: false }`. Who was at one that is
 * gone goes on at `heir`.
 */
export function show(shown, heir) {
  const at = document.activeElement;
  for (const [id, isShown] of Object.entries(shown)) find(id).hidden = !isShown;
  if (heir && at?.closest("[hidden], :disabled")) find(heir).focus();
}

/** Set a text where it has changed, so that what is selected or read aloud stays. */
export function write(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text;
}

/** Let a screen reader say something that others see. */
export const say = (text) => write("said", text);

let drop = () => {}; // the question before, should its end not be told yet

/** Ask a question whose one answer is `yes`; resolve to whether it was given. */
export function confirmed(question, yes) {
  const dialog = find("confirm");
  write("confirm-text", question);
  write("confirm-yes", yes);
  drop();
  dialog.returnValue = "no"; // Escape leaves it so
  dialog.showModal();
  return new Promise((resolve) => {
    drop = () => resolve(false);
    dialog.onclose = () => {
      if (!dialog.open) resolve(dialog.returnValue === "yes");
    };
  });
}
