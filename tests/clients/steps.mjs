// What the client scripts have in common: one address, one deadline, and a way to lose a streamer.

import assert from "node:assert/strict";

export { assert };

/** The gateway as clients see it, such as https://127.0.0.1:8443. */
export const base = new URL(process.argv[2] ?? "https://127.0.0.1:8443");
export const socketBase = base.origin.replace("http", "ws");

const LIMIT = 15_000;

// A script that hangs ends here with the last step it took.
let last = "the start";
setTimeout(() => {
  console.error(`nothing happened for long after: ${last}`);
  process.exit(1);
}, 60_000).unref();

/** Says what has been shown to work. */
export function step(text) {
  last = text;
  console.log(`  ${text}`);
}

/** `promise`, or an error that names what did not come. */
export function within(promise, what, limit = LIMIT) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${limit} ms (after: ${last})`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A list that can be waited on: `next` resolves with the first entry, old or new, that matches. */
export class Inbox {
  #entries = [];
  #waiting = new Set();

  push(entry) {
    for (const waiter of this.#waiting) {
      if (waiter.matches(entry)) {
        this.#waiting.delete(waiter);
        return waiter.resolve(entry);
      }
    }
    this.#entries.push(entry);
  }

  next(what, matches) {
    const found = this.#entries.findIndex(matches);
    if (found >= 0) return Promise.resolve(this.#entries.splice(found, 1)[0]);
    return within(new Promise((resolve) => this.#waiting.add({ matches, resolve })), what);
  }

  /** What came in and was not asked for. */
  get rest() {
    return this.#entries;
  }
}

/** Cuts the streamer that answered `demo:whoami`; it stays away until `bringBack`. */
export const takeAway = (who) => turn(who, "stop");
export const bringBack = (who) => turn(who, "start");

/** Has the gateway move everybody off that streamer; it is stopped when this returns. Only the demo's. */
export async function drain(who) {
  await turn(who, "drain");
  const drained = async () => {
    for (;;) {
      const answer = await fetch(new URL("/demo/streamers", base));
      const streamers = await answer.json();
      if (streamers[number(who) - 1].state === "drained") return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await within(drained(), `${who.streamer} to be empty`);
}

const number = (who) => Number(who.streamer.match(/\d+$/)?.[0]);

async function turn(who, verb) {
  // Backends of the tests say where they are switched; the demo's are switched through the gateway.
  const url = who.control ? `${who.control}/${verb}` : new URL(`/demo/streamers/${number(who)}/${verb}`, base);
  const answer = await within(fetch(url, { method: "POST" }), `${verb} ${who.streamer}`);
  assert.ok(answer.ok, `${verb} ${who.streamer}: ${answer.status}`);
}

/** Ends the process: clients with timers of their own would keep it alive. */
export function done() {
  console.log("ok");
  process.exit(0);
}
