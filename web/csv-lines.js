// Lines of a CSV file by their numbers, to be shown beside what is wrong with them.

const MOST_CHARACTERS = 200; // shown of a line
const LONGEST_LINE = 1 << 20; // what is longer is not looked at any further

function encodingOf(start) {
  if (start[0] === 0xff && start[1] === 0xfe) return "utf-16le";
  if (start[0] === 0xfe && start[1] === 0xff) return "utf-16be";
  return "utf-8";
}

/** Yield each line of a text that comes in pieces; a line ends with LF, CR LF or CR. */
async function* linesOf(pieces) {
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    yield* lines;
    if (rest.length > LONGEST_LINE) break;
  }
  yield rest.replace(/\r$/, "");
}

async function* textOf(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const reader = file.stream().pipeThrough(new TextDecoderStream(encodingOf(start))).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Return a Map of the texts of these lines, the first being 1; reads no further than the last. */
export async function readLines(file, numbers) {
  const wanted = new Set(numbers);
  const last = Math.max(0, ...wanted);
  const found = new Map();
  let number = 0;
  for await (const line of linesOf(textOf(file))) {
    number += 1;
    if (wanted.has(number)) {
      found.set(number, line.length > MOST_CHARACTERS ? `${line.slice(0, MOST_CHARACTERS)}…` : line);
    }
    if (number >= last) break;
  }
  return found;
}
