// npm simpleddp: a Meteor client that is not Rocket.Chat's, on the raw endpoint.

import simpleDDP from "simpleddp";
import WebSocket from "ws";
import { assert, bringBack, done, drain, Inbox, socketBase, step, takeAway, within } from "./steps.mjs";

const client = new simpleDDP({
  endpoint: `${socketBase}/websocket`,
  SocketConstructor: WebSocket,
  reconnectInterval: 100,
});
await within(client.connect(), "connected");
step("connected");

const login = await within(client.call("login", { resume: "demo-sid" }), "login");
assert.equal(login.id, "uid-sid");
step("logged in");

const events = new Inbox();
client.on("changed", (event) => events.push(event));
const room = client.subscribe("stream-room-messages", "GENERAL", { useCollection: true, args: [] });
await within(room.ready(), "ready");
step("subscribed");

async function talk(text) {
  await within(client.call("sendMessage", { rid: "GENERAL", msg: text }), "sendMessage");
  const event = await events.next(text, (message) => message.fields.args?.[0].msg === text);
  assert.equal(event.fields.eventName, "GENERAL");
}
await talk("from simpleddp");
step("sent a message and received it");

let who = await within(client.call("demo:whoami"), "whoami");
if (!who.control) {
  const changes = [];
  const notes = ["disconnected", "connected", "added", "ready", "nosub"].map((name) => client.on(name, () => changes.push(name)));
  await drain(who);
  const next = await within(client.call("demo:whoami"), "whoami after the move");
  assert.notEqual(next.streamer, who.streamer);
  assert.equal(next.username, "sid");
  await talk("after the move");
  assert.deepEqual(changes, []);
  for (const note of notes) note.stop();
  await bringBack(who);
  step(`${who.streamer} was drained: on ${next.streamer}, and nothing was said twice`);
  who = next;
}
// To subscribe again after a loss, this client sends `unsub` and waits for `nosub`. Meteor answers for any
// id, ddp-streamer only for those it knows: there the client would wait for ever.
if (!who.control) {
  await within(room.stop(), "nosub");
  step("unsubscribed");
}
const lost = new Promise((resolve) => client.on("disconnected", resolve));
const again = new Promise((resolve) => client.on("connected", resolve));
const ready = new Promise((resolve) => client.on("ready", resolve));
await takeAway(who);
await within(lost, "disconnected");
await within(again, "the reconnect");
step("the streamer went away, reconnected");
if (!who.control) await within(room.start(), "ready");
await within(ready, "ready after the reconnect");
step("subscribed again");

// This client does not log in again by itself.
await within(client.call("login", { resume: "demo-sid" }), "login after the reconnect");
const other = await within(client.call("demo:whoami"), "whoami after the reconnect");
assert.notEqual(other.streamer, who.streamer);
await talk("still subscribed");
step(`on ${other.streamer}`);

await bringBack(who);
await within(room.stop(), "nosub");
await within(client.disconnect(), "disconnected");
step("unsubscribed and closed");
done();
