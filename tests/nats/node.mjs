// A Moleculer node as Rocket.Chat's services are: protocol 4, EJSON, one service.
//
// Argument: JSON {url, namespace, host, address, service, events, serializer}. Orders come as lines on
// the standard input, a word and JSON, and each is answered by a line with JSON on the standard output.

import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import os from "node:os";
import { createInterface } from "node:readline";

const plan = JSON.parse(process.argv[2]);

// A host of its own, as a pod is: nodes tell the addresses and the name of theirs.
os.networkInterfaces = () => ({
  eth0: [{ family: "IPv4", address: plan.address, internal: false }],
});
os.hostname = () => plan.host;

const require = createRequire(import.meta.url);
const { ServiceBroker, Serializers } = require("moleculer");
const EJSON = require("ejson");

class EjsonSerializer extends Serializers.Base {
  serialize(packet) {
    return Buffer.from(EJSON.stringify(packet));
  }

  deserialize(payload) {
    return EJSON.parse(payload.toString());
  }
}

const complaints = [];
const complain = (...words) => complaints.push(words.map(String).join(" "));

const broker = new ServiceBroker({
  namespace: plan.namespace,
  nodeID: `${plan.host.toLowerCase()}-${randomUUID()}`,
  transporter: plan.url,
  serializer: plan.serializer ?? new EjsonSerializer(),
  heartbeatInterval: 1,
  heartbeatTimeout: 30,
  logger: {
    type: "Console",
    options: {
      level: "warn",
      colors: false,
      formatter: (type, words) => [`${type} ${words.join(" ")}`],
      objectPrinter: String,
    },
  },
});
console.log = console.warn = console.error = complain;

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

const orders = {
  /** Ends the service, and leaves the node on the bus. */
  async close() {
    await broker.destroyService(broker.getLocalService(plan.service));
    return {};
  },
  /** As Rocket.Chat does when it gets SIGTERM. */
  async stop() {
    await broker.stop();
    return {};
  },
  /** Who is on the bus as this node sees it, and what it had to complain about. */
  async look() {
    return { nodes: broker.registry.nodes.list({}).map((node) => node.id), complaints };
  },
  /** Tells all services, as Rocket.Chat's `api.broadcast` does: the arguments are one array. */
  async broadcast({ event, args }) {
    await broker.broadcast(event, args);
    return {};
  },
  /** Heartbeats say that this is how busy the machine is, in percent. */
  async cpu(percent) {
    broker.getCpuUsage = async () => ({ avg: percent });
    return {};
  },
};

broker.createService({
  name: plan.service,
  settings: { since: new Date() },
  actions: { x: () => "y" },
  events: Object.fromEntries(plan.events.map((name) => [name, () => {}])),
});
await broker.start();
say({ id: broker.nodeID });
for await (const order of createInterface({ input: process.stdin })) {
  const [name, argument] = order.split(/ (.*)/);
  say(await orders[name](argument && JSON.parse(argument)));
}
process.exit(0);
