// Run as `node browser.mjs [CHROMIUM]`: headless Chromium with one page. Each line of its input is
// ["verb", …arguments] of a verb below; each line of its output is {value} or {error}.

import { createInterface } from 'node:readline';
import puppeteer from 'puppeteer-core';

const LIMIT = { timeout: 120_000 }; // only a hang takes longer
const shipped = async () => (await import('@sparticuz/chromium')).default.executablePath();
const browser = await puppeteer.launch({
  executablePath: process.argv[2] || (await shipped()),
  headless: 'shell',
  args: ['--no-sandbox', '--no-zygote', '--disable-gpu'],
  ...LIMIT,
});
const page = await browser.newPage();
await page.setViewport({ width: 1360, height: 900 });
const errors = [];
page.on('pageerror', (error) => errors.push(String(error)));

const VERBS = {
  async open(url, cookie) {
    const { hostname, origin } = new URL(url);
    await browser.setCookie({ ...cookie, domain: hostname, path: '/' });
    await browser.defaultBrowserContext().overridePermissions(origin, ['clipboard-read', 'clipboard-write', 'clipboard-sanitized-write']);
    await page.goto(url, { waitUntil: 'load', ...LIMIT });
  },
  type: (text) => page.keyboard.type(text),
  async press(...keys) {
    for (const key of keys.slice(0, -1)) await page.keyboard.down(key);
    await page.keyboard.press(keys.at(-1));
    for (const key of keys.slice(0, -1)) await page.keyboard.up(key);
  },
  async upload(selector, path) { await (await page.$(selector)).uploadFile(path); },
  value: (expression) => page.evaluate(expression),
  async until(expression) { return (await page.waitForFunction(expression, LIMIT)).jsonValue(); },
  errors: () => errors,
};

for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...given] = JSON.parse(line);
  const answer = await Promise.resolve(VERBS[verb](...given)).then((value) => ({ value: value ?? null }), (error) => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
}
await browser.close();
