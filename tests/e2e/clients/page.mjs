// Run as `node page.mjs URL`: opens the page in headless Chromium, and prints what its element `told` says.

import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  headless: 'shell',
  args: ['--no-sandbox', '--no-zygote', '--single-process', '--disable-gpu'],
  acceptInsecureCerts: true,
});
try {
  const page = await browser.newPage();
  await page.goto(process.argv[2]);
  await page.waitForFunction('document.getElementById("told").textContent', { timeout: 20_000 });
  console.log(await page.$eval('#told', (element) => element.textContent));
} finally {
  await browser.close();
}
