// npm sockjs-client, the one in Rocket.Chat's web client: info, framed WebSocket, reconnect.

import SockJS from "sockjs-client";
import { assert, base, bringBack, done, drain, Inbox, step, takeAway, within } from "./steps.mjs";

class Client {
  inbox = new Inbox();
  #next = 1;

  constructor() {
    this.socket = new SockJS(`${base.origin}/sockjs`, null, {
      transports: ["websocket", "xdr-polling", "xhr-polling", "iframe-xhr-polling", "jsonp-polling"],
    });
    this.opened = new Promise((resolve) => (this.socket.onopen = resolve));
    this.closed = new Promise((resolve) => (this.socket.onclose = resolve));
    this.socket.onmessage = (event) => this.inbox.push(JSON.parse(event.data));
  }

  say(message) {
    this.socket.send(JSON.stringify(message));
  }

  async call(method, ...params) {
    const id = String(this.#next++);
    this.say({ msg: "method", id, method, params });
    const result = await this.inbox.next(`result of ${method}`, (m) => m.msg === "result" && m.id === id);
    const updated = await this.inbox.next(`updated of ${method}`, (m) => m.msg === "updated");
    assert.deepEqual(updated.methods, [id]);
    return result;
  }

  /** connect, login and sub in one go, as Meteor's client does. */
  async start(session) {
    await within(this.opened, "open");
    assert.equal(this.socket.transport, "websocket");
    this.say({ msg: "connect", version: "1", support: ["1", "pre2", "pre1"], session });
    const login = this.call("login", { resume: "demo-sue" });
    this.say({ msg: "sub", id: "room", name: "stream-room-messages", params: ["GENERAL", { useCollection: false, args: [] }] });
    const { session: given } = await this.inbox.next("connected", (m) => m.msg === "connected");
    assert.equal((await login).result.id, "uid-sue");
    await this.inbox.next("ready", (m) => m.msg === "ready" && m.subs.includes("room"));
    return given;
  }

  async talk(text) {
    const { result } = await this.call("sendMessage", { rid: "GENERAL", msg: text });
    const event = await this.inbox.next("the message as an event", (m) => m.collection === "stream-room-messages");
    assert.equal(event.fields.args[0]._id, result._id);
    assert.equal(event.fields.args[0].msg, text);
  }
}

const first = new Client();
const session = await first.start();
step("connected over the websocket transport, logged in, subscribed");

await first.talk("quotes \" and \\, an emoji 🦀, a separator \u2028 and a lone surrogate-free text");
step("sent a message and received it");

let { result: who } = await first.call("demo:whoami");
if (!who.control) {
  await drain(who);
  const { result: next } = await first.call("demo:whoami");
  assert.notEqual(next.streamer, who.streamer);
  assert.equal(next.username, "sue");
  await first.talk("after the move");
  // The first streamer's greeting, and the document of the user who logged in.
  const unasked = first.inbox.rest.filter((m) => !["server_id", "users"].includes(m.server_id ? "server_id" : m.collection));
  assert.deepEqual(unasked.filter((m) => !["ping", "pong"].includes(m.msg)), []);
  assert.equal(first.inbox.rest.filter((m) => m.collection === "users").length, 1);
  await bringBack(who);
  step(`${who.streamer} was drained: on ${next.streamer} over the same socket`);
}
assert.equal((await first.call("demo:nonsense")).error.error, 404);
first.say({ msg: "unsub", id: "room" });
const nosub = await first.inbox.next("nosub", (m) => m.msg === "nosub" && m.id === "room");
assert.equal(nosub.error, undefined);
step("unsubscribed");

({ result: who } = await first.call("demo:whoami"));
await takeAway(who);
const { code } = await within(first.closed, "close after the streamer went away");
assert.notEqual(code, 4000);
step(`the streamer went away: closed with ${code}`);

const second = new Client();
await second.start(session);
const { result: other } = await second.call("demo:whoami");
assert.notEqual(other.streamer, who.streamer);
await second.talk("back again");
step(`back on ${other.streamer} with login and subscription`);

await bringBack(who);
second.socket.close();
assert.equal((await within(second.closed, "close by the client")).code, 1000);
step("closed by the client with 1000");

if (other.control) {
  const third = new Client();
  await third.start();
  const { result } = await third.call("demo:whoami");
  await within(fetch(`${result.control}/goodbye`, { method: "POST" }), "goodbye");
  const ended = await within(third.closed, "close by the server");
  assert.deepEqual([ended.code, ended.reason], [3000, "Go away!"]);
  step("a server's own goodbye reaches the client as it was said");
}
done();
