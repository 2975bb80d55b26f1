// Opens pages of `kindling export --format web` in Chromium and compares their answers with those of `kindling predict`.
//
//     npm install playwright-core && node browser.mjs KINDLING PAGE.html CHECKPOINT IMAGE...
//
// Ends with 1 where a probability differs by more than 0.001 or the page asks a server.

import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';
import { chromium } from 'playwright-core';

const [kindling, html, checkpoint, ...images] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu'],
});
const page = await browser.newPage();
const faults = [];
page.on('request', request => /^(file|blob|data):/.test(request.url()) || faults.push(`asked for ${request.url()}`));
page.on('console', message => message.type() === 'error' && faults.push(message.text()));
await page.goto(`file://${resolve(html)}`);
await page.waitForFunction(() => document.getElementById('said').textContent === 'Ready.', null, { timeout: 60000 });
let largest = 0;
for (const image of images) {
  const words = ['predict', image, '--checkpoint', checkpoint, '--format', 'json', '-k', '5'];
  const [ours] = JSON.parse(execFileSync(kindling, words, { stdio: ['ignore', 'pipe', 'ignore'] }));
  await page.evaluate(() => { document.getElementById('said').textContent = ''; });
  await page.setInputFiles('#file', image);
  await page.waitForFunction(() => /ms$|cannot/.test(document.getElementById('said').textContent));
  const theirs = await page.$$eval('#guesses li', items =>
    items.map(item => [item.querySelector('b').textContent, Number(item.dataset.probability)]));
  const share = new Map(theirs);
  const difference = Math.max(...ours.guesses.map(({ class: name, probability }) =>
    Math.abs((share.get(name) ?? 0) - probability)));
  largest = Math.max(largest, difference);
  if (difference > 1e-3 || theirs[0]?.[0] !== ours.guesses[0].class) {
    faults.push(`${image}: ${JSON.stringify(theirs[0])} where predict says ${JSON.stringify(ours.guesses[0])}`);
  }
}
await browser.close();
console.log(`${images.length} images, largest difference of a probability ${largest.toExponential(1)}`);
faults.forEach(fault => console.error(fault));
process.exit(faults.length ? 1 : 0);
