// Uses the page as an operator does. drive.cjs URL FOLDER PICTURES
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [url, folder, pictures] = process.argv.slice(2);
fs.mkdirSync(pictures, { recursive: true });

(async () => {
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, acceptDownloads: true });
  const page = await context.newPage();
  // A page that compiles a plugin first waits for the processor, which other tests use too.
  page.setDefaultTimeout(120000);
  const wrong = [];
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("pageerror", (error) => wrong.push(String(error)));

  // Accessible in both colour schemes, and no wider than a narrow window.
  const judge = async (name) => {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      const found = await page.evaluate(`(() => { const module = undefined, define = undefined; ${axe}; return window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }); })()`).catch(async () => {
        throw new Error("axe-core did not run");
      });
      const said = found.violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html).join(" ")}`);
      assert.deepEqual(said, [], `${name} (${colorScheme})`);
      await page.screenshot({ path: path.join(pictures, `${name}-${colorScheme}.png`) });
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 360, height: 740 });
    const surplus = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(surplus <= 0, `${name} is ${surplus} px wider than a narrow window`);
    await page.setViewportSize({ width: 1280, height: 800 });
  };

  // First start: nothing has run.
  await page.goto(url);
  assert.match(await page.title(), /Connections/);
  await judge("connections");

  // By keyboard: the first link skips the navigation.
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");

  // Scan and preview, cell by cell.
  await page.click("text=customers");
  await page.click("text=Scan now");
  assert.match(await page.textContent("#scan ~ .scroll"), /customers\.csv/);
  const preview = await page.textContent("section[aria-labelledby=preview] table");
  assert.match(preview, /<Ann@EXAMPLE\.com>/);
  assert.match(preview, /after email-normalizer/);
  assert.equal(await page.textContent("mark >> nth=1"), "Ann@example.com");
  await judge("preview");

  // A dry run shows what a run would change.
  await page.click("text=Dry run");
  assert.match(await page.textContent("main"), /119995 created/);
  await judge("dry-run");

  // Run now, with live progress.
  await page.goto(`${url}/connections/shop`);
  await page.click("button.main:has-text('Run now')");
  await page.waitForSelector("#live:not([hidden])");
  await page.waitForFunction(() => Number(document.querySelector("#live-runs .live-progress")?.value) > 0);
  assert.match(await page.textContent("#live-runs .live-what"), /shop/);
  await page.screenshot({ path: path.join(pictures, "progress-light.png") });
  // The page shows the end of the run without a click.
  await page.waitForSelector("h2:has-text('newsletter') .badge.succeeded", { timeout: 120000 });
  const run = page.url().split("?")[0];
  assert.doesNotMatch(await page.textContent("main"), /in the queue/);
  const counts = await page.textContent("section[aria-label=customers] .counts");
  assert.match(counts, /Rejected6/);
  assert.match(counts, /Created119.995/);
  await judge("run");

  // Rejected rows are shown and downloaded.
  await page.click("a:text-is('customers.csv')");
  assert.match(await page.textContent("table"), /too/);
  await judge("rejected");
  const waiting = page.waitForEvent("download");
  await page.click("text=Download");
  const download = await waiting;
  const text = fs.readFileSync(await download.path(), "utf8");
  assert.equal(text.trim().split("\n").length, 7);
  assert.match(text.split("\n")[0], /^email,name,city,spent,note,_file,_line,_scope,_columns,_code,_reason,_raw/);

  // A cell is corrected in place, and its row imported.
  await page.goto(run);
  assert.match(await page.textContent("section[aria-label=customers]"), /6 × ragged, first in customers\.csv, line 20002/);
  await page.click("section[aria-label=customers] a:text-is('Correct and import')");
  assert.match(await page.textContent("main"), /Lines 1 to 6\./);
  await judge("rejected-lines");
  await page.click("text=Import corrected rows");
  assert.match(await page.textContent("[role=alert]"), /no cell was changed/);
  wrong.length = 0;
  await page.fill("[aria-label='email of line 20002 of customers.csv']", "corrected@example.com");
  await page.fill("[aria-label='name of line 20002 of customers.csv']", "Corrected");
  await page.click("text=Import corrected rows");
  await page.waitForSelector("h2:has-text('customers') .badge.succeeded", { timeout: 120000 });
  assert.match(await page.textContent("section[aria-label=customers] .counts"), /Merged1.*Created1/s);
  await page.goto(run);
  await page.click("section[aria-label=customers] a:text-is('Correct and import')");
  assert.match(await page.textContent("tr:has-text('20002')"), /imported/);
  assert.equal(await page.locator("[aria-label='email of line 20002 of customers.csv']").count(), 0);
  await judge("rejected-lines-imported");

  // The last profiles lead to a profile, which shows who set its values.
  await page.goto(run);
  await page.click("section[aria-label=customers] a[href^='/profiles/'] >> nth=0");
  assert.match(await page.textContent("table"), /Shop \/ customers/);
  await page.goto(`${url}/profiles?property=email&value=c1@example.com`);
  await page.click("main li a");
  assert.match(await page.textContent(".timeline"), /order.*total: 20.*order.*total: 9\.95/s);
  await judge("profile");

  // A mapping is changed and saved; a wrong one is refused, and the form keeps it.
  await page.goto(`${url}/connections/shop/goals/customers`);
  await page.selectOption("[aria-label='Rule of mapping 1']", "set-if-empty");
  await page.fill("[aria-label='Property of mapping 1']", "nmae");
  await page.click("text=Save mapping");
  assert.match(await page.textContent("[role=alert]"), /did you mean `name`/);
  assert.equal(await page.inputValue("[aria-label='Property of mapping 1']"), "nmae");
  wrong.length = 0;
  await page.fill("[aria-label='Property of mapping 1']", "name");
  await page.click("text=Save mapping");
  // Files that were imported already are named before they become due again.
  assert.match(await page.textContent("[role=alert]"), /Not saved yet.*imported again: customers\.csv \(fields changed: name\).*count twice: spent/s);
  await judge("imported-again");
  await page.click("text=Save, and import them again");
  assert.match(await page.textContent("[role=status]"), /Saved/);
  assert.equal(await page.inputValue("[aria-label='Rule of mapping 1']"), "set-if-empty");
  assert.match(await page.textContent("section[aria-labelledby=mapping]"), /Existing property: also written by Broken \/ stores/);
  await page.check("[name=create_properties]");
  await page.click("text=Add all detected fields");
  await page.click("text=Save, and import them again");
  assert.match(await page.textContent("[role=status]"), /Saved/);
  assert.equal(await page.inputValue("[aria-label='Property of mapping 3']"), "city");
  assert.equal(await page.inputValue("[aria-label='Property of mapping 4']"), "note");
  await judge("mapping");

  // Switches and the schedule change the file.
  await page.goto(`${url}/connections/shop`);
  await page.click("[role=switch][aria-label='newsletter is on']");
  assert.equal(await page.getAttribute("[role=switch][aria-label='newsletter is on']", "aria-checked"), "false");
  await page.selectOption("#kind", "days");
  await page.fill("#value", "monday, friday");
  await page.fill("#time", "03:15");
  await page.click("text=Save schedule");
  assert.match(await page.textContent("section[aria-labelledby=schedule]"), /every monday, friday at 03:15/);
  assert.match(await page.textContent("section[aria-labelledby=exchange]"), /Importedabout (119|120|121|118)/);
  await judge("connection");

  // A failed run says why. It ended before the first event of the page.
  await page.route("**/api/v1/events", async (route) => {
    const deadline = Date.now() + 300_000;
    while ((await (await fetch(`${url}/api/v1/status`)).json()).queue.length > 0) {
      assert.ok(Date.now() < deadline, "waited 300 s for the queue to be empty");
    }
    await route.continue();
  });
  await page.goto(`${url}/connections/broken`);
  await page.click("button.main:has-text('Run now')");
  await page.waitForSelector(".badge.failed");
  assert.match(await page.textContent(".notice.bad"), /no column `e-mail`; found `email`, `name`; did you mean `email`/);
  assert.match(await page.textContent(".notice.bad"), /Compare the file's columns/);
  await judge("failed");

  // With all goals off, the buttons say why they are disabled.
  await page.goto(`${url}/connections/broken`);
  await page.click("[role=switch][aria-label='stores is on']");
  assert.ok(await page.isDisabled("button.main:has-text('Run now')"));
  assert.match(await page.textContent("#cannot-run"), /all goals are off/);

  // Mail without [smtp] is not saved silently.
  assert.match(await page.textContent("section[aria-labelledby=notify]"), /No e-mail is sent: sluicebox\.toml has no \[smtp\]/);

  for (const [place, name] of [["plugins", "plugins"], ["audit", "audit"], ["runs", "history"]]) {
    await page.goto(`${url}/${place}`);
    await judge(name);
  }
  assert.match(fs.readFileSync(path.join(folder, "connections/shop.toml"), "utf8"), /days = \["monday", "friday"\]/);
  assert.deepEqual(wrong, []);
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
