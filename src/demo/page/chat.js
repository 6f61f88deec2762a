// A small chat over DDP and SockJS, written for the demo: no dependency, no build step.

// --- SockJS, WebSocket transport only --------------------------------------------------------

const letters = (count) =>
  Array.from(crypto.getRandomValues(new Uint8Array(count)), (n) => (n % 36).toString(36)).join("");

/** One attempt to reach the server: asks for /sockjs/info, then opens a framed WebSocket. */
class Transport {
  #socket = null;
  #over = false;
  #deadline;

  constructor({ onopen, onmessage, onclose }) {
    this.onopen = onopen;
    this.onmessage = onmessage;
    this.onclose = onclose;
    this.#deadline = setTimeout(() => this.#end("no answer within 10 s"), 10_000);
    this.#start().catch((fault) => this.#end(fault.message));
  }

  async #start() {
    const info = await fetch(`sockjs/info?cb=${letters(8)}`, { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (!info.ok) throw new Error(`the gateway turned us away (${info.status})`);
    if (!(await info.json()).websocket) throw new Error("the server has no WebSockets");
    if (this.#over) return;
    const server = String(Math.floor(Math.random() * 1000)).padStart(3, "0");
    const url = new URL(`sockjs/${server}/${letters(8)}/websocket`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = (event) => this.#frame(String(event.data));
    this.#socket.onclose = (event) => this.#end(event.reason || `closed with code ${event.code}`);
  }

  #frame(text) {
    switch (text[0]) {
      case "o":
        clearTimeout(this.#deadline);
        this.onopen();
        break;
      case "a":
        for (const message of JSON.parse(text.slice(1))) this.onmessage(JSON.parse(message));
        break;
      case "h":
        this.onmessage(null);
        break;
      case "c":
        this.#end(JSON.parse(text.slice(1))[1]);
        break;
    }
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify([JSON.stringify(message)]));
  }

  close() {
    this.#end("closed by the page");
  }

  #end(reason) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#deadline);
    this.#socket?.close(1000);
    this.onclose(reason);
  }
}

// --- DDP -------------------------------------------------------------------------------------

const PING_AFTER = 17_500;
const PONG_WITHIN = 15_000;

/**
 * A DDP connection that comes back by itself: logs in again with its token, repeats its
 * subscriptions with their old ids, then the methods that have no answer yet.
 */
class Ddp extends EventTarget {
  state = "offline";
  user = null;
  /** The session's name, and since when its socket is open. */
  session;
  since = null;
  #transport = null;
  #retries = 0;
  #retryTimer;
  #quietTimer;
  #heldTimer;
  #token = null;
  #nextMethod = 1;
  #methods = new Map();
  #held = [];
  #open = false;
  #loginId = null;
  #subs = new Map();

  constructor() {
    super();
    addEventListener("online", () => this.state === "waiting" && this.#dial());
    addEventListener("offline", () => this.#transport?.close());
  }

  start(token) {
    this.#token = token;
    this.#dial();
  }

  stop() {
    this.#token = this.user = null;
    this.#subs.clear();
    this.#methods.clear();
    this.#held.length = 0;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#heldTimer);
    this.#transport?.send({ msg: "disconnect" });
    this.#set("offline");
    this.#transport?.close();
    this.#transport = null;
    this.#open = false;
  }

  /** Resolves with the method's result, also across reconnects. */
  call(method, ...params) {
    return new Promise((resolve, reject) => {
      const id = String(this.#nextMethod++);
      const message = { msg: "method", id, method, params };
      this.#methods.set(id, { message, resolve, reject });
      if (this.#open && this.#loginId === null) this.#send(message);
      else this.#held.push(message);
    });
  }

  /** Returns the function that ends the subscription. */
  subscribe(name, event, heard) {
    const id = letters(17);
    const message = { msg: "sub", id, name, params: [event, { useCollection: false, args: [] }] };
    this.#subs.set(id, { message, name, event, heard });
    if (this.#open) this.#send(message);
    return () => {
      if (this.#subs.delete(id)) this.#send({ msg: "unsub", id });
    };
  }

  #dial() {
    clearTimeout(this.#retryTimer);
    this.#set("connecting");
    const transport = new Transport({
      onopen: () => this.#transport === transport && this.#opened(),
      onmessage: (message) => this.#transport === transport && this.#heard(message),
      onclose: (reason) => this.#transport === transport && this.#closed(reason),
    });
    this.#transport = transport;
  }

  #opened() {
    this.#open = true;
    this.since = new Date();
    this.#retries = 0;
    this.#send({ msg: "connect", version: "1", support: ["1", "pre2", "pre1"], session: this.session });
    // Login, then the subscriptions, all at once: the server keeps their order. Methods that were
    // under way are sent again once the login is answered.
    this.#held = [...this.#methods.values()].map((method) => method.message);
    this.#loginId = String(this.#nextMethod++);
    this.#send({ msg: "method", id: this.#loginId, method: "login", params: [{ resume: this.#token }] });
    for (const sub of this.#subs.values()) this.#send(sub.message);
    // No answer for now: the gateway keeps us until a streamer has room.
    this.#heldTimer = setTimeout(() => this.#set("held"), 400);
  }

  #closed(reason) {
    clearTimeout(this.#heldTimer);
    clearTimeout(this.#quietTimer);
    this.#transport = null;
    this.#open = false;
    this.#loginId = null;
    if (this.state === "offline") return;
    // The pace of Meteor's own client: twice at once, then longer and longer.
    const slow = Math.min(300_000, 1000 * 2.2 ** this.#retries) * (0.75 + Math.random() / 2);
    const delay = this.#retries < 2 ? 10 : slow;
    this.#retries += 1;
    this.#set("waiting", { reason, delay });
    this.#retryTimer = setTimeout(() => this.#dial(), delay);
  }

  #heard(message) {
    this.#listen();
    switch (message?.msg) {
      case "connected":
        clearTimeout(this.#heldTimer);
        this.session = message.session;
        this.#set("connected");
        break;
      case "ping":
        this.#send({ msg: "pong", id: message.id });
        break;
      case "result":
        this.#result(message);
        break;
      case "nosub":
        this.#subs.delete(message.id);
        break;
      case "changed":
        for (const sub of this.#subs.values()) {
          if (sub.name === message.collection && sub.event === message.fields?.eventName) sub.heard(...message.fields.args);
        }
        break;
    }
  }

  #result({ id, result, error }) {
    if (id === this.#loginId) {
      this.#loginId = null;
      if (error) {
        this.dispatchEvent(new CustomEvent("refused", { detail: error.reason }));
        return this.stop();
      }
      this.user = result.id;
      this.dispatchEvent(new Event("login"));
      for (const held of this.#held.splice(0)) this.#send(held);
      return;
    }
    const method = this.#methods.get(id);
    this.#methods.delete(id);
    if (error) method?.reject(new Error(error.reason ?? String(error.error)));
    else method?.resolve(result);
  }

  /** Starts the wait for the next message anew; silence is asked about once, then ended. */
  #listen() {
    clearTimeout(this.#quietTimer);
    this.#quietTimer = setTimeout(() => {
      this.#send({ msg: "ping" });
      this.#quietTimer = setTimeout(() => this.#transport?.close(), PONG_WITHIN);
    }, PING_AFTER);
  }

  #send(message) {
    this.#transport?.send(message);
  }

  #set(state, detail) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

// --- The page --------------------------------------------------------------------------------

const at = (id) => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};
const clock = (date, seconds) =>
  date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hour12: false });

const ddp = new Ddp();
let name = "";
let rooms = [];
let current = null;
let serving = null;
let servedSince = null;
let asking = false;
let looking;
let moves = 0;
let lostAt = null;
let reconnects = 0;
let typingSent = 0;
const typists = new Map();
const shown = new Set();
const endings = [];

function paint(avatar, who) {
  let hue = 0;
  for (const char of who) hue = (hue * 31 + char.codePointAt(0)) % 360;
  avatar.style.setProperty("--hue", hue);
  avatar.textContent = who.slice(0, 2).toUpperCase();
  return avatar;
}

function note(text, mood = "") {
  const line = make("li");
  line.append(make("time", "", clock(new Date(), true)), make("span", mood, text));
  at("events").prepend(line);
  while (at("events").children.length > 50) at("events").lastChild.remove();
}

// Messages

function show(message, { fresh = true } = {}) {
  if (message.rid !== current?._id) return;
  const known = document.getElementById(`m-${message._id}`);
  if (known) return known.classList.remove("pending");
  if (shown.has(message._id)) return;
  shown.add(message._id);
  const list = at("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  const who = message.u.username;
  const date = new Date(message.ts.$date);
  const item = make("div", "message");
  item.id = `m-${message._id}`;
  item.dataset.who = who;
  item.dataset.at = String(date.getTime());
  const last = list.lastElementChild;
  item.classList.toggle("follows", last?.dataset.who === who && date - Number(last.dataset.at) < 300_000);
  item.classList.toggle("fresh", fresh);
  item.classList.toggle("pending", Boolean(message.pending));
  const avatar = paint(make("span", "avatar"), who);
  avatar.ariaHidden = "true";
  const head = make("div", "head");
  const time = make("time", "", clock(date));
  time.dateTime = date.toISOString();
  head.append(make("span", "who", who), time);
  item.append(avatar, head, make("div", "body", message.msg));
  list.append(item);
  if (atEnd || who === name) list.scrollTop = list.scrollHeight;
}

async function loadHistory() {
  const room = current;
  const { messages } = await ddp.call("loadHistory", room._id);
  if (room !== current) return;
  for (const message of messages) show(message, { fresh: false });
  at("messages").scrollTop = at("messages").scrollHeight;
}

async function send(text) {
  const message = { _id: letters(17), rid: current._id, msg: text };
  show({ ...message, u: { username: name }, ts: { $date: Date.now() }, pending: true });
  try {
    await ddp.call("sendMessage", message);
    at(`m-${message._id}`)?.classList.remove("pending");
  } catch (fault) {
    at(`m-${message._id}`)?.classList.add("failed");
    note(`Not sent: ${fault.message}`, "bad");
  }
}

// Rooms

function enter(room) {
  if (room === current) return;
  current = room;
  room.unread = 0;
  shown.clear();
  typists.clear();
  at("messages").replaceChildren();
  at("room-name").textContent = room.name;
  at("room-topic").textContent = room.topic;
  listRooms();
  showTypists();
  loadHistory();
}

function listRooms() {
  const list = at("rooms");
  while (list.children.length < rooms.length) {
    const item = make("li");
    item.append(make("button"));
    list.append(item);
  }
  rooms.forEach((room, n) => {
    const button = list.children[n].firstChild;
    button.type = "button";
    button.replaceChildren(room.name);
    if (room.unread) {
      const badge = make("span", "unread", room.unread);
      badge.append(make("span", "hidden", " unread"));
      button.append(badge);
    }
    button.toggleAttribute("aria-current", room === current);
    if (room === current) button.setAttribute("aria-current", "true");
    button.onclick = () => {
      enter(room);
      at("text").focus();
    };
  });
}

async function openRooms() {
  rooms = await ddp.call("rooms/get");
  for (const room of rooms) {
    room.unread = 0;
    endings.push(
      ddp.subscribe("stream-room-messages", room._id, (message) => {
        typists.delete(`${room._id} ${message.u.username}`);
        showTypists();
        show(message);
        if (room !== current) {
          room.unread += 1;
          listRooms();
        }
      }),
      ddp.subscribe("stream-notify-room", `${room._id}/user-activity`, (who, activities) => {
        const key = `${room._id} ${who}`;
        clearTimeout(typists.get(key));
        if (activities.includes("user-typing")) typists.set(key, setTimeout(() => typists.delete(key) && showTypists(), 6000));
        else typists.delete(key);
        showTypists();
      }),
    );
  }
  enter(rooms[0]);
}

// Typing

function showTypists() {
  const prefix = `${current?._id} `;
  const who = [...typists.keys()].filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length));
  const verb = who.length === 1 ? "is" : "are";
  const text = who.length ? `${who.slice(0, 3).join(", ")}${who.length > 3 ? " and others" : ""} ${verb} typing…` : "";
  if (at("typing").textContent !== text) at("typing").textContent = text;
}

function tellTyping(on) {
  const now = Date.now();
  if (on ? now - typingSent < 3000 : typingSent === 0) return;
  typingSent = on ? now : 0;
  ddp.call("stream-notify-room", `${current._id}/user-activity`, name, on ? ["user-typing"] : [], {}).catch(() => {});
}

// The way of the messages

async function whoServes() {
  if (asking) return;
  asking = true;
  try {
    const from = performance.now();
    const { streamer } = await ddp.call("demo:whoami");
    at("trip").textContent = `${Math.max(1, Math.round(performance.now() - from))} ms`;
    served(streamer);
  } finally {
    asking = false;
  }
  await listStreamers();
}

function served(streamer) {
  const socket = `session ${ddp.session.slice(0, 8)}…, open since ${clock(ddp.since, true)}`;
  const kept = serving !== null && ddp.since === servedSince;
  if (!kept) moves = 0;
  if (streamer !== serving) {
    if (kept) moves += 1;
    note(kept ? `${streamer} serves you now, on the same socket: ${socket}` : `${streamer} serves you`, "good");
  }
  serving = streamer;
  servedSince = ddp.since;
  document.body.dataset.streamer = streamer;
  at("socket").textContent = `Your socket: ${socket}`;
  at("moved").textContent = moves === 0 ? "" : `, moved ${moves === 1 ? "once" : `${moves} times`}`;
}

async function listStreamers() {
  const answer = await fetch("demo/streamers", { cache: "no-store" });
  if (answer.ok) drawStreamers(await answer.json());
}

function streamerItem({ name, number }) {
  const item = make("li", "streamer");
  const switches = make("div", "switches");
  const [change, kill] = [make("button"), make("button", "", "Kill")];
  change.type = kill.type = "button";
  change.onclick = () => turn(number, name, item.dataset.state === "up" ? "drain" : "start");
  kill.onclick = () => turn(number, name, "stop");
  kill.setAttribute("aria-label", `Kill ${name}`);
  switches.append(change, kill);
  item.append(make("strong", "", name), make("span", "what"), switches);
  item.dataset.name = name;
  return item;
}

function drawStreamers(streamers) {
  const list = at("streamers");
  streamers.forEach((streamer, n) => {
    if (!list.children[n]) list.append(streamerItem(streamer));
    const item = list.children[n];
    const { state, sockets } = streamer;
    const up = state === "up" || state === "leaving";
    const mine = up && streamer.name === serving && ddp.state === "connected";
    item.dataset.state = state;
    item.classList.toggle("down", !up);
    item.classList.toggle("leaving", state === "leaving");
    item.classList.toggle("serving", mine);
    const people = sockets === 1 ? "1 socket" : `${sockets} sockets`;
    item.children[1].textContent = {
      up: mine ? `serves you, ${people}` : people,
      leaving: `${people} to hand over`,
      drained: "drained and stopped",
      killed: "killed",
    }[state];
    const [change, kill] = item.lastChild.children;
    change.textContent = { up: "Drain", leaving: "Keep" }[state] ?? "Bring back";
    change.setAttribute("aria-label", `${change.textContent} ${streamer.name}`);
    if (!up && document.activeElement === kill) change.focus();
    kill.hidden = !up;
  });
  // Who has been moved does not notice, unless he asks.
  const mine = streamers.find(({ name }) => name === serving);
  const left = mine && (mine.state === "drained" || (mine.state === "leaving" && mine.sockets === 0));
  clearTimeout(looking);
  if (left && ddp.state === "connected") whoServes().catch(() => {});
  else if (streamers.some(({ state }) => state === "leaving")) looking = setTimeout(() => listStreamers().catch(() => {}), 300);
}

async function turn(number, streamer, verb) {
  const [mood, text] = {
    drain: ["", `${streamer} hands its sockets to the others`],
    stop: ["bad", `${streamer} is killed`],
    start: ["good", `${streamer} is brought back`],
  }[verb];
  note(text, mood);
  const answer = await fetch(`demo/streamers/${number}/${verb}`, { method: "POST" });
  if (answer.ok) drawStreamers(await answer.json());
}

// State

const words = {
  offline: "offline",
  connecting: "connecting",
  held: "held by the gateway",
  connected: "connected",
  waiting: "waiting to reconnect",
};

ddp.addEventListener("state", ({ detail }) => {
  // A gap of a few milliseconds is shown too, but not announced twice.
  at("state").dataset.state = ddp.state;
  if (at("state").textContent !== words[ddp.state]) at("state").textContent = words[ddp.state];
  if (ddp.state === "waiting" && lostAt === null) {
    lostAt = performance.now();
    note(`Connection lost: ${detail.reason}`, "bad");
  }
  if (ddp.state === "held") note("No streamer is up: the gateway holds the connection");
});

ddp.addEventListener("login", async () => {
  if (at("chat").hidden) {
    at("welcome").hidden = true;
    at("chat").hidden = false;
    at("me").textContent = name;
    paint(at("me-avatar"), name);
    at("text").focus();
    sessionStorage.setItem("name", name);
    openRooms();
  } else if (current) {
    loadHistory();
  }
  if (lostAt !== null) {
    const gap = Math.round(performance.now() - lostAt);
    lostAt = null;
    reconnects += 1;
    at("reconnects").textContent = reconnects;
    at("gap").textContent = gap < 10_000 ? `${gap} ms` : `${Math.round(gap / 1000)} s`;
    note(`Back after ${at("gap").textContent}, subscriptions kept`, "good");
  }
  whoServes();
});

ddp.addEventListener("refused", ({ detail }) => leave(detail));

function leave(reason = "") {
  sessionStorage.removeItem("name");
  endings.length = 0;
  current = serving = servedSince = lostAt = null;
  at("rooms").replaceChildren();
  at("chat").hidden = true;
  at("welcome").hidden = false;
  at("login-fault").textContent = reason;
  at("name").focus();
}

function logIn(wish) {
  name = wish.trim().replace(/\s+/g, "-").replace(/[^\p{L}\p{N}._-]/gu, "");
  if (!name) {
    at("login-fault").textContent = "A name has letters or digits.";
    return;
  }
  at("login-fault").textContent = "";
  ddp.start(`demo-${name}`);
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn(at("name").value);
});

at("logout").addEventListener("click", () => {
  ddp.stop();
  leave();
});

at("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text) return;
  at("text").value = "";
  tellTyping(false);
  send(text);
});

at("text").addEventListener("input", () => tellTyping(at("text").value !== ""));

// Alt and an arrow change the room from wherever the focus is.
addEventListener("keydown", (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!event.altKey || !step || !current) return;
  event.preventDefault();
  enter(rooms[(rooms.indexOf(current) + step + rooms.length) % rooms.length]);
});

addEventListener("resize", () => (at("messages").scrollTop = at("messages").scrollHeight));

setInterval(() => {
  if (document.hidden || !current) return;
  if (ddp.state === "connected") whoServes().catch(() => {});
  else listStreamers().catch(() => {});
}, 3000);

at("origin").textContent = location.host;
at("transport").textContent = location.protocol === "https:" ? "DDP over SockJS, TLS" : "DDP over SockJS";
const remembered = sessionStorage.getItem("name");
if (remembered) logIn(remembered);
