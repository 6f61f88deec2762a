// npm ws: the protocol's own corners, which the DDP clients do not touch.

import WebSocket from "ws";
import { assert, base, done, Inbox, socketBase, step, within } from "./steps.mjs";

async function open(path, options) {
  const socket = new WebSocket(socketBase + path, options);
  socket.inbox = new Inbox();
  socket.closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve({ code, reason: String(reason) })));
  socket.on("message", (data, binary) => socket.inbox.push(binary ? data : String(data)));
  socket.on("error", () => {});
  await within(new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject)), `open ${path}`);
  return socket;
}

const connect = JSON.stringify({ msg: "connect", version: "1", support: ["1"] });
const echo = (id, text) => JSON.stringify({ msg: "method", id, method: "demo:echo", params: [text] });

{
  const socket = await open("/websocket");
  for (const [n, part] of [connect.slice(0, 9), connect.slice(9, 30), connect.slice(30)].entries()) {
    socket.send(part, { fin: n === 2, binary: false });
    const pong = new Promise((resolve) => socket.once("pong", resolve));
    socket.ping(`between ${n}`);
    assert.equal(String(await within(pong, "pong")), `between ${n}`);
  }
  await socket.inbox.next("connected", (text) => text.includes('"connected"'));
  step("a message in three frames with pings between them");

  const long = "ü€🦀\u0000\\\"".repeat(9000);
  socket.send(echo("1", long));
  const result = JSON.parse(await socket.inbox.next("the long result", (text) => text.includes('"result"')));
  assert.equal(result.result, long);
  step("a message that fills several reads, both ways");

  socket.close(1000, "bye");
  assert.equal((await within(socket.closed, "close")).code, 1000);
  step("a close is answered");
}

{
  const socket = await open("/sockjs/000/abcdefgh/websocket", { perMessageDeflate: true });
  assert.equal(socket.extensions, "");
  assert.equal(await socket.inbox.next("the open frame", () => true), "o");
  socket.send(JSON.stringify([connect]));
  await socket.inbox.next("connected", (text) => text.startsWith('a["{\\"msg\\":\\"connected\\"'));
  socket.send("[]");
  socket.send("");
  socket.send(JSON.stringify([echo("1", "after empty ones")]));
  await socket.inbox.next("the result", (text) => text.includes("after empty ones"));
  step("SockJS framing; empty messages do no harm; no compression is agreed on");
  socket.send(Buffer.from("binary"));
  const { code } = await within(socket.closed, "close after a binary message");
  assert.ok([1003, 1007].includes(code), `closed with ${code}`);
  step(`a binary message ends it with ${code}`);
}

{
  const socket = await open("/other-ws", { protocols: [] });
  socket.send(Buffer.from([0, 255, 1]));
  assert.deepEqual([...(await socket.inbox.next("the echo", () => true))], [0, 255, 1]);
  socket.close(4123, "own code");
  assert.deepEqual(await within(socket.closed, "close"), { code: 4123, reason: "own code" });
  step("another WebSocket goes to the monolith untouched, close code included");
}

{
  const answer = await fetch(new URL("/sockjs/123/abcdefgh/xhr", base), { method: "POST" });
  assert.equal(answer.status, 404);
  step("a fallback transport is turned down at once");
}
done();
