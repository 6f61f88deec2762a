// The demo page in headless Chromium, through the gateway: what a visitor does in two minutes.
//
//   node demo.mjs <https base> <admin base> <proxy.toml> <folder for pictures>
//
// With UPDATE_PICTURE=1 the picture of the README (demo.png beside this file) is made anew.

import assert from "node:assert/strict";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");

const [base, admin, config, pictures] = process.argv.slice(2);
const step = (text) => console.log(`  ${text}`);
const faults = [];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

/** A visitor with a window of her own. */
async function visit(name, colorScheme) {
  // The certificate was made for this run; nobody has signed it.
  const context = await browser.newContext({ colorScheme, ignoreHTTPSErrors: true, viewport: { width: 1280, height: 740 } });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  page.on("pageerror", (error) => faults.push(`${name}: ${error.stack}`));
  page.sockets = [];
  page.on("websocket", (socket) => page.sockets.push(socket));
  page.on("console", (message) => {
    if (/Content Security Policy/.test(message.text())) faults.push(`${name}: ${message.text()}`);
  });
  await page.goto(base);
  assert.equal(await page.evaluate(() => document.activeElement.id), "name");
  await accessible(page, `${name} at the door`);
  await page.keyboard.type(name);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#streamers .serving");
  assert.equal(await page.evaluate(() => document.activeElement.id), "text");
  return page;
}

const write = async (page, text) => {
  await page.fill("#text", text);
  await page.keyboard.press("Enter");
};
const read = (page, text) => page.waitForSelector(`.message:not(.pending) .body:text-is("${text}")`);
const serving = (page) => page.evaluate(() => document.body.dataset.streamer);
const press = (page, wish, streamer) => page.click(`button[aria-label="${wish} ${streamer}"]`);
const reconnects = async (page) => Number(await page.textContent("#reconnects"));

/** No rule of axe-core that tells right from wrong is broken. */
async function accessible(page, where) {
  // Colours are judged as they stay, not halfway through a transition.
  await page.waitForFunction(() =>
    document.getAnimations().every(({ effect, playState }) => playState !== "running" || effect.getComputedTiming().endTime === Infinity),
  );
  const violations = await page.evaluate(`${axe}; axe.run().then((found) => found.violations)`);
  const short = violations.map(({ id, help, nodes }) => `${id}: ${help} (${nodes.map((node) => node.target).join("; ")})`);
  assert.deepEqual(short, [], `${where} is not accessible`);
}

async function reload() {
  const answer = await fetch(new URL("/reload", admin), { method: "POST" });
  return { ok: answer.ok, text: await answer.text() };
}

const ada = await visit("ada", "light");
const protocol = await ada.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
assert.equal(protocol, "h2");
const linus = await visit("linus", "dark");
step("two people logged in over https, the page came by HTTP/2");

await ada.locator("#text").pressSequentially("Hello lin");
await linus.waitForSelector('#typing:text-is("ada is typing…")');
await write(ada, "Hello linus");
await read(linus, "Hello linus");
await linus.waitForSelector("#typing:empty", { state: "attached" });
await write(linus, "Hello ada, which streamer are you on?");
await read(ada, "Hello ada, which streamer are you on?");
step("typing and messages arrive");

// A new configuration, then a broken one: nobody's socket notices.
const good = await readFile(config, "utf8");
const changed = good.replace('slow_start = "0s"', 'slow_start = "1s"');
assert.notEqual(changed, good);
await writeFile(config, changed);
const first = await reload();
assert.ok(first.ok, first.text);
await writeFile(config, `${good}\nnonsense = `);
const second = await reload();
assert.ok(!second.ok, second.text);
assert.match(second.text, /nonsense|proxy\.toml/);
await writeFile(config, good);
const third = await reload();
assert.ok(third.ok, third.text);
await write(ada, "Did you notice the new configuration?");
await read(linus, "Did you notice the new configuration?");
assert.deepEqual([await reconnects(ada), await reconnects(linus)], [0, 0]);
step("sockets live through reloads, good and bad");

// The planned way: nobody's socket notices.
const drained = await serving(ada);
const socket = await ada.textContent("#socket");
assert.match(socket, /^Your socket: session [0-9a-f]{8}…, open since \d\d:\d\d:\d\d$/);
await press(ada, "Drain", drained);
await ada.waitForFunction((drained) => document.body.dataset.streamer !== drained, drained);
await ada.waitForSelector(`[data-name="${drained}"][data-state="drained"]`);
await ada.waitForSelector("#streamers .serving");
assert.equal(await ada.textContent("#socket"), socket);
assert.equal(await ada.textContent("#moved"), ", moved once");
await ada.waitForSelector(`#events :text("${await serving(ada)} serves you now, on the same socket: session ")`);
await write(ada, "I was moved, and my socket stayed.");
await read(linus, "I was moved, and my socket stayed.");
await write(linus, "I saw nothing of it.");
await read(ada, "I saw nothing of it.");
assert.deepEqual([await reconnects(ada), await reconnects(linus)], [0, 0]);
for (const page of [ada, linus]) {
  assert.equal(page.sockets.length, 1);
  assert.ok(!page.sockets[0].isClosed());
}
await ada.screenshot({ path: `${pictures}/demo-drained.png` });
await press(ada, "Bring back", drained);
await ada.waitForSelector(`[data-name="${drained}"][data-state="up"]`);
step(`${drained} was drained: ada is on ${await serving(ada)} with the same socket`);

// The unplanned way.
const before = await serving(ada);
await press(ada, "Kill", before);
await ada.waitForFunction((before) => document.body.dataset.streamer !== before, before);
await ada.waitForSelector("#streamers .serving");
assert.equal(await reconnects(ada), 1);
assert.notEqual(await ada.textContent("#socket"), socket);
assert.equal(await ada.textContent("#moved"), "");
assert.ok(ada.sockets[0].isClosed());
step(`${before} was killed: ada is on ${await serving(ada)} after ${await ada.textContent("#gap")}`);

await linus.waitForSelector('#state[data-state="connected"]');
await write(linus, "No, and you lost a streamer.");
await read(ada, "No, and you lost a streamer.");
await write(ada, "And I am still here. That took a blink.");
await read(linus, "And I am still here. That took a blink.");
assert.equal(await ada.locator(".message .body", { hasText: "you lost a streamer" }).count(), 1);
step("the subscriptions are back, each message came once");

await linus.locator("#text").pressSequentially("Sho");
await ada.waitForSelector('#typing:text-is("linus is typing…")');
await ada.screenshot({ path: `${pictures}/demo-light.png` });
await linus.screenshot({ path: `${pictures}/demo-dark.png` });
await accessible(ada, "the chat (light)");
await accessible(linus, "the chat (dark)");
await ada.setViewportSize({ width: 390, height: 800 });
assert.ok(await ada.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the narrow page scrolls sideways");
await ada.screenshot({ path: `${pictures}/demo-narrow.png`, fullPage: true });
await ada.setViewportSize({ width: 1280, height: 740 });
if (process.env.UPDATE_PICTURE) await copyFile(`${pictures}/demo-light.png`, new URL("demo.png", import.meta.url));
step("accessible by axe-core's rules, light and dark, wide and narrow");

// No streamer at all: the gateway keeps the sockets, the page keeps what was written.
for (const streamer of ["streamer-1", "streamer-2", "streamer-3"]) {
  if (streamer !== before) await press(linus, "Kill", streamer);
}
await linus.waitForFunction(() => document.querySelectorAll(".streamer.down").length === 3);
await ada.waitForSelector('#state[data-state="held"]');
await linus.waitForSelector('#state[data-state="held"]');
await write(ada, "Is anybody there?");
await ada.waitForSelector('.message.pending .body:text-is("Is anybody there?")');
const spare = before === "streamer-3" ? "streamer-1" : "streamer-3";
await press(linus, "Bring back", spare);
await linus.waitForSelector(`[data-name="${spare}"].serving`);
await ada.waitForSelector(`[data-name="${spare}"].serving`);
await read(ada, "Is anybody there?");
await read(linus, "Is anybody there?");
assert.equal(await linus.locator(".message .body", { hasText: "Is anybody there?" }).count(), 1);
step("with no streamer up both are held, and served as soon as one is back");

// Nothing but keys from here on.
await ada.locator("#text").focus();
await ada.keyboard.press("Alt+ArrowDown");
await ada.waitForSelector('#room-name:text-is("random")');
await ada.keyboard.press("Alt+ArrowUp");
await ada.waitForSelector('#room-name:text-is("general")');
await read(ada, "Hello linus");
const focus = () =>
  ada.evaluate(() => {
    const { id, textContent } = document.activeElement;
    return id || document.activeElement.getAttribute("aria-label") || textContent;
  });
async function tabTo(wanted, key = "Tab") {
  for (let presses = 0; presses < 40; presses += 1) {
    if ((await focus()) === wanted) {
      const outline = await ada.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, "none", `the focus on ${wanted} cannot be seen`);
      return;
    }
    await ada.keyboard.press(key);
  }
  assert.fail(`no way to ${wanted} by ${key}`);
}
await tabTo(`Bring back ${before}`);
await ada.keyboard.press("Enter");
await ada.waitForSelector(`[data-name="${before}"]:not(.down)`);
assert.equal(await focus(), `Drain ${before}`);
await tabTo("gateway", "Shift+Tab");
await ada.keyboard.press("Space");
await ada.waitForSelector('#room-name:text-is("gateway")');
assert.equal(await focus(), "text");
await ada.keyboard.type("by keys alone");
await ada.keyboard.press("Enter");
await read(ada, "by keys alone");
await linus.waitForSelector('#rooms button:has-text("gateway") .unread');
await tabTo("logout", "Shift+Tab");
await ada.keyboard.press("Enter");
await ada.waitForSelector("#login");
assert.equal(await focus(), "name");
step("usable by keyboard alone");

assert.deepEqual(faults, []);
await browser.close();
console.log("ok");
