// A DDP server on npm sockjs and npm ws, as a second kind of streamer behind the gateway.
//
// It behaves like Meteor's own server where that differs from ddp-streamer: the greeting has no `msg` or
// is not sent at all, no early ping, session ids of 17 characters, methods answered in any order, `updated` before `result`, an
// `error` message for what it does not understand, SockJS heartbeats and `c` frames.
//
// Prints one line of JSON: the port to put behind the gateway. `/stop` and `/start` on its control
// port cut it off and bring it back. It ends when its standard input does.

import { randomBytes } from "node:crypto";
import http from "node:http";
import sockjs from "sockjs";
import { WebSocketServer } from "ws";

const name = process.argv[2] ?? "node-1";
const peers = new Set();

class Peer {
  user = null;
  subs = new Map();

  constructor(send, close) {
    this.send = (message) => send(JSON.stringify(message));
    this.close = close;
    peers.add(this);
    // What servers of old said first; newer ones say nothing.
    if (name.endsWith("1")) this.send({ server_id: "0" });
  }

  receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return this.send({ msg: "error", reason: "Parse error" });
    }
    switch (message.msg) {
      case "connect":
        this.session = randomBytes(16).toString("base64url").slice(0, 17);
        return this.send({ msg: "connected", session: this.session });
      case "ping":
        return this.send({ msg: "pong", id: message.id });
      case "pong":
        return;
      case "sub":
        return this.subscribe(message);
      case "unsub":
        this.subs.delete(message.id);
        return this.send({ msg: "nosub", id: message.id });
      case "method":
        if (!this.session) return this.send({ msg: "error", reason: "Must connect first", offendingMessage: message });
        return this.call(message);
      default:
        return this.send({ msg: "error", reason: "Bad request", offendingMessage: message });
    }
  }

  subscribe({ id, name: stream, params }) {
    if (stream !== "stream-room-messages") {
      return this.send({ msg: "nosub", id, error: { error: 404, reason: "There is no such subscription" } });
    }
    if (this.subs.has(id)) return;
    this.subs.set(id, params[0]);
    this.send({ msg: "ready", subs: [id] });
  }

  call({ id, method, params = [] }) {
    const answer = (outcome) => {
      this.send({ msg: "updated", methods: [id] });
      this.send({ msg: "result", id, ...outcome });
    };
    switch (method) {
      case "login":
        this.user = params[0]?.resume?.match(/^demo-(\w+)$/)?.[1] ?? null;
        if (!this.user) return answer({ error: { error: 403, reason: "This token is not known" } });
        return answer({ result: { id: `uid-${this.user}`, token: params[0].resume, tokenExpires: { $date: Date.now() + 86_400_000 }, type: "resume" } });
      case "demo:whoami":
        return answer({ result: { streamer: name, username: this.user, control: controlUrl } });
      case "demo:echo":
        return answer({ result: params[0] });
      case "sendMessage": {
        const message = { _id: randomBytes(8).toString("hex"), ...params[0], u: { username: this.user } };
        for (const peer of peers) peer.tell(message);
        return answer({ result: message });
      }
      default:
        return answer({ error: { error: 404, reason: "There is no such method" } });
    }
  }

  tell(message) {
    for (const room of this.subs.values()) {
      if (room !== message.rid) continue;
      this.send({ msg: "changed", collection: "stream-room-messages", id: "id", fields: { eventName: room, args: [message] } });
    }
  }
}

const server = http.createServer((request, response) => {
  if (request.url === "/health") return response.end("ok");
  if (request.url.startsWith("/sockjs")) return; // answered by sockjs
  response.statusCode = 404;
  response.end();
});

const framed = sockjs.createServer({ prefix: "/sockjs", heartbeat_delay: 1000, log: () => {} });
framed.on("connection", (connection) => {
  if (!connection) return;
  const peer = new Peer((text) => connection.write(text), () => connection.close(3000, "Go away!"));
  connection.on("data", (text) => peer.receive(text));
  connection.on("close", () => peers.delete(peer));
});
framed.installHandlers(server);

const raw = new WebSocketServer({ noServer: true, perMessageDeflate: true });
server.on("upgrade", (request, socket, head) => {
  if (new URL(request.url, "http://x").pathname !== "/websocket") return;
  raw.handleUpgrade(request, socket, head, (connection) => {
    const peer = new Peer((text) => connection.send(text), () => connection.close(1001));
    connection.on("message", (data) => peer.receive(String(data)));
    connection.on("close", () => peers.delete(peer));
    connection.on("error", () => {});
  });
});

const sockets = new Set();
server.on("connection", (socket) => {
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
  socket.on("error", () => {});
});

const listening = (server, port) => new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server.address().port)));

const port = await listening(server, 0);
const control = http.createServer(async (request, response) => {
  if (request.url === "/stop") {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  } else if (request.url === "/goodbye") {
    // As a Meteor server does when it is asked to end: a SockJS `c` frame, a close frame.
    for (const peer of peers) peer.close();
  } else if (!server.listening) {
    await listening(server, port);
  }
  response.end("ok");
});
const controlUrl = `http://127.0.0.1:${await listening(control, 0)}`;

console.log(JSON.stringify({ port, control: controlUrl }));
process.stdin.resume().on("end", () => process.exit(0));
