// A peer: a script on sharp, as its documentation has it.
//
//     node benchmarks/peer_sharp.mjs JOB.json
//
// So many images at a time are fetched and encoded, each by one thread of libvips.

import { readFile } from 'node:fs/promises';
import process from 'node:process';
import sharp from 'sharp';

const job = JSON.parse(await readFile(process.argv[2], 'utf8'));
sharp.concurrency(job.threads_an_image);
sharp.cache(false);
const format = job.format === 'jpg' ? 'jpeg' : job.format;
// Of a PNG, a quality would mean a palette.
const settings = format === 'png' ? { compressionLevel: 1 } : { quality: job.quality, ...job.settings };

async function compress(number) {
  const answer = await fetch(job.urls[number]);
  if (!answer.ok) throw new Error(`${job.urls[number]}: ${answer.status}`);
  let image = sharp(Buffer.from(await answer.arrayBuffer())).autoOrient();
  if (job.max_side) {
    image = image.resize(job.max_side, job.max_side, { fit: 'inside', withoutEnlargement: true });
  }
  await image
    .toFormat(format, settings)
    .toFile(`${job.output}/${number}.${job.format}`);
}

let next = 0;
async function work() {
  while (next < job.urls.length) await compress(next++);
}

await Promise.all(Array.from({ length: job.concurrency }, work));
console.log('Done');
process.stdin.resume();
