// Opens pages of `kindling export --format web` in Chromium and compares their answers with those of `kindling predict`.
//
//     npm install playwright-core && node browser.mjs KINDLING PAGE CHECKPOINT IMAGE...
//
// PAGE is a file, a folder of `export`, which is then served, or the address of `kindling serve`. Ends with 1 where a
// probability differs by more than 0.001, the page asks anybody else, or the camera's frames get no answer.

import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, resolve } from 'node:path';
import { chromium } from 'playwright-core';

const [kindling, html, checkpoint, ...images] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'],
});
let address = html, server;
if (!/^http:/.test(html)) {
  address = `file://${resolve(html)}`;
  if (statSync(html).isDirectory()) {
    const kinds = { '.html': 'text/html', '.mjs': 'text/javascript', '.wasm': 'application/wasm' };
    server = createServer((request, reply) => {
      const path = join(html, request.url === '/' ? 'index.html' : request.url);
      reply.setHeader('Content-Type', kinds[extname(path)] ?? 'application/octet-stream');
      reply.end(readFileSync(path));
    });
    await new Promise(done => server.listen(0, '127.0.0.1', done));
    address = `http://127.0.0.1:${server.address().port}/`;
  }
}
const page = await browser.newPage();
const faults = [];
const own = url => /^(file|blob|data):/.test(url) || (/^http:/.test(address) && url.startsWith(address));
page.on('request', request => own(request.url()) || faults.push(`asked for ${request.url()}`));
page.on('console', message => message.type() === 'error' && faults.push(message.text()));
page.on('pageerror', error => faults.push(error.message));
await page.goto(address);
await page.waitForFunction(() => document.getElementById('said').textContent === 'Ready.', null, { timeout: 60000 });
let largest = 0;
for (const image of images) {
  const words = ['predict', image, '--checkpoint', checkpoint, '--format', 'json', '-k', '5'];
  const [ours] = JSON.parse(execFileSync(kindling, words, { stdio: ['ignore', 'pipe', 'ignore'] }));
  await page.evaluate(() => { document.getElementById('said').textContent = ''; });
  await page.setInputFiles('#file', image);
  await page.waitForFunction(() => /ms$|cannot|refused/.test(document.getElementById('said').textContent));
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
// A camera that is not there draws a clock.
await page.evaluate(() => document.getElementById('guesses').replaceChildren());
await page.click('#live');
await page.waitForSelector('#guesses li', { timeout: 20000 }).catch(() => faults.push('no answer for the camera'));
if (await page.isHidden('#video') || await page.isVisible('#drop')) faults.push('the camera is not shown');
await page.click('#live');
if (await page.isVisible('#video') || await page.isHidden('#drop')) faults.push('the camera is not stopped');
await browser.close();
server?.close();
console.log(`${images.length} images, largest difference of a probability ${largest.toExponential(1)}`);
faults.forEach(fault => console.error(fault));
process.exit(faults.length ? 1 : 0);
