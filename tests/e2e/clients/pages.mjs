// Run as `node pages.mjs`, with {url, session, pages, chromium} on its input: opens each page below /admin/ in
// headless Chromium, 1,360 pixels wide and light, then 390 and dark. Prints, by page, the bytes that came over
// the wire when it was opened first, and what axe-core objects to of WCAG A and AA.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import puppeteer from 'puppeteer-core';

const { url, session, pages, chromium } = JSON.parse(readFileSync(0, 'utf8'));
const axe = createRequire(import.meta.url).resolve('axe-core');
const shipped = async () => (await import('@sparticuz/chromium')).default.executablePath();
const browser = await puppeteer.launch({
  executablePath: chromium ?? (await shipped()),
  headless: 'shell',
  args: ['--no-sandbox', '--no-zygote', '--disable-gpu'],
});
const LOOKS = [[1360, 'light'], [390, 'dark']];

async function open(page, path) {
  let bytes = 0;
  const wire = await page.createCDPSession();
  await wire.send('Network.enable');
  await wire.send('Network.clearBrowserCache');
  wire.on('Network.loadingFinished', (event) => { bytes += event.encodedDataLength; });
  await page.goto(`${url}/admin/${path}`, { waitUntil: 'load', timeout: 60_000 });
  await new Promise((done) => setTimeout(done, 300)); // scripts fill the page
  await wire.detach();
  return bytes;
}

async function objections(page) {
  await page.addScriptTag({ path: axe });
  const found = await page.evaluate(async () => (await window.axe.run({ runOnly: ['wcag2a', 'wcag2aa'] })).violations);
  return found.map((each) => `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.target.join(' ')).join(' | ')}`);
}

try {
  const page = await browser.newPage();
  await browser.setCookie({ name: 'cortex_session', value: session, domain: new URL(url).hostname, path: '/' });
  const told = {};
  for (const path of pages) {
    told[path] = { bytes: 0, violations: [] };
    for (const [width, value] of LOOKS) {
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value }]);
      told[path].bytes = Math.max(told[path].bytes, await open(page, path));
      const words = await objections(page);
      if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) words.push('wider than the window');
      const isCut = () => [...document.querySelectorAll('.results')].some((each) => each.scrollWidth > each.clientWidth + 1);
      if (width > 1000 && (await page.evaluate(isCut))) words.push('a list is cut');
      told[path].violations.push(...words.map((each) => `${width} ${value}, ${each}`));
    }
  }
  console.log(JSON.stringify(told));
} finally {
  await browser.close();
}
