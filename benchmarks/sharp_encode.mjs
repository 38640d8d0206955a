// Encodes images with sharp, one after the other, for `quality.py` and `scaling_down.py`.
//
// A job comes on standard input as a line of JSON and `length` bytes of an image; the answer goes to
// standard output likewise: what the encoder gave, and `cpu`, the processor seconds of this process
// (all of its threads) from the arrival of the bytes to the end of the encoder. One job at a time.

import process from 'node:process';
import sharp from 'sharp';

sharp.concurrency(1);
sharp.cache(false);

async function encode(image, { format, box, ...settings }) {
  const upright = sharp(image).autoOrient();
  const fitted = { width: box, height: box, fit: 'inside', withoutEnlargement: true };
  return (box ? upright.resize(fitted) : upright).toFormat(format, settings).toBuffer();
}

async function answer(job, image) {
  const before = process.cpuUsage();
  const encoded = await encode(image, job.settings);
  const { user, system } = process.cpuUsage(before);
  const head = { length: encoded.length, cpu: (user + system) / 1e6, said: String(job.settings.quality) };
  process.stdout.write(`${JSON.stringify(head)}\n`);
  process.stdout.write(encoded);
}

let pending = Buffer.alloc(0);
let job = null;
for await (const piece of process.stdin) {
  pending = Buffer.concat([pending, piece]);
  while (true) {
    if (job === null) {
      const end = pending.indexOf('\n');
      if (end < 0) break;
      job = JSON.parse(pending.subarray(0, end).toString());
      pending = pending.subarray(end + 1);
    }
    if (pending.length < job.length) break;
    await answer(job, pending.subarray(0, job.length));
    pending = pending.subarray(job.length);
    job = null;
  }
}
