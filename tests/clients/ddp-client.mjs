// @rocket.chat/ddp-client: Rocket.Chat's own SDK, on the raw endpoint.

import WebSocket from "ws";
import { assert, base, bringBack, done, drain, Inbox, step, takeAway, within } from "./steps.mjs";

// Node.js 20 has no WebSocket of its own; the SDK expects the browser's.
globalThis.WebSocket = WebSocket;
const { DDPSDK } = await import("@rocket.chat/ddp-client");

const sdk = DDPSDK.create(base.origin, { retryCount: 20, retryTime: 100 });
await within(sdk.connection.connect(), "connected");
step("connected");

await within(sdk.account.loginWithToken("demo-sam"), "login");
assert.equal(sdk.account.uid, "uid-sam");
step("logged in");

const messages = new Inbox();
const room = sdk.stream("room-messages", ["GENERAL", {}], (message) => messages.push(message));
await within(room.ready(), "ready");
step("subscribed");

async function talk(text) {
  const sent = await within(sdk.call("sendMessage", { rid: "GENERAL", msg: text }), "sendMessage");
  const heard = await messages.next(text, (message) => message.msg === text);
  assert.equal(heard._id, sent._id);
}
await talk("from the SDK");
await talk("long ".repeat(800));
step("sent messages and received them");

await assert.rejects(within(sdk.call("demo:nonsense"), "the error of an unknown method"));
step("an unknown method fails");

let who = await within(sdk.call("demo:whoami"), "whoami");
if (!who.control) {
  const { session } = sdk.connection;
  const changes = [];
  const stop = sdk.connection.on("connection", (status) => changes.push(status));
  const late = within(sdk.call("demo:sleep", 1500), "a call that was under way");
  await drain(who);
  assert.equal(await late, 1500);
  const next = await within(sdk.call("demo:whoami"), "whoami after the move");
  assert.notEqual(next.streamer, who.streamer);
  assert.equal(next.username, "sam");
  await talk("after the move");
  assert.deepEqual([changes, sdk.connection.session, sdk.connection.status], [[], session, "connected"]);
  stop();
  await bringBack(who);
  step(`${who.streamer} was drained: on ${next.streamer} with the same session`);
  who = next;
}
const again = new Promise((resolve) => sdk.connection.once("connected", resolve));
await takeAway(who);
await within(again, "the reconnect");
step("the streamer went away, the SDK reconnected");

// The SDK logs in and subscribes again by itself, without telling when that is done.
const other = await within(sdk.call("demo:whoami"), "whoami after the reconnect");
assert.notEqual(other.streamer, who.streamer);
assert.equal(other.username, "sam");
await talk("still subscribed");
step(`on ${other.streamer} with login and subscription`);

await bringBack(who);
room.stop();
await within(sdk.call("demo:echo", 1), "a call after unsub");
sdk.connection.close();
step("unsubscribed and closed");
done();
