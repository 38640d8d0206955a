// What the page says: numbers with their units, states, and reasons in plain words. Pure.

const number = new Intl.NumberFormat("en");
const THIN = "\u202f"; // between a number and its unit, where no line breaks
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export const FINAL_STATUSES = new Set(["completed", "completed_with_errors", "failed", "cancelled"]);

export const count = (value) => number.format(value);
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
export const words = (name) => name.replaceAll("_", " ");
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Return a size in decimal units, as shops and file managers have them. */
export function bytes(value) {
  if (value == null) return "–";
  let power = 0;
  while (power < UNITS.length - 1 && value >= 999.5 * 1000 ** power) power += 1;
  const scaled = value / 1000 ** power;
  return `${power && scaled < 99.95 ? scaled.toFixed(1) : Math.round(scaled)}${THIN}${UNITS[power]}`;
}

export const percent = (value) => `${value.toFixed(1)}${THIN}%`;

/** Return what was saved of a size, in percent. */
export function saved(before, after) {
  if (!before || after == null) return "–";
  const part = 100 * (1 - after / before);
  return part < 0 ? `${percent(-part)} larger` : `${percent(part)} saved`;
}

/** Return a time that is still to pass, roughly. */
export function duration(seconds) {
  if (seconds < 90) return plural(Math.max(1, Math.ceil(seconds)), "second");
  if (seconds < 90 * 60) return plural(Math.round(seconds / 60), "minute");
  if (seconds < 36 * 3600) return plural(Math.round(seconds / 3600), "hour");
  return plural(Math.round(seconds / 86400), "day");
}

/** Return a time as the reader's own browser writes it. */
export const moment = (text) =>
  new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Return a URL's last part, which mostly is the file's name. */
export function fileName(url) {
  const path = url.split(/[?#]/)[0];
  return path.split("/").filter(Boolean).pop() || url;
}

/** Return a format's name as people write it. */
export const formatName = (format) => (format === "webp" ? "WebP" : format.toUpperCase());

const OPTION_WORDS = {
  format: (value) => value !== "keep" && formatName(value),
  quality: (value) => value !== "auto" && `quality ${value}`,
  effort: (value) => value !== "balanced" && `${value} effort`,
  max_width: (value) => value && `at most ${value} pixels wide`,
  max_height: (value) => value && `at most ${value} pixels high`,
  max_bytes: (value) => value && `at most ${bytes(Number(value))} each`,
  background: (value) => value !== "#ffffff" && `background ${value}`,
  priority: (value) => value !== "normal" && `${value} priority`,
  strict: (value) => value && value !== "false" && "strict",
  webhook_url: (value) => value && "webhook",
};

/** Return in words which options are not as they are when left alone; empty if all are. */
export function chosen(options) {
  return Object.entries(OPTION_WORDS)
    .map(([name, say]) => options[name] != null && options[name] !== "" && say(options[name]))
    .filter(Boolean)
    .join(", ");
}

// Each code of a failed image: what happened, and what can be done.
const REASONS = {
  invalid_url: ["No URL that can be fetched", "Mend the cell in the CSV, and upload it again."],
  blocked_address: [
    "An address that is not fetched from",
    "Only public addresses are; whoever runs the service can allow others (ALLOWED_SOURCES).",
  ],
  dns_error: ["The host has no address", "Look for a misspelt host name, or retry later."],
  connect_error: ["No connection to the host", "Its server may be down: retry later."],
  tls_error: ["No secure connection", "The host’s certificate is not valid. Its owner can mend it."],
  timeout: ["The host was too slow", "Retry when it is less busy."],
  rate_limited: ["The host asked for a pause", "It has had too many requests: retry later."],
  too_many_redirects: ["Redirected too often", "Put the image’s final URL into the CSV."],
  too_large: ["The file is too large", "Put a smaller image at the URL."],
  truncated: ["The image ends too early", "Retry; if it stays so, the file itself is cut short."],
  not_an_image: ["Not an image", "The URL gives a web page or a text, perhaps an error page."],
  unsupported_format: [
    "A kind of file that isn’t taken",
    "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are.",
  ],
  decode_error: ["The file is broken", "Put a sound copy of the image at the URL."],
  too_many_pixels: ["Too many pixels", "Put a smaller image at the URL."],
  too_many_frames: ["Too many frames", "Put a shorter animation at the URL."],
  compress_timeout: ["It took too long to compress", "Retry with less effort, or a smaller image."],
  compress_crash: ["Compressing it failed", "Something in the file is unusual: save it anew."],
  max_bytes_unreachable: [
    "It can’t be made that small",
    "Allow a larger file, or ask for WebP or AVIF.",
  ],
  storage_error: ["It could not be stored", "The service’s disk or store failed: retry later."],
  cancelled: ["Cancelled", "The request was cancelled first."],
  internal_error: ["The service failed", "Whoever runs it finds more in its log."],
};

/** Return what a code means, in `title`, and what to do about it, in `advice`. */
export function reason(code) {
  const status = /^http_(\d{3})$/.exec(code)?.[1];
  if (status) {
    const [title, advice] = httpReason(Number(status));
    return { title: `${title} (HTTP ${status})`, advice };
  }
  const [title, advice] = REASONS[code] ?? [capital(words(code)), ""];
  return { title, advice };
}

function httpReason(status) {
  if (status === 404 || status === 410) return ["Not found", "There is no image at the URL."];
  if (status === 401 || status === 403) return ["Not allowed", "The host gives it to nobody here."];
  if (status >= 500) return ["The host failed", "Retry later."];
  return ["The host gave no image", "Look at the URL in a browser."];
}
