// The three DDP clients over a limit: one call or subscription fails, all else goes on.
//
// The gateway allows three requests of one name in six seconds: three at once, then one each two.

import { DDPSDK } from "@rocket.chat/ddp-client";
import simpleDDP from "simpleddp";
import SockJS from "sockjs-client";
import WebSocket from "ws";
import { assert, base, done, Inbox, socketBase, step, within } from "./steps.mjs";

globalThis.WebSocket ??= WebSocket;

// simpleddp rejects a second promise with the error of a subscription, one that nobody can get hold of.
process.on("unhandledRejection", (error) => {
  if (error?.error !== "too-many-requests") throw error;
});

/** Each answers how to call a method, to subscribe and to end. */
const clients = {
  async "@rocket.chat/ddp-client"() {
    const sdk = DDPSDK.create(base.origin);
    await within(sdk.connection.connect(), "connected");
    await within(sdk.account.loginWithToken("demo-lea"), "login");
    return {
      call: (method, ...params) => sdk.client.callAsync(method, ...params),
      subscribe: (name, ...params) => sdk.client.subscribe(name, ...params).ready(),
      end: () => sdk.connection.close(),
    };
  },

  async simpleddp() {
    const client = new simpleDDP({ endpoint: `${socketBase}/websocket`, SocketConstructor: WebSocket });
    await within(client.connect(), "connected");
    await within(client.call("login", { resume: "demo-lia" }), "login");
    return {
      call: (method, ...params) => client.call(method, ...params),
      subscribe: (name, ...params) => client.subscribe(name, ...params).ready(),
      end: () => client.disconnect(),
    };
  },

  // Meteor's own client on top of it has no package of its own: what it would see is looked at here.
  async "sockjs-client"() {
    const socket = new SockJS(`${base.origin}/sockjs`, null, { transports: ["websocket"] });
    const inbox = new Inbox();
    socket.onmessage = (event) => inbox.push(JSON.parse(event.data));
    await within(new Promise((resolve) => (socket.onopen = resolve)), "open");
    const say = (message) => socket.send(JSON.stringify(message));
    let next = 1;
    async function call(method, ...params) {
      const id = String(next++);
      say({ msg: "method", id, method, params });
      const { error, result } = await inbox.next(`result of ${method}`, (m) => m.msg === "result" && m.id === id);
      // Meteor finishes a method with it, also one that failed.
      await inbox.next(`updated of ${method}`, (m) => m.msg === "updated" && m.methods.includes(id));
      if (error) throw error;
      return result;
    }
    say({ msg: "connect", version: "1", support: ["1"] });
    await inbox.next("connected", (m) => m.msg === "connected");
    await call("login", { resume: "demo-liz" });
    return {
      call,
      async subscribe(name, ...params) {
        const id = `sub${next++}`;
        say({ msg: "sub", id, name, params });
        const mine = (m) => (m.msg === "ready" && m.subs.includes(id)) || (m.msg === "nosub" && m.id === id);
        const { error } = await inbox.next(`answer to ${name}`, mine);
        if (error) throw error;
      },
      end: () => socket.close(),
    };
  },
};

/** The error of a request that is over the limit. */
async function refused(request, what) {
  const error = await within(
    request.then(
      () => assert.fail(`${what} went through`),
      (error) => error,
    ),
    `the refusal of ${what}`,
  );
  assert.equal(error.error, "too-many-requests", `${what}: ${JSON.stringify(error)}`);
  assert.ok(error.details.timeToReset > 0 && error.details.timeToReset <= 2000, JSON.stringify(error));
  return error.details.timeToReset;
}

for (const [name, start] of Object.entries(clients)) {
  const client = await start();
  for (let n = 0; n < 3; n++) {
    assert.equal(await within(client.call("demo:echo", `${n}`), `echo ${n}`), `${n}`);
  }
  const wait = await refused(client.call("demo:echo", "too much"), `${name}: the fourth echo`);
  const { username } = await within(client.call("demo:whoami"), "another method");
  assert.match(username, /^l/);
  step(`${name}: the fourth call is refused, another method is not`);

  const publication = "meteor.loginServiceConfiguration";
  // With parameters, since simpleddp would take equal ones for one subscription.
  for (let n = 0; n < 3; n++) await within(client.subscribe(publication, n), `ready ${n}`);
  await refused(client.subscribe(publication, 3), `${name}: the fourth sub`);
  step(`${name}: the fourth subscription is refused`);

  // As long as the error says.
  await new Promise((resolve) => setTimeout(resolve, wait));
  assert.equal(await within(client.call("demo:echo", "later"), "a later echo"), "later");
  step(`${name}: on the same connection, later, it works again`);
  await client.end();
}
done();
